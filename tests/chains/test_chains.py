"""Commands one after the other: what each writes is a model like any other, and what was said of it."""

from __future__ import annotations

from collections.abc import Callable

import onnx
import pytest

from tests.builders import residual_net
from tests.chains.chains import images, run, run_chain
from tests.chains.graphs import random_model
from tests.graph.test_names import heads, shared

pytest.importorskip("onnxsim", reason="the extra [test] is not installed")
pytest.importorskip("onnxslim", reason="the extra [test] is not installed")
pytest.importorskip("torch", reason="the extra [torch] is not installed")

# Simplifiers and exporters of others warn about what they will change one day.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore::{name}")
    for name in ("DeprecationWarning", "UserWarning")
]

#: Three rounds of pruning and simplifying, then integers, simplified and pruned again.
ROUNDS = (*("prune", "onnxslim", "onnxsim") * 3, "quantize", "prune", "onnxslim", "prune")


def declared(graph: onnx.ModelProto, axes: int) -> onnx.ModelProto:
    """The model with as many axes for its output: simplifiers take nothing else."""
    output = graph.graph.output[0]
    output.CopyFrom(
        onnx.helper.make_tensor_value_info(
            output.name, onnx.TensorProto.FLOAT, [None] * axes
        )
    )
    return graph


NETS: dict[str, Callable[[], onnx.ModelProto]] = {
    "residual": lambda: declared(residual_net(width=16).model, 2),
    "shared bias": lambda: declared(shared().model, 2),
    "dynamic": lambda: declared(heads().model, 3),
    **{f"random {seed}": lambda seed=seed: random_model(seed) for seed in (2, 4, 5, 6)},  # type: ignore[misc]
}


@pytest.mark.parametrize("net", NETS)
def test_pruned_and_simplified_again_and_again(net: str) -> None:
    chain = run_chain(0, ROUNDS, NETS[net]())
    assert not chain.failure, f"{chain.steps}: {chain.failure}"
    assert not [step for step in chain.steps if "refused" in step], chain.steps


@pytest.mark.parametrize("seed", [0, 2, 4, 5, 6, 7, 9, 10, 11])
def test_random_chains(seed: int) -> None:
    chain = run_chain(seed)
    assert not chain.failure, f"{chain.steps}: {chain.failure}"


@pytest.mark.often
@pytest.mark.parametrize("seed", range(1000, 1500))
def test_many_random_chains(seed: int) -> None:
    chain = run_chain(seed)
    assert not chain.failure, f"{chain.steps}: {chain.failure}"


def test_random_models_run() -> None:
    """They have what simplifiers, quantization and decomposition look for."""
    ops: set[str] = set()
    for seed in range(40):
        model = random_model(seed)
        run(model, images())
        ops.update(node.op_type for node in model.graph.node)
    assert ops >= {
        "Conv",
        "BatchNormalization",
        "Gemm",
        "MatMul",
        "If",
        "Loop",
        "Scan",
        "Split",
        "Concat",
        "Reshape",
    }

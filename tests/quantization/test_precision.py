"""Floats of 16 bits: what is in them, what stays, and that the error that is told is the one a user sees."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner

import prunegraph as pg
from prunegraph.cli import main
from prunegraph.errors import ModelError, OptionError, UnknownNameError
from prunegraph.quantization import precision
from prunegraph.quantization.precision import DTYPES, ELEMENTS, to_dtype
from prunegraph.rewriting.rewriter import Rewriter
from prunegraph.runtime.data import random_inputs
from tests.builders import Builder, residual_net
from tests.paths import FIXTURES
from tests.quantization.networks import random_net, samples

FASHION = FIXTURES / "fashion_resnet.onnx"

Array = np.ndarray


def images(count: int) -> dict[str, Array]:
    return {"image": np.load(FIXTURES / "fashion_eval.npz")["image"][:count]}


def outputs(path: Path, inputs: dict[str, Array]) -> list[Array]:
    """What a user's session computes."""
    return onnxruntime.InferenceSession(path).run(None, inputs)


def kinds(path: Path) -> dict[str, int]:
    """Elements of weights by their type."""
    result: dict[str, int] = {}
    for tensor in onnx.load(path).graph.initializer:
        name = onnx.TensorProto.DataType.Name(tensor.data_type)
        result[name] = result.get(name, 0) + int(np.prod(tensor.dims))
    return result


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_trained_network(dtype: str, tmp_path: Path) -> None:
    """Half of the bytes, inputs and outputs of 32 bits, and the error that the report tells."""
    inputs, path = images(8), tmp_path / "half.onnx"
    result = to_dtype(pg.load(FASHION), dtype, inputs)
    pg.save(result.model, path)
    held = kinds(path)
    assert held[dtype.upper()] > 20 * held.get("FLOAT", 0)
    assert path.stat().st_size < 0.56 * FASHION.stat().st_size
    first, second = (
        [outputs(each, {"image": image[None]})[0] for image in inputs["image"]]
        for each in (FASHION, path)
    )
    assert second[0].dtype == np.float32
    far = np.abs(np.subtract(first, second)).max() / np.abs(first).max()
    assert result.differences["logits"] == pytest.approx(far, rel=1e-4)
    assert 0 < far < 0.005
    assert result.outputs["logits"] > 45
    assert result.samples == 8
    # And any number of images still goes in.
    assert outputs(path, images(5))[0].shape == (5, 10)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", range(4))
def test_random_networks(seed: int, dtype: str, tmp_path: Path) -> None:
    graph, inputs = random_net(seed), samples(4)
    result = to_dtype(graph, dtype, inputs)
    pg.save(graph, tmp_path / "whole.onnx")
    pg.save(result.model, tmp_path / "half.onnx")
    first, second = (
        outputs(tmp_path / f"{name}.onnx", inputs)[0] for name in ("whole", "half")
    )
    assert np.abs(first - second).max() <= 0.02 * np.abs(first).max()
    assert (first != second).any()


def test_bfloat16_weights_are_the_rounded_ones() -> None:
    graph = residual_net(width=32)
    result = to_dtype(graph, "bfloat16").model
    pairs = 0
    for old, new in zip(graph.layers, result.layers, strict=True):
        whole = graph.weights[str(graph.main_weight(old))].read()
        held = result.weights[str(result.main_weight(new))].read()
        assert (held.dtype.name == "bfloat16") == (whole.size >= ELEMENTS)
        bits = whole.view(np.uint32)
        # Round to nearest, ties to even, of the upper half.
        rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).view(np.float32)
        if held.dtype.name == "bfloat16":
            np.testing.assert_array_equal(held.astype(np.float32), rounded)
            pairs += 1
    assert pairs > 3


def test_a_network_in_bfloat16_is_pruned_like_any_other() -> None:
    result = to_dtype(residual_net(width=32), "bfloat16").model
    pruned = pg.prune(result, budget=pg.Budget(macs=0.5))
    assert pruned.proof is not None
    assert pruned.after.macs <= 0.5 * pruned.before.macs


def large_net() -> pg.Graph:
    """A network whose inner values leave float16's range and come back."""
    b = Builder()
    x = b.relu(b.conv(b.input("n", 3, 8, 8), 3, 16))
    y = b.op("Mul", x, b.const(1e6, np.float32), name="grow")
    z = b.op("Mul", y, b.const(1e-6, np.float32), name="shrink")
    return b.graph(b.head(b.conv(z, 16, 16, name="last"), 16))


def test_what_leaves_the_range_stays_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = large_net()
    result = to_dtype(graph, "float16", samples(4))
    assert set(result.kept) == {"grow", "shrink"}
    assert all("values above" in reason for reason in result.kept.values())
    assert max(result.differences.values()) < 0.005
    monkeypatch.setattr(precision, "_kept", lambda *_: {})
    careless = to_dtype(graph, "float16", samples(4))
    assert max(careless.differences.values()) > 0.1


def test_outputs_that_overflow_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(graph: pg.Graph, kept: object) -> pg.Graph:
        rewriter = Rewriter(graph)
        bias = graph.node("head").inputs[2]
        rewriter.set_weight(bias, np.full_like(graph.weights[bias].read(), np.inf))
        return rewriter.finish()

    monkeypatch.setattr(precision, "_float16", broken)
    with pytest.raises(ModelError, match=r"output 'head\.out' overflows in 16 bits"):
        to_dtype(residual_net(), "float16")


@pytest.mark.parametrize("dtype", DTYPES)
def test_layers_that_are_named_stay(dtype: str) -> None:
    graph = large_net()
    result = to_dtype(graph, dtype, samples(2), float_layers=["last"])
    assert result.kept["last"] == "asked for"
    kept = result.model.weights[str(result.model.main_weight(result.model.node("last")))]
    assert kept.tensor.data_type == onnx.TensorProto.FLOAT


def test_what_cannot_be_converted() -> None:
    graph = residual_net()
    with pytest.raises(UnknownNameError, match="dtype 'float61', did you mean 'float16'"):
        to_dtype(graph, "float61")
    with pytest.raises(OptionError, match="one of quantize and dtype"):
        pg.prune(
            graph,
            budget=pg.Budget(ratio=0.5),
            data=random_inputs(graph, batch=2),
            quantize="int8",
            dtype="float16",
        )
    quantized = pg.quantize(random_net(0), samples()).model
    with pytest.raises(ModelError, match="is quantized; give the float model"):
        to_dtype(quantized, "float16")
    b = Builder()
    bare = b.graph(b.relu(b.input("n", 4)))
    with pytest.raises(ModelError, match="no float32 that could become bfloat16"):
        to_dtype(bare, "bfloat16")


def test_what_does_not_run_is_not_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(precision, "_sort", lambda *_: None)
    with pytest.raises(ModelError, match="cannot load it"):
        pg.prune(
            residual_net(),
            tmp_path / "half.onnx",
            budget=pg.Budget(ratio=0.5),
            dtype="float16",
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", DTYPES)
def test_commands(dtype: str, tmp_path: Path) -> None:
    model, plan = tmp_path / "model.onnx", tmp_path / "plan.json"
    pg.save(residual_net(width=32), model)
    pg.select(pg.load(model), budget=pg.Budget(macs=0.5)).save(plan)
    for words in (
        f"convert {model} -o {tmp_path}/half.onnx --dtype {dtype} --float head",
        f"prune {model} -o {tmp_path}/half.onnx --macs 0.5 --dtype {dtype}",
        f"apply {model} {plan} -o {tmp_path}/half.onnx --dtype {dtype}",
        f"decompose {model} -o {tmp_path}/half.onnx --rank ratio:0.5 --dtype {dtype}",
        f"compress {model} -o {tmp_path}/half.onnx --params 0.6 --dtype {dtype}",
    ):
        done = CliRunner().invoke(main, [*words.split(), "--json"])
        assert done.exit_code == 0, done.output
        told = json.loads(done.stdout)["precision"]
        assert told["dtype"] == dtype
        assert 0 < max(told["differences"].values()) < 0.02
        assert f"{dtype}: {told['converted']} " in " ".join(done.stderr.split())
        assert dtype.upper() in kinds(tmp_path / "half.onnx")
    done = CliRunner().invoke(
        main, f"convert {model} -o {tmp_path}/x.onnx --float head".split()
    )
    assert done.exit_code == 2
    assert "for --dtype" in done.stderr


@pytest.mark.parametrize("dtype", DTYPES)
def test_results_in_python(dtype: str, tmp_path: Path) -> None:
    """What other functions make is made first in the model's own type: the same cut, by the same figures."""
    graph, data = residual_net(width=32), samples(8)
    searched = pg.search(graph, data=data, tolerance=0.5, method="bisection", jobs=1)
    halved = pg.search(
        graph, data=data, tolerance=0.5, method="bisection", jobs=1, dtype=dtype
    )
    assert halved.trace == searched.trace
    assert halved.result.plan.remove == searched.result.plan.remove
    compressed = pg.compress(graph, params=0.6, data=data, dtype=dtype)
    for result in (halved.result, compressed):
        assert result.precision is not None
        assert result.precision.dtype == dtype and result.precision.samples == 8
        path = tmp_path / "result.onnx"
        pg.save(result.model, path)
        assert dtype.upper() in kinds(path)
    for call in (
        lambda: pg.search(graph, data=data, tolerance=1, dtype="float8"),
        lambda: pg.compress(graph, params=0.6, dtype="float8"),
    ):
        with pytest.raises(UnknownNameError, match="float8"):
            call()
    with pytest.raises(OptionError, match="one of quantize and dtype"):
        pg.compress(graph, params=0.6, data=data, quantize="int8", dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_model_in_16_bits_already(dtype: str, tmp_path: Path) -> None:
    once = to_dtype(pg.load(FASHION), "float16").model
    path = tmp_path / "half.onnx"
    proto = once.to_model()
    pg.save(once, path)
    half = [t for t in proto.graph.initializer if t.data_type == onnx.TensorProto.FLOAT16]
    assert len(half) == len(proto.graph.initializer)
    with pytest.raises(ModelError, match=f"has no float32 that could become {dtype}"):
        to_dtype(pg.load(path), dtype)


@pytest.mark.parametrize("op", ["Celu", "Mish", "HardSwish"])
def test_an_operator_that_the_standard_has_in_float32_alone(
    op: str, tmp_path: Path
) -> None:
    b = Builder(0, opset=18)
    x = b.op(op, b.conv(b.input("n", 3, 8, 8), 3, 8), name="act")
    graph, path = b.graph(b.head(b.conv(x, 8, 8), 8)), tmp_path / "half.onnx"
    result = to_dtype(graph, "float16")
    assert ("act" in result.kept) == (op == "Celu")
    pg.save(result.model, path)
    inputs = random_inputs(graph, batch=1)
    assert np.isfinite(outputs(path, inputs)[0]).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_outputs_that_are_no_numbers_measure_nothing(dtype: str) -> None:
    b = Builder(0)
    x = b.op("Abs", b.conv(b.input("n", 3, 8, 8), 3, 16))
    x = b.op("Sqrt", b.op("Sub", b.op("Neg", x), b.const(1.0, np.float32)))
    graph = b.graph(b.head(x, 16))
    with pytest.raises(ModelError, match="not a number all over before the conversion"):
        to_dtype(graph, dtype)

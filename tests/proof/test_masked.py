"""The masked original, against numpy and against what a file may hold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

import prunegraph as pg
from prunegraph.graph.onnx_io import load
from prunegraph.masked.original import fresh_names, write_masked
from prunegraph.runtime.session import run, session
from prunegraph.selection.plan import make_plan, survivors
from tests.builders import Builder
from tests.oracle import random_plan

Array = np.ndarray


def masked_outputs(
    graph: pg.Graph, plan: pg.Plan, inputs: dict[str, Array], folder: Path
) -> list[Array]:
    write_masked(survivors(pg.analyze(graph), plan), plan.cuts, folder / "masked.onnx")
    return run(session(folder / "masked.onnx", optimized=False), inputs)


# -- statistics over the survivors, computed by numpy on what survives ---------------------


def layer_norm(x: Array) -> Array:
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)


def rms(x: Array) -> Array:
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5)


def reduced(b: Builder, op: str, x: str) -> str:
    """A reduction over the last axis."""
    if b.opset >= 18:
        return b.op(op, x, b.const([-1], np.int64), keepdims=1)
    return b.op(op, x, axes=[-1], keepdims=1)


def write_layer_norm(b: Builder, x: str) -> str:
    return b.op(
        "LayerNormalization",
        x,
        b.const(np.ones(8), np.float32),
        b.const(np.zeros(8), np.float32),
        axis=-1,
    )


def write_centred(b: Builder, x: str) -> str:
    """A layer normalisation taken apart, as exporters write it."""
    centred = b.op("Sub", x, reduced(b, "ReduceMean", x))
    variance = reduced(b, "ReduceMean", b.op("Mul", centred, centred))
    return b.op(
        "Div", centred, b.op("Sqrt", b.op("Add", variance, b.const(1e-5, np.float32)))
    )


def write_rms(b: Builder, x: str) -> str:
    mean = reduced(b, "ReduceMean", b.op("Mul", x, x))
    return b.op("Div", x, b.op("Sqrt", b.op("Add", mean, b.const(1e-5, np.float32))))


def gated_by(op: str) -> Callable[[Builder, str], str]:
    return lambda b, x: b.op("Mul", x, reduced(b, op, x))


FORMS: dict[str, tuple[Callable[[Builder, str], str], Callable[[Array], Array]]] = {
    "LayerNormalization": (write_layer_norm, layer_norm),
    "layer normalisation taken apart": (write_centred, layer_norm),
    "RMS taken apart": (write_rms, rms),
    "ReduceMean": (gated_by("ReduceMean"), lambda x: x * x.mean(-1, keepdims=True)),
    "ReduceMax": (gated_by("ReduceMax"), lambda x: x * x.max(-1, keepdims=True)),
    "ReduceMin": (gated_by("ReduceMin"), lambda x: x * x.min(-1, keepdims=True)),
    "ReduceL2": (
        gated_by("ReduceL2"),
        lambda x: x * np.sqrt((x * x).sum(-1, keepdims=True)),
    ),
    "Relu": (lambda b, x: b.relu(x), lambda x: np.maximum(x, 0)),
}


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=5)
@given(
    seed=st.integers(0, 2**16),
    gone=st.sets(st.integers(0, 7), min_size=1, max_size=6),
    opset=st.sampled_from([17, 18]),
)
def test_numpy_agrees(
    form: str,
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    gone: set[int],
    opset: int,
) -> None:
    write, compute = FORMS[form]
    b = Builder(seed, opset=opset)
    first, second, bias = b.weight(5, 8), b.weight(8, 3), b.weight(8)
    hidden = b.op("Add", b.op("MatMul", b.input("n", 5), first), bias)
    graph = b.graph(b.op("MatMul", write(b, hidden), second))
    plan = make_plan(pg.analyze(graph), {"g0": sorted(gone)})
    x = np.random.default_rng(seed).standard_normal((4, 5)).astype(np.float32)
    stay = [c for c in range(8) if c not in gone]
    w, c, v = (graph.weights[name].read() for name in (first, bias, second))
    expected = compute(x @ w[:, stay] + c[stay]) @ v[stay]
    (match,) = masked_outputs(graph, plan, {"x": x}, tmp_path_factory.mktemp("masked"))
    np.testing.assert_allclose(match, expected, rtol=1e-4, atol=1e-4 * abs(expected).max())


# -- what files hold ----------------------------------------------------------------------


def hostile_names() -> pg.Graph:
    """Names that begin as those of the masked original do, also in a subgraph."""
    b = Builder()
    x = b.relu(
        b.op(
            "Conv", b.input("n", 3, 4, 4), b.weight(8, 3, 1, 1), b.weight(8), name="masked"
        )
    )
    body = helper.make_graph(
        [helper.make_node("Relu", [x], ["masked_:0"], name="masked_:1")],
        "body",
        [],
        [helper.make_tensor_value_info("masked_:0", onnx.TensorProto.FLOAT, None)],
    )
    condition = b.op(
        "Greater",
        b.op("ReduceSum", "x", keepdims=0),
        b.const(0.0, np.float32),
        name="masked:0",
    )
    y = b.op("If", condition, then_branch=body, else_branch=body, name="masked:1")
    return b.graph(b.op("Conv", y, b.weight(4, 8, 1, 1)))


def test_names_that_are_taken(tmp_path: Path) -> None:
    graph = hostile_names()
    plan = random_plan(pg.analyze(graph))
    assert not fresh_names(graph.model)().startswith(("masked:", "masked_:"))
    assert pg.verify(graph, plan, pg.apply(graph, plan)).relative < 1e-5


def test_external_weights_are_streamed_and_whole_ones_dropped(tmp_path: Path) -> None:
    b = Builder()
    x = b.op("MatMul", b.input("n", 32), b.weight(32, 64))
    graph = b.graph(b.op("MatMul", b.relu(x), b.weight(64, 48)))
    onnx.save(
        graph.model,
        tmp_path / "m.onnx",
        save_as_external_data=True,
        size_threshold=0,
        location="m.bin",
    )
    graph = load(tmp_path / "m.onnx")
    plan = random_plan(pg.analyze(graph))
    write_masked(survivors(pg.analyze(graph), plan), plan.cuts, tmp_path / "masked.onnx")
    # Not twice as large: a weight that nothing reads whole any more is not written.
    assert (tmp_path / "masked.onnx.data").stat().st_size <= 1.5 * (
        tmp_path / "m.bin"
    ).stat().st_size
    assert pg.verify(graph, plan, pg.apply(graph, plan)).relative < 1e-5


def test_old_files_declare_their_weights_as_inputs() -> None:
    b = Builder(opset=8, ir_version=3)
    x = b.relu(b.conv(b.input("n", 3, 4, 4), 3, 8))
    graph = b.graph(b.conv(x, 8, 4))
    for tensor in graph.model.graph.initializer:
        entry = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        graph.model.graph.input.append(entry)
    graph = pg.load(graph.model)
    plan = random_plan(pg.analyze(graph))
    assert pg.verify(graph, plan, pg.apply(graph, plan)).relative < 1e-5


def test_weights_of_constant_nodes() -> None:
    b = Builder()
    x = b.relu(b.conv(b.input("n", 3, 4, 4), 3, 8))
    model = b.graph(b.conv(x, 8, 4)).model
    constants = [
        helper.make_node("Constant", [], [t.name], value=t) for t in model.graph.initializer
    ]
    nodes = [*constants, *model.graph.node]
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.node.extend(nodes)
    graph = pg.load(model)
    plan = random_plan(pg.analyze(graph))
    assert plan.remove and pg.verify(graph, plan, pg.apply(graph, plan)).relative < 1e-5

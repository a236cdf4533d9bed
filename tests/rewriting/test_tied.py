"""Copies of a table of tokens: one weight in the file, and the same numbers."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import prunegraph as pg
from prunegraph.errors import ExactnessError
from prunegraph.graph.model import Graph
from prunegraph.rewriting.tied import tie_copies
from prunegraph.runtime.session import run, session
from tests.builders import Builder
from tests.commands import cli

TOKENS, STREAM = 64, 300


def language_model(copy: str = "turned", kind: type = np.float32, opset: int = 18) -> Graph:
    """An embedding, a layer, and an output layer that is a copy of the embedding as an exporter writes it."""
    b = Builder(opset=opset)
    table = b.rng.standard_normal((TOKENS, STREAM)).astype(kind)
    x = b.op(
        "Gather",
        b.const(table),
        b.input("batch", "length", name="ids", kind=7),
        name="embedding",
    )
    inner = b.op("Relu", b.op("MatMul", x, _weight(b, (STREAM, 32), kind), name="up"))
    x = b.op("Add", x, b.op("MatMul", inner, _weight(b, (32, STREAM), kind), name="down"))
    other = np.ascontiguousarray(table.T)
    if copy == "unlike":
        other[3, 5] += 1
    head = (
        b.op("Transpose", b.const(table.copy()), perm=[1, 0])
        if copy == "equal"
        else b.const(other)
    )
    y = b.op("MatMul", x, head, name="head")
    model = b.model(y)
    model.graph.output[0].type.tensor_type.elem_type = onnx.helper.np_dtype_to_tensor_dtype(
        np.dtype(kind)
    )
    return pg.load(model)


def _weight(b: Builder, shape: tuple[int, int], kind: type) -> str:
    return b.const((b.rng.standard_normal(shape) / 10).astype(kind))


def large(graph: Graph) -> list[tuple[int, ...]]:
    return [weight.shape for weight in graph.weights.values() if weight.size > 15_000]


def same(first: Graph, second: Graph) -> None:
    """The same outputs, to the bit, in a session as users open it and in one without optimizations."""
    feed = {"ids": np.random.default_rng(0).integers(0, TOKENS, (2, 5))}
    for fast in (True, False):
        [before], [after] = (
            run(session(graph, fast=fast), feed) for graph in (first, second)
        )
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("copy", ["turned", "equal"])
@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_a_copy_is_the_table_again(copy, kind):
    graph = language_model(copy, kind)
    assert len(large(graph)) == 2
    tied = tie_copies(graph, least=0)
    assert large(tied) == [(TOKENS, STREAM)]
    same(graph, tied)


def test_what_is_no_copy_stays():
    graph = language_model("unlike")
    assert tie_copies(graph, least=0) is graph
    small = language_model()
    assert tie_copies(small, least=1 << 20) is small


def test_a_copy_that_is_an_output_stays():
    graph = language_model()
    [name] = [n for n, w in graph.weights.items() if w.shape == (STREAM, TOKENS)]
    model = onnx.ModelProto.FromString(graph.model.SerializeToString())
    model.graph.output.append(onnx.helper.make_tensor_value_info(name, 1, [STREAM, TOKENS]))
    graph = pg.load(model)
    assert tie_copies(graph, least=0) is graph


def test_a_pruned_model_holds_its_table_once(tmp_path):
    """Channels of the stream go from both copies; the file has one, and is still proved by the plan."""
    pg.save(language_model(), tmp_path / "model.onnx")
    words = "prune model.onnx -o small.onnx --ratio 0.5 --save-plan plan.json"
    done = cli(*words.split(), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    small = pg.load(tmp_path / "small.onnx")
    [(tokens, stream)] = [w.shape for w in small.weights.values() if TOKENS in w.shape]
    assert (tokens, stream) == (TOKENS, 152)
    done = cli("verify", "model.onnx", "plan.json", "small.onnx", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    # A wrong table is still noticed, through the Transpose.
    [name] = [n for n, w in small.weights.items() if TOKENS in w.shape]
    for tensor in small.model.graph.initializer:
        if tensor.name == name:
            values = small.weights[name].read()[:, ::-1]
            tensor.CopyFrom(
                onnx.numpy_helper.from_array(np.ascontiguousarray(values), name)
            )
    with pytest.raises(ExactnessError):
        pg.verify(
            pg.load(tmp_path / "model.onnx"),
            pg.Plan.load(tmp_path / "plan.json"),
            pg.load(small.model),
        )


def test_copies_that_were_refitted_part_ways():
    """Least squares fits the output layer: it is no copy any more, and both are written."""
    graph = language_model()
    data = {"ids": np.random.default_rng(0).integers(0, TOKENS, (64, 8))}
    result = pg.prune(graph, data=data, budget=pg.Budget(ratio=0.5))
    shapes = [w.shape for w in result.model.weights.values() if TOKENS in w.shape]
    assert len(shapes) == 2


def test_fewer_tokens_stay_tied():
    graph = language_model()
    result = pg.prune(graph, vocabulary=range(60), budget=pg.Budget(ratio=0))
    shapes = [w.shape for w in result.model.weights.values() if 60 in w.shape]
    assert shapes == [(60, STREAM)]


def test_a_copy_that_loses_nothing_is_not_refitted():
    """Channels of the inner layer go, with data: the output layer still is the table."""
    graph = language_model()
    data = {"ids": np.random.default_rng(0).integers(0, TOKENS, (64, 8))}
    result = pg.prune(graph, data=data, budget=pg.Budget(ratio=0.5), keep=["down"])
    assert result.after.macs < result.before.macs
    shapes = [w.shape for w in result.model.weights.values() if TOKENS in w.shape]
    assert shapes == [(TOKENS, STREAM)]

"""Shapes: what a file says of its values, symbols, and numbers that come from sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import prunegraph as pg
from prunegraph.graph.model import Graph
from prunegraph.graph.onnx_io import from_model
from prunegraph.runtime.data import random_inputs
from prunegraph.runtime.session import run, session
from tests.builders import Builder
from tests.oracle import prove

INT, FLOAT = TensorProto.INT64, TensorProto.FLOAT
SEVEN = numpy_helper.from_array(np.asarray([7], np.int64))


def untyped(b: Builder, *outputs: str) -> Graph:
    """A graph whose outputs are of any type."""
    model = b.model(*outputs)
    for entry in model.graph.output:
        entry.ClearField("type")
    return from_model(model)


# -- numbers that come from sizes and that a caller reads ------------------------------------


def _chosen(b: Builder, nodes: Sequence[Sequence[onnx.NodeProto]]) -> str:
    """Nodes in one of two branches, chosen at run time; the last ones make `o0` and `o1`."""
    outputs = [helper.make_tensor_value_info(f"o{which}", INT, [4]) for which in (0, 1)]
    bodies = [helper.make_graph(body, f"branch{which}", [], [outputs[which]]) for which, body in enumerate(nodes)]
    condition = b.op("Greater", b.op("ReduceMean", b.inputs[0].name, keepdims=0), b.const(0, np.float32))
    return b.op("If", condition, then_branch=bodies[0], else_branch=bodies[1])


def _branch(b: Builder, r: str) -> str:
    """Branches that read a shape from outside."""
    size = b.op("Shape", r, name="outer_shape")
    other = b.const([3, 5, 7, 11], np.int64)
    return _chosen(b, [[helper.make_node("Mul", [size, x], [f"o{which}"])] for which, x in enumerate((other, size))])


def _inside(b: Builder, r: str) -> str:
    """Branches that take the shape themselves."""
    shape = [helper.make_node("Shape", [r], [f"s{which}"]) for which in (0, 1)]
    doubled = [helper.make_node("Add", [f"s{which}", f"s{which}"], [f"o{which}"]) for which in (0, 1)]
    return _chosen(b, list(zip(shape, doubled, strict=True)))


def _one(b: Builder, r: str, axis: int) -> str:
    return b.op("Gather", b.op("Shape", r), b.const(axis, np.int64))


READ: dict[str, Callable[[Builder, str], str]] = {
    "shape": lambda b, r: b.op("Shape", r),
    "part of a shape": lambda b, r: b.op("Shape", r, start=1, end=3),
    "size": lambda b, r: b.op("Size", r),
    "channels": lambda b, r: _one(b, r, 1),
    "samples": lambda b, r: _one(b, r, 0),
    "product": lambda b, r: b.op("Mul", _one(b, r, 0), _one(b, r, 1)),
    "sum": lambda b, r: b.op("Add", _one(b, r, 0), _one(b, r, 1)),
    "difference of products": lambda b, r: b.op("Sub", b.op("Size", r), _one(b, r, 0)),
    "root": lambda b, r: b.op("Sqrt", b.op("Cast", b.op("Size", r), to=FLOAT)),
    "comparison": lambda b, r: b.op("Greater", b.op("Size", r), b.const(1500, np.int64)),
    "remainder": lambda b, r: b.op("Mod", b.op("Size", r), b.const(1000, np.int64)),
    "filled": lambda b, r: b.op("ConstantOfShape", b.op("Shape", r), value=SEVEN),
    "filled with floats": lambda b, r: b.op("ConstantOfShape", b.op("Shape", r)),
    "range": lambda b, r: b.op("Range", b.const(0, np.int64), _one(b, r, 1), b.const(1, np.int64)),
    "range of both": lambda b, r: b.op(
        "Range", b.const(0, np.int64), b.op("Add", _one(b, r, 0), _one(b, r, 1)), b.const(1, np.int64)
    ),
    "branch outside": _branch,
    "branch inside": _inside,
}  # fmt: skip


def _network(read: Callable[[Builder, str], str], batch: int | str) -> Graph:
    b = Builder()
    x = b.input(batch, 3, 6, 6)
    r = b.relu(b.conv(x, 3, 16, name="a"))
    y = b.conv(b.relu(b.conv(r, 16, 12, name="b")), 12, 4, name="c")
    return untyped(b, y, read(b, r))


@pytest.mark.parametrize("batch", [2, "n"])
@pytest.mark.parametrize("what", READ)
def test_numbers_from_sizes_keep_their_values_for_a_caller(what: str, batch: int | str) -> None:
    graph = _network(READ[what], batch)
    small, proof = prove(graph)
    assert proof.relative <= 1e-4
    assert {name for g in pg.analyze(graph).groups for name in g.layers} == {"a", "b"}
    for samples in (2, 5) if batch == "n" else (2,):
        feeds = random_inputs(graph, seed=samples, batch=samples)
        _, wanted = run(session(graph, fast=False), feeds)
        _, value = run(session(small, fast=False), feeds)
        np.testing.assert_array_equal(value, wanted)


@pytest.mark.parametrize("batch", [2, "n"])
def test_a_shape_is_read_by_a_caller_and_by_the_graph(batch: int | str) -> None:
    """The caller's keeps its value, the graph's own reader needs the sizes as they are now."""
    b = Builder()
    r = b.relu(b.conv(b.input(batch, 3, 6, 6), 3, 16, name="a"))
    shape = b.op("Shape", r)
    flat = b.op("Reshape", r, b.op("Concat", b.op("Slice", shape, b.const([0]), b.const([2])), b.const([-1]), axis=0))
    y = b.conv(b.op("Reshape", flat, shape), 16, 4, name="b")
    graph = untyped(b, y, shape)
    small, proof = prove(graph)
    assert proof.relative <= 1e-4
    assert [g.channels for g in pg.analyze(graph).groups] == [16]
    feeds = random_inputs(graph, batch=2)
    assert run(session(small, fast=False), feeds)[1].tolist() == [2, 16, 6, 6]

"""The proof is independent of the cut: the cut is broken in many ways, and every broken result is noticed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import prunegraph as pg
from prunegraph.errors import ExactnessError, ModelError
from prunegraph.rewriting import cut as cutting
from prunegraph.rewriting.cut import NodeEdit
from prunegraph.rewriting.weights import WeightEditor
from tests.builders import Builder, residual_net
from tests.oracle import random_plan

Axes = list[np.ndarray | None]
Patch = pytest.MonkeyPatch


# -- graphs -----------------------------------------------------------------------------


def shared_bias_net() -> pg.Graph:
    """One bias for two convolutions that lose different channels; another tensor of the same shape."""
    b = Builder()
    bias = b.weight(8)
    x = b.relu(b.op("Conv", b.input("n", 3, 8, 8), b.weight(8, 3, 1, 1), bias))
    x = b.relu(b.op("Conv", x, b.weight(8, 8, 1, 1), bias))
    x = b.relu(b.op("Conv", x, b.weight(8, 8, 1, 1), b.weight(8)))
    return b.graph(b.op("Conv", x, b.weight(4, 8, 1, 1)))


def tied_matrix_net() -> pg.Graph:
    """A square matrix that two layers share on purpose, and a scale for each channel."""
    b = Builder()
    x = b.op("MatMul", b.input("n", 6), b.weight(6, 8))
    matrix = b.weight(8, 8)
    x = b.op("Add", x, b.op("MatMul", b.relu(x), matrix))
    x = b.op("Mul", b.op("MatMul", b.relu(x), matrix), b.weight(8, scale=1.0))
    return b.graph(b.op("MatMul", b.relu(x), b.weight(8, 3)))


def grouped_net() -> pg.Graph:
    """Groups, a split, a shuffle and a normalisation over channels."""
    b = Builder(opset=18)
    x = b.relu(b.conv(b.input("n", 3, 4, 4), 3, 12))
    x = b.bn(b.conv(x, 12, 12, group=12), 12)
    b.op("Split", x, b.const([4, 8], np.int64), outputs=2, axis=1)
    one, two = b.nodes[-1].output
    x = b.op("Concat", b.relu(two), b.conv(one, 4, 4), axis=1)
    x = b.op("Reshape", x, b.const([0, 2, 6, 4, 4], np.int64))
    x = b.op(
        "Reshape",
        b.op("Transpose", x, perm=[0, 2, 1, 3, 4]),
        b.const([0, 12, 4, 4], np.int64),
    )
    y = b.op("Transpose", b.conv(x, 12, 8), perm=[0, 2, 3, 1])
    y = b.op("LayerNormalization", y, b.weight(8, scale=1.0), b.weight(8), axis=-1)
    return b.graph(b.op("MatMul", y, b.weight(8, 5)))


def branching_net() -> pg.Graph:
    """An If whose branches hold layers of their own, under names that are the same in both."""
    b = Builder()
    x = b.relu(b.conv(b.input("n", 3, 4, 4), 3, 8))
    condition = b.op(
        "Greater", b.op("ReduceSum", "x", keepdims=0), b.const(0.0, np.float32)
    )
    branches = {}
    for seed, name in enumerate(("then_branch", "else_branch")):
        rng = np.random.default_rng(seed)
        weights = [
            onnx.numpy_helper.from_array(
                rng.standard_normal(shape).astype(np.float32) / 3, key
            )
            for key, shape in (("w", (8, 8, 1, 1)), ("v", (6, 8, 1, 1)))
        ]
        nodes = [
            helper.make_node("Conv", [x, "w"], ["h"], name="inner"),
            helper.make_node("Relu", ["h"], ["r"], name="inner_relu"),
            helper.make_node("Conv", ["r", "v"], ["o"], name="last"),
        ]
        outputs = [helper.make_tensor_value_info("o", onnx.TensorProto.FLOAT, None)]
        branches[name] = helper.make_graph(nodes, name, [], outputs, weights)
    y = b.op("If", condition, **branches)
    return b.graph(b.conv(y, 6, 4, 1))


GRAPHS = {
    "residual": residual_net,
    "shared bias": shared_bias_net,
    "tied matrix": tied_matrix_net,
    "grouped": grouped_net,
    "branching": branching_net,
}


# -- what is broken ----------------------------------------------------------------------


def slices(change: Callable[[np.ndarray, Axes], np.ndarray]) -> Callable[[Patch], None]:
    """A mutation of how a tensor is sliced."""

    def patch(monkeypatch: Patch) -> None:
        monkeypatch.setattr(cutting, "taken", change)

    return patch


def take(
    values: np.ndarray, axes: Axes, change: Callable[[np.ndarray, int], np.ndarray]
) -> np.ndarray:
    for axis, kept in enumerate(axes):
        if kept is not None:
            values = np.take(values, change(kept, values.shape[axis]), axis)
    return np.ascontiguousarray(values)


def editor(change: Callable[[WeightEditor], None]) -> Callable[[Patch], None]:
    """A mutation of what the weight editor hands on."""

    def patch(monkeypatch: Patch) -> None:
        run = WeightEditor.run

        def broken(self: WeightEditor) -> None:
            run(self)
            change(self)

        monkeypatch.setattr(WeightEditor, "run", broken)

    return patch


def stale_copy(edit: WeightEditor) -> None:
    """A copy for a reader of its own has the values of the first reader's."""
    for name, old in edit.versions.items():
        if old in edit.tensors:
            edit.tensors[name] = renamed(edit.tensors[old], name)


def renamed(
    make: Callable[[], onnx.TensorProto], name: str
) -> Callable[[], onnx.TensorProto]:
    def named() -> onnx.TensorProto:
        tensor = onnx.TensorProto()
        tensor.CopyFrom(make())
        tensor.name = name
        return tensor

    return named


def wrong_name(edit: WeightEditor) -> None:
    """A reader of a copy reads another tensor of the same shape."""
    for reader, name in edit.renamed.items():
        others = [
            t
            for t in edit.tensors
            if t != name and edit.tensors[t]().dims == edit.tensors[name]().dims
        ]
        edit.renamed[reader] = others[0] if others else name


def reader_left_behind(edit: WeightEditor) -> None:
    """A reader of a copy goes on reading the first version."""
    edit.renamed.clear()


def late_binding(edit: WeightEditor) -> None:
    """Tensors of one shape all have the values of the last one."""
    last = {tuple(make().dims): make for make in edit.tensors.values()}
    edit.tensors.update(
        {
            name: renamed(last[tuple(make().dims)], name)
            for name, make in edit.tensors.items()
        }
    )


def not_cut(edit: WeightEditor) -> None:
    """One tensor stays whole."""
    del edit.tensors[next(iter(edit.tensors))]


def swapped(edit: WeightEditor) -> None:
    """Two tensors of one shape change places."""
    names: dict[tuple[int, ...], list[str]] = {}
    for name, make in edit.tensors.items():
        names.setdefault(tuple(make().dims), []).append(name)
    for first, second, *_ in (same for same in names.values() if len(same) > 1):
        one, two = edit.tensors[first], edit.tensors[second]
        edit.tensors[first], edit.tensors[second] = (
            renamed(two, first),
            renamed(one, second),
        )


def method(name: str, change: Callable[..., tuple[Any, ...]]) -> Callable[[Patch], None]:
    """A mutation of what a node is told."""

    def patch(monkeypatch: Patch) -> None:
        original = getattr(NodeEdit, name)
        monkeypatch.setattr(
            NodeEdit, name, lambda self, *given: original(self, *change(*given))
        )

    return patch


def off_by_one(kept: np.ndarray, size: int) -> np.ndarray:
    return np.sort((kept + 1) % size)


def turned(values: np.ndarray, axes: Axes) -> Axes:
    """The axes of a square matrix taken for each other."""
    return (
        [axes[1], axes[0], *axes[2:]]
        if values.ndim > 1 and values.shape[0] == values.shape[1]
        else axes
    )


def coarse(values: np.ndarray, axes: Axes) -> np.ndarray:
    return (
        take(values, axes, lambda kept, size: kept).astype(np.float16).astype(values.dtype)
    )


def one_element(values: np.ndarray, axes: Axes) -> np.ndarray:
    values = take(values, axes, lambda kept, size: kept)
    values.reshape(-1)[-1] = 0
    return values


MUTATIONS: dict[str, Callable[[Patch], None]] = {
    "the slices that go instead of those that stay": slices(
        lambda values, axes: take(
            values, axes, lambda kept, size: np.setdiff1d(np.arange(size), kept)
        )
    ),
    "off by one": slices(lambda values, axes: take(values, axes, off_by_one)),
    "the first ones": slices(
        lambda values, axes: take(values, axes, lambda kept, size: np.arange(len(kept)))
    ),
    "another order": slices(
        lambda values, axes: take(values, axes, lambda kept, size: kept[::-1])
    ),
    "the wrong axis": slices(
        lambda values, axes: take(values, turned(values, axes), lambda kept, size: kept)
    ),
    "the first axis only": slices(
        lambda values, axes: take(values, axes[:1], lambda kept, size: kept)
    ),
    "half the precision": slices(coarse),
    "one element lost": slices(one_element),
    "a stale copy": editor(stale_copy),
    "a wrong name": editor(wrong_name),
    "a reader left behind": editor(reader_left_behind),
    "the last one's values": editor(late_binding),
    "one tensor not cut": editor(not_cut),
    "two tensors swapped": editor(swapped),
    "a wrong attribute": method("set_attribute", lambda name, value: (name, value * 2)),
    "sizes in another order": method("set_input", lambda slot, value: (slot, value[::-1])),
    "another permutation": method(
        "gather", lambda source, axis, index: (source, axis, index[::-1])
    ),
}


@pytest.fixture(scope="module", params=GRAPHS)
def case(request: pytest.FixtureRequest) -> tuple[pg.Graph, pg.Plan, bytes]:
    """A graph, a plan for it, and what comes of it."""
    graph = GRAPHS[request.param]()
    plan = random_plan(pg.analyze(graph), seed=3)
    return graph, plan, result(graph, plan)


def result(graph: pg.Graph, plan: pg.Plan) -> bytes:
    return pg.apply(graph, plan).model.SerializeToString(deterministic=True)


def test_an_unbroken_cut_passes(case: tuple[pg.Graph, pg.Plan, bytes]) -> None:
    graph, plan, _ = case
    assert plan.remove
    assert pg.verify(graph, plan, pg.apply(graph, plan)).relative < 1e-5


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_broken_cut_is_noticed_wherever_it_changes_anything(
    name: str, case: tuple[pg.Graph, pg.Plan, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, plan, right = case
    MUTATIONS[name](monkeypatch)
    try:
        broken = pg.apply(graph, plan)
    except ModelError:
        return  # what does not fit together is noticed by shapes alone
    if broken.model.SerializeToString(deterministic=True) == right:
        return
    with pytest.raises((ExactnessError, ModelError)):
        pg.verify(graph, plan, broken)


@pytest.mark.parametrize("name", MUTATIONS)
def test_every_mutation_breaks_something(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = [
        (graph, random_plan(pg.analyze(graph), seed=3))
        for graph in (make() for make in GRAPHS.values())
    ]
    right = [result(graph, plan) for graph, plan in cases]
    MUTATIONS[name](monkeypatch)
    assert any(
        is_broken(graph, plan, before)
        for (graph, plan), before in zip(cases, right, strict=True)
    )


def is_broken(graph: pg.Graph, plan: pg.Plan, right: bytes) -> bool:
    try:
        return result(graph, plan) != right
    except ModelError:
        return True


def test_a_reader_that_takes_another_tensor_for_its_own() -> None:
    """Whoever chose the name: the third convolution's bias in the place of the second one's copy."""
    graph = shared_bias_net()
    plan = random_plan(pg.analyze(graph), seed=3)
    model = onnx.ModelProto()
    model.CopyFrom(pg.apply(graph, plan).model)
    first, second, third, _ = (node for node in model.graph.node if node.op_type == "Conv")
    for other in (first, third):
        second.input[2] = other.input[2]
        with pytest.raises(ExactnessError):
            pg.verify(graph, plan, pg.load(model))

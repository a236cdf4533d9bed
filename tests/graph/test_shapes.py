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
from prunegraph.runtime.session import run, run_values, session
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
    subgraphs = [
        helper.make_graph(body, f"branch{which}", [], [outputs[which]])
        for which, body in enumerate(nodes)
    ]
    condition = b.op(
        "Greater", b.op("ReduceMean", b.inputs[0].name, keepdims=0), b.const(0, np.float32)
    )
    return b.op("If", condition, then_branch=subgraphs[0], else_branch=subgraphs[1])


def _branch(b: Builder, r: str) -> str:
    """Branches that read a shape from outside."""
    size = b.op("Shape", r, name="outer_shape")
    other = b.const([3, 5, 7, 11], np.int64)
    return _chosen(
        b,
        [
            [helper.make_node("Mul", [size, x], [f"o{which}"])]
            for which, x in enumerate((other, size))
        ],
    )


def _inside(b: Builder, r: str) -> str:
    """Branches that take the shape themselves."""
    shape = [helper.make_node("Shape", [r], [f"s{which}"]) for which in (0, 1)]
    doubled = [
        helper.make_node("Add", [f"s{which}", f"s{which}"], [f"o{which}"])
        for which in (0, 1)
    ]
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
    "range": lambda b, r: b.op(
        "Range", b.const(0, np.int64), _one(b, r, 1), b.const(1, np.int64)
    ),
    "range of both": lambda b, r: b.op(
        "Range",
        b.const(0, np.int64),
        b.op("Add", _one(b, r, 0), _one(b, r, 1)),
        b.const(1, np.int64),
    ),
    "branch outside": _branch,
    "branch inside": _inside,
}


def _network(read: Callable[[Builder, str], str], batch: int | str) -> Graph:
    b = Builder()
    x = b.input(batch, 3, 6, 6)
    r = b.relu(b.conv(x, 3, 16, name="a"))
    y = b.conv(b.relu(b.conv(r, 16, 12, name="b")), 12, 4, name="c")
    return untyped(b, y, read(b, r))


@pytest.mark.parametrize("batch", [2, "n"])
@pytest.mark.parametrize("what", READ)
def test_numbers_from_sizes_keep_their_values_for_a_caller(
    what: str, batch: int | str
) -> None:
    graph = _network(READ[what], batch)
    pruned, proof = prove(graph)
    assert proof.relative <= 1e-4
    assert {name for g in pg.analyze(graph).groups for name in g.layers} == {"a", "b"}
    for samples in (2, 5) if batch == "n" else (2,):
        feeds = random_inputs(graph, seed=samples, batch=samples)
        _, wanted = run(session(graph, fast=False), feeds)
        _, value = run(session(pruned, fast=False), feeds)
        np.testing.assert_array_equal(value, wanted)


@pytest.mark.parametrize("batch", [2, "n"])
def test_a_shape_is_read_by_a_caller_and_by_the_graph(batch: int | str) -> None:
    """The caller's keeps its value, the graph's own reader needs the sizes as they are now."""
    b = Builder()
    r = b.relu(b.conv(b.input(batch, 3, 6, 6), 3, 16, name="a"))
    shape = b.op("Shape", r)
    flat = b.op(
        "Reshape",
        r,
        b.op(
            "Concat",
            b.op("Slice", shape, b.const([0]), b.const([2])),
            b.const([-1]),
            axis=0,
        ),
    )
    y = b.conv(b.op("Reshape", flat, shape), 16, 4, name="b")
    graph = untyped(b, y, shape)
    pruned, proof = prove(graph)
    assert proof.relative <= 1e-4
    assert [g.channels for g in pg.analyze(graph).groups] == [16]
    feeds = random_inputs(graph, batch=2)
    assert run(session(pruned, fast=False), feeds)[1].tolist() == [2, 16, 6, 6]


# -- what a file declares --------------------------------------------------------------------


def _declared(
    nodes: str, opset: int
) -> tuple[Builder, str, str, list[int | str], list[tuple[str, int]]]:
    """A layer, an operator whose shape ONNX does not infer, and what comes before a last layer."""
    b = Builder(opset=opset)
    if nodes == "group norm":
        x = b.conv(b.input("N", 3, 8, 8), 3, 16, name="a")
        y = b.op("GroupNormalization", x, b.weight(16), b.weight(16), num_groups=8)
        return b, y, b.conv(b.relu(y), 16, 5, name="z"), ["N", 16, 8, 8], []
    x = b.op("MatMul", b.input("N", 12), b.weight(12, 16), name="a")
    if nodes == "bias gelu":
        y = b.op("BiasGelu", x, b.weight(16), domain="com.microsoft")
        return (
            b,
            y,
            b.op("MatMul", b.relu(y), b.weight(16, 5), name="z"),
            ["N", 16],
            [("com.microsoft", 1)],
        )
    view = b.op("Reshape", x, b.const([-1, 2, 8]))
    y = b.op("Einsum", view, b.weight(2, 8, 12), equation="bgi,gio->bgo", name="e")
    flat = b.op("Reshape", b.relu(y), b.const([-1, 24]))
    return b, y, b.op("MatMul", flat, b.weight(24, 5), name="z"), ["N", 2, 12], []


@pytest.mark.parametrize(
    ("nodes", "opset"), [("einsum", 17), ("group norm", 21), ("bias gelu", 17)]
)
def test_declared_shapes_are_those_of_the_cut(nodes: str, opset: int) -> None:
    b, inner, y, shape, domains = _declared(nodes, opset)
    model = b.model(y, domains=domains)
    model.graph.value_info.append(helper.make_tensor_value_info(inner, FLOAT, shape))
    pruned, proof = prove(from_model(model))
    assert proof.relative <= 1e-4
    (entry,) = [entry for entry in pruned.model.graph.value_info if entry.name == inner]
    feeds = random_inputs(pruned, batch=2)
    actual = run_values(pruned, feeds, [inner])[inner].shape
    dims = entry.type.tensor_type.shape.dim
    assert dims[0].dim_param == "N"
    assert tuple(dim.dim_value for dim in dims[1:]) == actual[1:]
    assert actual[1:] != tuple(shape[1:])


def test_declared_shapes_in_a_subgraph() -> None:
    b = Builder()
    x = b.op("MatMul", b.input("N", 12), b.weight(12, 16), name="a")
    subgraphs = []
    for which in (0, 1):
        nodes = [helper.make_node("Relu" if which else "Tanh", [x], [f"i{which}"])]
        nodes.append(helper.make_node("Identity", [f"i{which}"], [f"o{which}"]))
        body = helper.make_graph(
            nodes,
            f"b{which}",
            [],
            [helper.make_tensor_value_info(f"o{which}", FLOAT, ["N", 16])],
        )
        body.value_info.append(helper.make_tensor_value_info(f"i{which}", FLOAT, ["N", 16]))
        subgraphs.append(body)
    condition = b.op("Greater", b.op("ReduceMean", "x", keepdims=0), b.const(0, np.float32))
    y = b.op("If", condition, then_branch=subgraphs[0], else_branch=subgraphs[1])
    pruned, proof = prove(b.graph(b.op("MatMul", y, b.weight(16, 5))))
    assert proof.relative <= 1e-4
    graphs = [
        a.g
        for node in pruned.model.graph.node
        if node.op_type == "If"
        for a in node.attribute
    ]
    for entry in (
        entry for graph in graphs for entry in (*graph.value_info, *graph.output)
    ):
        dims = entry.type.tensor_type.shape.dim
        assert (dims[0].dim_param, dims[1].dim_value) == ("N", 8)


@pytest.mark.parametrize("einsum", [False, True])
def test_a_scan_in_a_piece_knows_its_shapes(einsum: bool) -> None:
    """Its subgraph declares none: ONNX Runtime infers what it returns from what it gets."""
    b = Builder()
    x = b.relu(b.op("MatMul", b.input(2, 5, 6), b.weight(6, 16), name="a"))
    weight = b.weight(16, 16)
    y = (
        b.op("Einsum", x, weight, equation="nti,io->nto")
        if einsum
        else b.op("MatMul", x, weight)
    )
    nodes = [
        helper.make_node("Add", ["h", "xi"], ["c"]),
        helper.make_node("Tanh", ["c"], ["ho"]),
        helper.make_node("Identity", ["ho"], ["yo"]),
    ]
    inputs, results = (
        [helper.make_tensor_value_info(n, FLOAT, None) for n in names]
        for names in (["h", "xi"], ["ho", "yo"])
    )
    body = helper.make_graph(nodes, "body", inputs, results)
    start = b.const(np.zeros((2, 16)), np.float32)
    steps = b.op("Transpose", y, perm=[1, 0, 2])
    b.op("Scan", start, steps, outputs=2, body=body, num_scan_inputs=1)
    y = b.op("Transpose", b.nodes[-1].output[1], perm=[1, 0, 2])
    y = b.op(
        "MatMul",
        b.relu(b.op("MatMul", y, b.weight(16, 12), name="b")),
        b.weight(12, 4),
        name="c",
    )
    model = b.model(y)
    if einsum:
        model.graph.value_info.append(
            helper.make_tensor_value_info(steps, FLOAT, [5, 2, 16])
        )
    data = {"x": np.random.default_rng(0).standard_normal((8, 5, 6)).astype(np.float32)}
    result = pg.prune(
        pg.load(model),
        budget=pg.Budget(ratio=0.5),
        round_to=1,
        data=data,
        repair="least-squares",
    )
    assert result.proof is not None
    assert result.proof.relative <= 1e-4
    assert not result.left_out


# -- symbols ---------------------------------------------------------------------------------


def _sizes(*shapes: Sequence[int | str | None]) -> Graph:
    b = Builder()
    sums = []
    for index, shape in enumerate(shapes):
        sums.append(b.op("ReduceSum", b.input(*shape, name=f"x{index}"), keepdims=0))
    return b.graph(b.op("Sum", *sums))


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        ([["N", "T", 6], [1, "N", 16]], [(2, 64, 6), (1, 2, 16)]),
        (
            [["B", "S"], ["B", "P + S"], ["B", 3, "P", 4]],
            [(2, 64), (2, 128), (2, 3, 64, 4)],
        ),
        ([["B", "S"], ["B", "S//2 - 1"]], [(2, 64), (2, 31)]),
        ([["N", "N"]], [(64, 64)]),
        ([["N", "T"], ["T", 8]], [(2, 64), (64, 8)]),
        ([["batch size", 3], [4, "batch size"]], [(2, 3), (4, 2)]),
        ([["2*B", 3], ["B", 3]], [(4, 3), (2, 3)]),
        ([["?", 3, "?"]], [(2, 3, 64)]),
        ([["__import__('os')", 3]], [(2, 3)]),
    ],
)
def test_a_symbol_is_one_size(
    shapes: list[list[int | str]], expected: list[tuple[int, ...]]
) -> None:
    feeds = random_inputs(_sizes(*shapes), batch=2)
    assert [array.shape for array in feeds.values()] == expected
    other = random_inputs(_sizes(*shapes), batch=1, stretch=2)
    assert [array.ndim for array in other.values()] == [len(shape) for shape in expected]


def test_a_symbol_on_another_axis_of_a_state() -> None:
    b = Builder()
    x, state = b.input("N", "T", 6), b.input(1, "N", 16, name="h")
    start = b.op("MatMul", state, b.weight(16, 16), name="init")
    weights = b.weight(1, 48, 6), b.weight(1, 48, 16), b.weight(1, 96)
    b.op(
        "GRU",
        b.op("Transpose", x, perm=[1, 0, 2]),
        *weights,
        "",
        start,
        outputs=2,
        hidden_size=16,
        linear_before_reset=1,
    )
    y = b.op("Squeeze", b.nodes[-1].output[1], b.const([0]))
    graph = b.graph(b.op("Gemm", y, b.weight(16, 5)))
    _, proof = prove(graph)
    assert proof.relative <= 1e-4
    assert proof.runs == 3
    assert pg.analyze(graph).groups


# -- outputs that nothing reads ----------------------------------------------------------------


@pytest.mark.parametrize("opset", [7, 9, 10, 12, 13])
def test_an_unread_mask_fixes_nothing(opset: int) -> None:
    b = Builder(opset=opset, ir_version=4)
    x = b.relu(
        b.op("Gemm", b.input("N", 12), b.weight(32, 12), b.weight(32), transB=1, name="a")
    )
    y = b.op(
        "Gemm",
        b.op("Dropout", x, outputs=2),
        b.weight(5, 32),
        b.weight(5),
        transB=1,
        name="z",
    )
    graph = b.graph(y)
    assert [group.channels for group in pg.analyze(graph).groups] == [32]
    _, proof = prove(graph)
    assert proof.relative <= 1e-4


# -- few floats --------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [2, 4, 16, 17])
def test_few_floats_are_data(channels: int) -> None:
    """Scaled by a number that comes from sizes, a bias is a bias still, however short."""
    b = Builder()
    x = b.input("N", 3, 6, 6)
    y = b.conv(x, 3, channels, bias=False, name="a")
    area = b.op("Cast", b.op("Size", x), to=FLOAT)
    bias = b.op(
        "Div",
        b.const(b.rng.standard_normal((channels, 1, 1)), np.float32),
        b.op("Sqrt", area),
    )
    y = b.op("Add", y, b.op("Mul", bias, b.const(2, np.float32)))
    graph = b.graph(b.conv(b.relu(y), channels, 4, name="z"))
    assert [group.channels for group in pg.analyze(graph).groups] == [channels]
    _, proof = prove(graph)
    assert proof.relative <= 1e-4


@pytest.mark.parametrize("batch", [2, "N"])
def test_scales_are_numbers(batch: int | str) -> None:
    """Two floats from sizes beside two constant ones: scales of a Resize, which the channels pass."""
    b = Builder()
    x = b.relu(b.conv(b.input(batch, 3, 6, 6), 3, 16, name="a"))
    ends = b.op("Cast", b.op("Shape", x, start=2, end=4), to=FLOAT)
    scales = b.op(
        "Concat",
        b.const([1, 1], np.float32),
        b.op("Div", b.const([12, 18], np.float32), ends),
        axis=0,
    )
    y = b.op("Resize", x, "", scales, mode="nearest")
    graph = b.graph(b.conv(y, 16, 4, name="z"))
    assert [group.channels for group in pg.analyze(graph).groups] == [16]
    _, proof = prove(graph)
    assert proof.relative <= 1e-4


def test_positions_are_counted_along_sizes() -> None:
    """A sum over numbers that come from sizes has no channels to mask."""
    b = Builder(opset=18)
    ids = b.input("B", "L", name="ids", kind=INT)
    length = b.op("Squeeze", b.op("Shape", ids, start=1, end=2))
    row = b.op("Unsqueeze", b.op("Range", b.const(0), length, b.const(1)), b.const([0]))
    begins = b.op("Cast", b.op("Equal", row, b.const(0)), to=INT)
    places = b.op("Gather", b.weight(64, 16), b.op("CumSum", begins, b.const(1)))
    x = b.op("Add", b.op("Gather", b.weight(8, 16), ids), places)
    y = b.op(
        "MatMul",
        b.relu(b.op("MatMul", x, b.weight(16, 32), name="k")),
        b.weight(32, 5),
        name="z",
    )
    graph = b.graph(y)
    _, proof = prove(graph)
    assert proof.relative <= 1e-4
    assert 32 in [group.channels for group in pg.analyze(graph).groups]

"""Newer operator sets: every change of meaning between them, by a run of both models in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

import prunegraph as pg
from prunegraph.errors import ModelError
from prunegraph.graph.model import Graph
from prunegraph.graph.onnx_io import from_model
from prunegraph.rewriting import opset
from prunegraph.rewriting.opset import raise_opset
from prunegraph.runtime.session import run, session
from tests.builders import Builder

Array = np.ndarray
Make = Callable[[Builder, str], str]


def op(
    name: str, *more: object, shape: tuple[int, ...] = (2, 6, 4, 4), **attributes: object
) -> Make:
    """An operator on a value, with constants behind it."""

    def make(b: Builder, x: str) -> str:
        given = [
            b.const(each, None if isinstance(each, np.ndarray) else np.float32)
            for each in more
        ]
        return b.op(name, x, *given, **attributes)

    make.shape = shape  # type: ignore[attr-defined]
    return make


def ints(*values: int) -> Array:
    return np.array(values, np.int64)


SCALES = np.array([1, 1, 2, 2], np.float32)
GRID = np.random.default_rng(0).uniform(-1, 1, (2, 3, 3, 2)).astype(np.float32)
LESS = np.array([1, 1, 0.6, 0.5], np.float32)

#: What changes its form or meaning: the operator set it is written in, and the node.
CASES: dict[str, tuple[int, Make]] = {
    "upsample 7 nearest": (7, op("Upsample", mode="nearest", scales=[1.0, 1.0, 2.0, 3.0])),
    "upsample 7 linear": (7, op("Upsample", mode="linear", scales=[1.0, 1.0, 2.0, 3.0])),
    "upsample 9 nearest": (
        9,
        op("Upsample", np.array([1, 1, 1.5, 2.5], np.float32), mode="nearest"),
    ),
    "upsample 9 linear": (
        9,
        op("Upsample", np.array([1, 1, 1.5, 2.5], np.float32), mode="linear"),
    ),
    "resize 10 nearest": (10, op("Resize", SCALES, mode="nearest")),
    "resize 10 linear": (10, op("Resize", SCALES, mode="linear")),
    "resize 10 nearest down": (10, op("Resize", LESS, mode="nearest")),
    "resize 10 linear down": (10, op("Resize", LESS, mode="linear")),
    **{
        f"{name} {opset} axis {axis}": (
            opset,
            op(name, **({} if axis is None else {"axis": axis})),
        )
        for name in ("Softmax", "LogSoftmax", "Hardmax")
        for opset, axis in (
            (9, None),
            (9, 3),
            (9, 2),
            (12, None),
            (12, 0),
            (12, -1),
            (12, -2),
        )
    },
    "clip 10": (10, op("Clip", min=-0.3, max=0.4)),
    "clip 10 max": (10, op("Clip", max=0.4)),
    "pad 10": (10, op("Pad", pads=[0, 0, 1, 2, 0, 0, 0, 1], value=0.7)),
    "pad 10 reflect": (10, op("Pad", pads=[0, 0, 1, 2, 0, 0, 0, 1], mode="reflect")),
    "slice 9": (9, op("Slice", starts=[1, -3], ends=[5, 100], axes=[1, 2])),
    "slice 9 no axes": (9, op("Slice", starts=[0, 1], ends=[2, 3])),
    "topk 9": (9, op("TopK", k=2, axis=1, outputs=2)),
    "topk 10": (10, op("TopK", ints(3), axis=2, outputs=2)),
    "split 11": (11, op("Split", axis=1, split=[2, 4], outputs=2)),
    "split 11 even": (11, op("Split", axis=1, outputs=2)),
    "squeeze 11": (11, op("Squeeze", axes=[-2], shape=(2, 6, 1, 4))),
    "squeeze 11 all": (11, op("Squeeze", shape=(2, 6, 1, 4))),
    "unsqueeze 11": (11, op("Unsqueeze", axes=[0, 2])),
    **{
        f"{name} {opset} {axes}": (
            opset,
            op(name, keepdims=keep, **({} if axes is None else {"axes": axes})),
        )
        for name in (
            "ReduceSum",
            "ReduceMean",
            "ReduceMax",
            "ReduceL1",
            "ReduceL2",
            "ReduceSumSquare",
            "ReduceProd",
            "ReduceMin",
            "ReduceLogSumExp",
        )
        for opset, axes, keep in ((9, None, 1), (9, [1, 3], 0), (12, [-1], 1))
    },
    "dropout 9": (9, op("Dropout", ratio=0.9)),
    "dropout 11": (11, op("Dropout", ratio=0.9)),
    "batch normalization 8": (
        8,
        op(
            "BatchNormalization",
            *(np.linspace(0.5, 1.5, 6, dtype=np.float32),) * 4,
            spatial=1,
            epsilon=0.01,
        ),
    ),
    "gemm 9": (
        9,
        op(
            "Gemm",
            np.ones((4, 3), np.float32),
            np.ones((5, 1), np.float32),
            alpha=0.5,
            beta=2.0,
            shape=(5, 4),
        ),
    ),
    "depth to space 9": (9, op("DepthToSpace", blocksize=2, shape=(2, 8, 4, 4))),
    "average pool 9": (
        9,
        op("AveragePool", kernel_shape=[3, 3], pads=[1] * 4, strides=[2, 2]),
    ),
    "average pool 11 ceil": (
        11,
        op("AveragePool", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    ),
    "max pool 7": (7, op("MaxPool", kernel_shape=[2, 3], auto_pad="SAME_UPPER")),
    "lp pool 11": (11, op("LpPool", kernel_shape=[2, 2], p=2)),
    "argmax 9": (9, op("ArgMax", axis=1, keepdims=0)),
    "flatten 9": (9, op("Flatten", axis=2)),
    "onehot 9": (
        9,
        lambda b, x: b.op(
            "OneHot",
            b.op("ArgMax", x, axis=1),
            b.const(6, np.int64),
            b.const([0, 1], np.float32),
            axis=1,
        ),
    ),
    "scatter 9": (
        9,
        lambda b, x: b.op(
            "Scatter",
            x,
            b.const(ints(0, 3, 1).reshape(1, 3, 1, 1), np.int64),
            b.const(np.ones((1, 3, 1, 1)), np.float32),
            axis=1,
        ),
    ),
    "lrn 7": (7, op("LRN", size=3)),
    "instance normalization 7": (
        7,
        op("InstanceNormalization", *(np.linspace(0.5, 1.5, 6, dtype=np.float32),) * 2),
    ),
    "group normalization 18": (
        18,
        op(
            "GroupNormalization",
            *(np.linspace(0.5, 1.5, 3, dtype=np.float32),) * 2,
            num_groups=3,
        ),
    ),
    "dft 17": (17, op("DFT", axis=2, shape=(2, 6, 4, 1))),
    "dft 17 default": (17, op("DFT", shape=(2, 6, 4, 1))),
    "grid sample 16": (16, op("GridSample", GRID)),
    "grid sample 16 cubic": (16, op("GridSample", GRID, mode="bicubic")),
    "roi align 10": (
        10,
        lambda b, x: b.op(
            "RoiAlign",
            x,
            b.const([[0, 0, 3, 3], [1, 1, 2, 3]], np.float32),
            b.const(ints(0, 1), np.int64),
            output_height=2,
            output_width=2,
            sampling_ratio=2,
        ),
    ),
    "gru 7": (
        7,
        lambda b, x: b.op(
            "GRU", x, b.weight(1, 9, 4), b.weight(1, 9, 3), hidden_size=3, outputs=2
        ),
    ),
    "cast 9": (9, op("Cast", to=TensorProto.INT32)),
    "pow 7": (7, op("Pow", np.array(2.0, np.float32))),
    "prelu 7": (7, op("PRelu", np.full((6, 1, 1), 0.3, np.float32))),
    "mean variance 9": (9, op("MeanVarianceNormalization")),
    "gather 9": (9, op("Gather", ints(0, 2, 1), axis=1)),
    "constant of shape 9": (
        9,
        lambda b, x: b.op("Add", x, b.op("ConstantOfShape", b.op("Shape", x))),
    ),
    "where 9": (
        9,
        lambda b, x: b.op(
            "Where", b.op("Greater", x, b.const(0, np.float32)), x, b.op("Abs", x)
        ),
    ),
    "compress 9": (
        9,
        lambda b, x: b.op(
            "Compress", x, b.const([True, False, True, True, False, False], bool), axis=1
        ),
    ),
    "resize 11": (
        11,
        lambda b, x: b.op(
            "Resize",
            x,
            b.const([], np.float32),
            b.const(SCALES, np.float32),
            mode="linear",
            coordinate_transformation_mode="align_corners",
        ),
    ),
}

SHAPES = {"gru 7": (3, 2, 4)}


def graph_of(name: str) -> Graph:
    version, make = CASES[name]
    b = Builder(opset=version, ir_version=4)
    shape = SHAPES.get(name, getattr(make, "shape", (2, 6, 4, 4)))
    y = make(b, b.input(*shape))
    model = b.model(y)
    kinds = {"argmax 9": TensorProto.INT64, "cast 9": TensorProto.INT32}
    model.graph.output[0].type.tensor_type.elem_type = kinds.get(name, TensorProto.FLOAT)
    return from_model(model)


def check(graph: Graph, values: list[Array], full: bool) -> None:
    """ONNX's own check, which wants the shapes of outputs."""
    model = onnx.ModelProto.FromString(graph.model.SerializeToString())
    for entry, array in zip(model.graph.output, values, strict=True):
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        entry.CopyFrom(helper.make_tensor_value_info(entry.name, kind, array.shape))
    onnx.checker.check_model(model, full_check=full)


def outputs(graph: Graph, shape: tuple[int, ...], seed: int = 3) -> list[Array]:
    x = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    return run(session(graph), {graph.inputs[0]: x})


@pytest.mark.parametrize("name", CASES)
def test_it_means_the_same(name: str) -> None:
    graph = graph_of(name)
    shape = SHAPES.get(name, getattr(CASES[name][1], "shape", (2, 6, 4, 4)))
    expected = outputs(graph, shape)
    for version in (13, 18, 21):
        if version <= CASES[name][0]:
            continue
        raised = raise_opset(graph, version)
        assert raised.opsets[""] == version
        check(
            raised, expected, full=not name.startswith("mean variance")
        )  # its function is in another set
        for a, b in zip(expected, outputs(raised, shape), strict=True):
            assert a.dtype == b.dtype and a.shape == b.shape
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def in_a_subgraph() -> Graph:
    """A Clip and a Softmax of operator set 10 inside an If."""

    def branch(name: str, *nodes: onnx.NodeProto) -> onnx.GraphProto:
        return helper.make_graph(
            list(nodes),
            name,
            [],
            [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
        )

    then = branch(
        "then",
        helper.make_node("Clip", ["x"], ["c"], min=-0.1, max=0.2),
        helper.make_node("Softmax", ["c"], ["z"], axis=1),
    )
    other = branch("else", helper.make_node("Neg", ["x"], ["z"]))
    b = Builder(opset=10, ir_version=4)
    x = b.input(2, 3, 4)
    total = b.op("ReduceSum", x, keepdims=0)
    b.nodes.append(
        helper.make_node(
            "If",
            [b.op("Less", total, b.const(1e9, np.float32))],
            ["y"],
            then_branch=then,
            else_branch=other,
        )
    )
    return b.graph("y")


def test_subgraphs_are_rewritten_too() -> None:
    graph = in_a_subgraph()
    (expected,), (given_now,) = (
        outputs(each, (2, 3, 4)) for each in (graph, raise_opset(graph, 18))
    )
    np.testing.assert_allclose(expected, given_now, rtol=1e-5)


def test_external_weights_stay_where_they_are(tmp_path: object) -> None:
    b = Builder(opset=10)
    x = b.op("Clip", b.conv(b.input("n", 3, 4, 4), 3, 64), min=0.0, max=6.0)
    path = f"{tmp_path}/m.onnx"
    onnx.save(b.model(b.conv(x, 64, 5)), path, save_as_external_data=True, size_threshold=0)
    graph = pg.load(path)
    for a, b_ in zip(
        outputs(graph, (2, 3, 4, 4)),
        outputs(raise_opset(graph, 13), (2, 3, 4, 4)),
        strict=True,
    ):
        np.testing.assert_allclose(a, b_, rtol=1e-5)


def test_subgraphs_with_the_same_names_for_other_values() -> None:
    """What is known of a value in one branch does not count in the other, which random inputs do not reach."""

    def branch(name: str, *nodes: onnx.NodeProto) -> onnx.GraphProto:
        return helper.make_graph(
            list(nodes),
            name,
            [],
            [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
        )

    soft = helper.make_node("Softmax", ["c"], ["z"], axis=1)
    then = branch("then", helper.make_node("Flatten", ["x"], ["c"]), soft)
    other = branch("else", helper.make_node("Relu", ["x"], ["c"]), soft)
    b = Builder(opset=11, ir_version=4)
    total = b.op("ReduceSum", b.input(2, 3, 4), keepdims=0)
    b.nodes.append(
        helper.make_node(
            "If",
            [b.op("Less", total, b.const(1e3, np.float32))],
            ["y"],
            then_branch=then,
            else_branch=other,
        )
    )
    graph = b.graph("y")
    raised = raise_opset(graph, 13)
    for shift in (0, 1e3):
        x = {
            "x": (np.random.default_rng(0).standard_normal((2, 3, 4)) + shift).astype(
                np.float32
            )
        }
        (expected,), (given_now,) = (run(session(each), x) for each in (graph, raised))
        np.testing.assert_allclose(expected, given_now, rtol=1e-5)


def refused(
    version: int,
    make: Make,
    message: str,
    shape: tuple[int, ...] = (2, 6, 4, 4),
    to: int = 13,
) -> None:
    b = Builder(opset=version, ir_version=4)
    graph = b.graph(make(b, b.input(*shape)))
    with pytest.raises(ModelError, match=message):
        raise_opset(graph, to)


def test_what_is_not_known_is_refused() -> None:
    vector = np.linspace(0.5, 1.5, 6, dtype=np.float32)
    whole = np.linspace(0.5, 1.5, 96, dtype=np.float32).reshape(6, 4, 4)
    refused(
        7, op("BatchNormalization", *(whole,) * 4, spatial=0), "statistics of each position"
    )
    refused(
        10,
        op("Resize", np.array([1, 1, 2, 0.5], np.float32), mode="nearest"),
        "larger and another one smaller",
    )
    refused(
        10,
        lambda b, x: b.op(
            "Resize", x, b.op("Add", b.const(SCALES), b.op("ReduceMean", x, keepdims=0))
        ),
        "scales are computed",
    )
    refused(
        18,
        lambda b, x: b.op(
            "GroupNormalization",
            x,
            b.op("ReduceMean", x, b.const(ints(0, 2, 3)), keepdims=0),
            b.const(vector),
            num_groups=6,
        ),
        "computed",
        to=21,
    )


def test_a_conversion_that_changes_the_values_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The check does not rely on the rewriting: a wrong step is caught, and its node is named."""
    from prunegraph.rewriting.upgrades import NOTHING, STEPS, Upgrade

    def wrong(
        upgrade: Upgrade, node: onnx.NodeProto
    ) -> tuple[list[onnx.NodeProto], list[onnx.NodeProto]]:
        return NOTHING

    monkeypatch.setitem(STEPS, ("Softmax", 13), wrong)
    b = Builder(opset=12)
    y = b.op("Relu", b.op("Softmax", b.input(2, 3, 4), name="soft"))
    with pytest.raises(ModelError, match="what Softmax 'soft' makes is not what it was"):
        raise_opset(b.graph(y), 13)


def test_it_is_checked_on_the_users_data() -> None:
    """Random indices do not run; the user's do."""
    b = Builder(opset=10)
    index = b.input("n", kind=TensorProto.INT64)
    index = b.op("Sub", index, b.const(6, np.int64))
    y = b.op("Softmax", b.op("Gather", b.weight(2, 4), index))
    graph = b.graph(y)
    with pytest.raises(ModelError, match="give --data"):
        raise_opset(graph, 13)
    raised = raise_opset(graph, 13, opset.Data.of({"x": ints(6, 7, 7, 6)}))
    assert raised.opsets[""] == 13


@st.composite
def old_networks(draw: st.DrawFn) -> Graph:
    """Convolutions with what older operator sets write differently between them."""
    version = draw(st.integers(7, 12))
    b = Builder(draw(st.integers(0, 99)), opset=version, ir_version=4)
    x = b.conv(b.input("n", 3, 8, 8), 3, 8)
    between = {
        "clip": lambda y: b.op("Clip", y, min=0.0, max=6.0) if version < 11 else b.relu(y),
        "upsample": lambda y: _larger(
            b, y, version, draw(st.sampled_from(["nearest", "linear"]))
        ),
        "softmax": lambda y: b.op("Mul", y, b.op("Softmax", y)),
        "hardmax": lambda y: b.op(
            "Add", y, b.op("Hardmax", y, axis=draw(st.integers(1, 3)))
        ),
        "slice": lambda y: (
            b.op("Slice", y, starts=[1], ends=[7], axes=[2])
            if version < 10
            else b.op("Abs", y)
        ),
        "reduce": lambda y: b.op("Sub", y, b.op("ReduceMean", y, axes=[1], keepdims=1)),
        "sum": lambda y: b.op("Add", y, b.op("ReduceSum", y, axes=[3], keepdims=1)),
        "pad": lambda y: (
            b.op("Pad", y, pads=[0, 0, 1, 1, 0, 0, 1, 1]) if version < 11 else b.relu(y)
        ),
        "bn": lambda y: b.bn(y, 8),
        "pool": lambda y: b.op("AveragePool", y, kernel_shape=[3, 3], pads=[1] * 4),
        "dropout": lambda y: b.op("Dropout", y),
        "split": lambda y: b.op("Add", *_halves(b, y)),
    }
    for name in draw(st.lists(st.sampled_from(sorted(between)), min_size=1, max_size=3)):
        x = b.conv(between[name](x), 4 if name == "split" else 8, 8)
    return b.graph(x)


def _larger(b: Builder, x: str, version: int, mode: str) -> str:
    scales = np.array([1, 1, 2, 2], np.float32)
    if version < 9:
        return b.op("Upsample", x, mode=mode, scales=[1.0, 1.0, 2.0, 2.0])
    if version < 11:
        return b.op("Upsample" if version == 9 else "Resize", x, b.const(scales), mode=mode)
    return b.op("Resize", x, b.const([], np.float32), b.const(scales), mode=mode)


def _halves(b: Builder, x: str) -> tuple[str, str]:
    first = b.op("Split", x, axis=1, split=[4, 4], outputs=2)
    return first, first.removesuffix("0") + "1"


@settings(max_examples=12, deadline=None)
@given(old_networks())
def test_quantized_networks_of_old_operator_sets_stay_near_the_original(
    graph: Graph,
) -> None:
    """In the default session, by both forms; what is reported is what is there."""
    x = {"x": np.random.default_rng(0).standard_normal((16, 3, 8, 8)).astype(np.float32)}
    for options in ({}, {"target": "tensorrt"}):
        result = pg.quantize(graph, x, reduce_range=True, **options)  # type: ignore[arg-type]
        (a,), (b,) = (run(session(each), x) for each in (graph, result.model))
        really = 10 * np.log10(
            np.square(a, dtype=np.float64).sum() / np.square(a - b, dtype=np.float64).sum()
        )
        assert really > 15
        assert abs(result.outputs[graph.outputs[0]] - really) < 3

"""Every operator that can stand between two layers in integers, in its variants: the file runs as it is opened.

ONNX Runtime rewrites what it finds between a DequantizeLinear and a QuantizeLinear, also where the operator was meant
to stay in float.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

import prunegraph as pg
from prunegraph.errors import ModelError
from prunegraph.graph.model import Graph
from prunegraph.measuring.sqnr import decibels
from prunegraph.runtime.session import run, session
from tests.builders import Builder

Array = np.ndarray

#: Adds operators behind a value [n, 4, 6, 6] of a layer.
Part = Callable[[Builder, str], str]


def ints(b: Builder, *values: int) -> str:
    return b.const(values, np.int64)


def floats(b: Builder, *values: float) -> str:
    return b.const(values, np.float32)


def op(name: str, *, outputs: list[str] | None = None, **attributes: object) -> Part:
    """An operator that reads the value alone; `outputs` spells its outputs out, "" leaves one empty."""

    def add(b: Builder, x: str) -> str:
        y = b.op(name, x, **attributes)
        if outputs is not None:
            b.nodes[-1].output[:] = [y, *outputs]
        return y

    return add


def given(name: str, *more: Callable[[Builder], str], **attributes: object) -> Part:
    """An operator with further inputs, each made by a function; `empty` leaves one out."""
    return lambda b, x: b.op(name, x, *(each(b) for each in more), **attributes)


def of_ints(*values: int) -> Callable[[Builder], str]:
    return lambda b: ints(b, *values)


def of_floats(*values: float) -> Callable[[Builder], str]:
    return lambda b: floats(b, *values)


def scalar(value: float) -> Callable[[Builder], str]:
    return lambda b: b.const(value, np.float32)


def empty(b: Builder) -> str:
    return ""


def weight(*shape: int) -> Callable[[Builder], str]:
    return lambda b: b.const(b.rng.uniform(0.5, 1.5, shape), np.float32)


def twice(name: str, **attributes: object) -> Part:
    """An operator of two layers' values."""
    return lambda b, x: b.op(name, x, b.conv(x, 4, 4, k=1), **attributes)


def split(axis: int, *sizes: int, how: str = "input") -> Part:
    def add(b: Builder, x: str) -> str:
        count = len(sizes)
        if how == "attribute":
            b.op("Split", x, outputs=count, axis=axis, split=sizes)
        elif how == "even":
            b.op("Split", x, outputs=count, axis=axis)
        elif how == "num_outputs":
            b.op("Split", x, outputs=count, axis=axis, num_outputs=count)
        else:
            b.op("Split", x, ints(b, *sizes), outputs=count, axis=axis)
        parts = list(b.nodes[-1].output)
        return b.op("Concat", *reversed(parts), axis=axis)

    return add


def chain(*parts: Part) -> Part:
    def add(b: Builder, x: str) -> str:
        for part in parts:
            x = part(b, x)
        return x

    return add


PARTS: dict[str, tuple[int, Part]] = {
    # what moves values
    "maxpool": (13, op("MaxPool", kernel_shape=[2, 2])),
    "maxpool 8": (10, op("MaxPool", kernel_shape=[2, 2], strides=[2, 2])),
    "maxpool 11": (11, op("MaxPool", kernel_shape=[2, 2], ceil_mode=1, strides=[2, 2])),
    "maxpool with an empty output": (13, op("MaxPool", outputs=[""], kernel_shape=[2, 2])),
    "maxpool dilated": (
        13,
        op("MaxPool", kernel_shape=[2, 2], dilations=[2, 2], pads=[1, 1, 1, 1]),
    ),
    "maxpool same": (
        13,
        op("MaxPool", kernel_shape=[3, 3], auto_pad="SAME_LOWER", strides=[2, 2]),
    ),
    "maxpool ceil": (
        13,
        op("MaxPool", kernel_shape=[3, 3], ceil_mode=1, strides=[2, 2], storage_order=1),
    ),
    "maxpool 22": (22, op("MaxPool", kernel_shape=[2, 2])),
    "maxpool 1d": (
        13,
        chain(given("Reshape", of_ints(0, 4, 36)), op("MaxPool", kernel_shape=[2])),
    ),
    "maxpool 3d": (
        13,
        chain(
            given("Reshape", of_ints(0, 4, 3, 2, 6)), op("MaxPool", kernel_shape=[2, 1, 3])
        ),
    ),
    "resize": (13, given("Resize", empty, of_floats(1, 1, 2, 2))),
    "resize 28": (28, given("Resize", empty, of_floats(1, 1, 2, 2))),
    "resize 10": (10, given("Resize", of_floats(1, 1, 2, 2))),
    "resize 10 linear": (10, given("Resize", of_floats(1, 1, 2, 2), mode="linear")),
    "resize 11 asymmetric": (
        11,
        given(
            "Resize",
            of_floats(),
            of_floats(1, 1, 2, 2),
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        ),
    ),
    "resize linear": (13, given("Resize", empty, of_floats(1, 1, 2, 2), mode="linear")),
    "resize linear down": (
        18,
        given("Resize", empty, of_floats(1, 1, 0.5, 0.5), mode="linear", antialias=1),
    ),
    "resize cubic": (13, given("Resize", empty, of_floats(1, 1, 2, 2), mode="cubic")),
    "resize sizes": (13, given("Resize", empty, empty, of_ints(3, 4, 9, 12))),
    "resize channels": (13, given("Resize", empty, of_floats(1, 2, 1, 1), mode="linear")),
    "resize crop": (
        13,
        given(
            "Resize",
            of_floats(0, 0, 0.1, 0.1, 1, 1, 0.9, 0.9),
            of_floats(1, 1, 2, 2),
            mode="linear",
            coordinate_transformation_mode="tf_crop_and_resize",
        ),
    ),
    "resize axes": (18, given("Resize", empty, of_floats(2, 2), axes=[2, 3])),
    "resize axes linear": (
        18,
        given("Resize", empty, of_floats(2, 2), axes=[2, 3], mode="linear"),
    ),
    "resize axes swapped": (18, given("Resize", empty, empty, of_ints(12, 9), axes=[3, 2])),
    "resize axes negative": (
        19,
        given("Resize", empty, of_floats(2, 3), axes=[-2, -1], mode="linear"),
    ),
    "resize axes not larger": (
        18,
        given(
            "Resize",
            empty,
            empty,
            of_ints(9, 12),
            axes=[2, 3],
            keep_aspect_ratio_policy="not_larger",
        ),
    ),
    "resize axes not smaller linear": (
        19,
        given(
            "Resize",
            empty,
            empty,
            of_ints(12, 9),
            axes=[-1, 2],
            keep_aspect_ratio_policy="not_smaller",
            mode="linear",
        ),
    ),
    "resize axes crop": (
        18,
        given(
            "Resize",
            of_floats(0.1, 0.2, 0.9, 0.8),
            empty,
            of_ints(9, 12),
            axes=[2, 3],
            mode="linear",
            coordinate_transformation_mode="tf_crop_and_resize",
        ),
    ),
    "resize axes unknown": (
        18,
        lambda b, x: b.op(
            "Resize",
            x,
            "",
            b.op(
                "Sqrt", b.op("Cast", b.op("Gather", b.op("Shape", x), ints(b, 1, 1)), to=1)
            ),
            axes=[2, 3],
        ),
    ),
    "upsample 9": (9, given("Upsample", of_floats(1, 1, 2, 2))),
    "flatten": (13, op("Flatten")),
    "flatten 2": (13, op("Flatten", axis=2)),
    "flatten negative": (13, op("Flatten", axis=-2)),
    "reshape zero": (14, given("Reshape", of_ints(0, 0, -1))),
    "reshape 21": (21, given("Reshape", of_ints(0, 4, 36))),
    "squeeze": (13, chain(given("Unsqueeze", of_ints(2)), given("Squeeze", of_ints(2)))),
    "squeeze all": (
        13,
        chain(given("Unsqueeze", of_ints(2)), given("Squeeze", of_ints(2)), op("Flatten")),
    ),
    "squeeze attribute": (
        11,
        chain(
            op("Unsqueeze", axes=[2, 3]), op("Squeeze", axes=[2]), op("Squeeze", axes=[2])
        ),
    ),
    "unsqueeze negative": (13, given("Unsqueeze", of_ints(-1, 1))),
    "transpose": (13, op("Transpose", perm=[0, 2, 3, 1])),
    "transpose default": (13, chain(op("Transpose"), op("Transpose", perm=[3, 2, 1, 0]))),
    "slice": (13, given("Slice", of_ints(1), of_ints(6), of_ints(2))),
    "slice back": (
        13,
        given("Slice", of_ints(-1, 5), of_ints(-7, -7), of_ints(2, -1), of_ints(-1, -2)),
    ),
    "slice no axes": (13, given("Slice", of_ints(0, 1), of_ints(9, 4))),
    "slice attribute": (9, op("Slice", starts=[1, 1], ends=[6, 5], axes=[2, 3])),
    "split": (13, split(1, 1, 3)),
    "split even": (13, split(1, 2, 2, how="even")),
    "split attribute": (11, split(1, 1, 3, how="attribute")),
    "split num_outputs": (18, split(2, 4, 2, how="num_outputs")),
    "split uneven": (18, split(2, 3, 3, how="num_outputs")),
    "gather": (13, lambda b, x: b.op("Gather", x, ints(b, 2, 0, -1), axis=1)),
    "gather matrix": (
        13,
        lambda b, x: b.op("Gather", x, b.const([[0, 1], [2, 3]], np.int64), axis=2),
    ),
    "gather scalar": (13, lambda b, x: b.op("Gather", x, b.const(1, np.int64), axis=1)),
    "gather int32": (
        13,
        lambda b, x: b.op("Gather", x, b.const([1, 3], np.int32), axis=-1),
    ),
    "identity": (13, op("Identity")),
    "dropout": (13, op("Dropout")),
    "dropout attribute": (10, op("Dropout", ratio=0.3)),
    "dropout with an empty output": (13, op("Dropout", outputs=[""])),
    "concat": (13, twice("Concat", axis=1)),
    "concat negative": (13, twice("Concat", axis=-1)),
    "concat with a constant": (
        13,
        lambda b, x: b.op("Concat", x, b.weight(3, 2, 6, 6), axis=1),
    ),
    "concat with itself": (13, lambda b, x: b.op("Concat", x, x, x, axis=1)),
    "concat of one": (13, op("Concat", axis=1)),
    # what computes
    "add": (13, twice("Add")),
    "add to itself": (13, lambda b, x: b.op("Add", x, x)),
    "add broadcast": (
        13,
        lambda b, x: b.op("Add", x, b.conv(b.op("GlobalAveragePool", x), 4, 4, k=1)),
    ),
    "mul": (13, twice("Mul")),
    "mul with itself": (13, lambda b, x: b.op("Mul", x, x)),
    "mul constant": (13, given("Mul", weight(1, 1, 6, 6))),
    "averagepool": (13, op("AveragePool", kernel_shape=[2, 2])),
    "averagepool padded": (13, op("AveragePool", kernel_shape=[3, 3], pads=[1] * 4)),
    "averagepool counted": (
        13,
        op("AveragePool", kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=1),
    ),
    "averagepool ceil": (
        13,
        op("AveragePool", kernel_shape=[4, 4], strides=[3, 3], ceil_mode=1),
    ),
    "averagepool ceil counted": (
        19,
        op(
            "AveragePool",
            kernel_shape=[3, 3],
            strides=[2, 2],
            pads=[1] * 4,
            ceil_mode=1,
            count_include_pad=1,
        ),
    ),
    "averagepool same": (
        13,
        op("AveragePool", kernel_shape=[3, 3], auto_pad="SAME_UPPER", strides=[2, 2]),
    ),
    "averagepool dilated": (19, op("AveragePool", kernel_shape=[2, 2], dilations=[2, 2])),
    "averagepool dilated 1": (19, op("AveragePool", kernel_shape=[2, 2], dilations=[1, 1])),
    "averagepool 22": (22, op("AveragePool", kernel_shape=[2, 2])),
    "averagepool 1d": (
        13,
        chain(given("Reshape", of_ints(0, 4, 36)), op("AveragePool", kernel_shape=[2])),
    ),
    "averagepool 3d": (
        13,
        chain(
            given("Reshape", of_ints(0, 4, 3, 2, 6)),
            op("AveragePool", kernel_shape=[2, 1, 3]),
        ),
    ),
    "globalaveragepool": (13, op("GlobalAveragePool")),
    "globalaveragepool 1d": (
        13,
        chain(given("Reshape", of_ints(0, 4, 36)), op("GlobalAveragePool")),
    ),
    "globalaveragepool 3d": (
        13,
        chain(given("Reshape", of_ints(0, 4, 3, 2, 6)), op("GlobalAveragePool")),
    ),
    "leakyrelu": (13, op("LeakyRelu", alpha=0.2)),
    "leakyrelu negative": (16, op("LeakyRelu", alpha=-0.5)),
    "sigmoid": (13, op("Sigmoid")),
    # what bounds
    "relu": (13, op("Relu")),
    "relu twice": (13, chain(op("Relu"), op("Relu"))),
    "clip": (13, given("Clip", scalar(0), scalar(1))),
    "clip above": (13, given("Clip", empty, scalar(0.5))),
    "clip below": (13, given("Clip", scalar(-0.5))),
    "clip far": (13, given("Clip", scalar(0.5), scalar(1))),
    "clip attribute": (10, op("Clip", min=0.0, max=1.0)),
    "clip then relu": (13, chain(given("Clip", scalar(-1), scalar(1)), op("Relu"))),
    # what stays in float between two pairs
    "pad": (13, given("Pad", of_ints(0, 0, 1, 1, 0, 0, 1, 1))),
    "pad value": (13, given("Pad", of_ints(0, 0, 1, 1, 0, 0, 1, 1), scalar(0.5))),
    "pad attribute": (10, op("Pad", pads=[0, 0, 1, 1, 0, 0, 1, 1], value=0.25)),
    "pad reflect": (13, given("Pad", of_ints(0, 0, 1, 1, 0, 0, 1, 1), mode="reflect")),
    "pad wrap": (19, given("Pad", of_ints(0, 0, 1, 1, 0, 0, 1, 1), mode="wrap")),
    "pad edge": (13, given("Pad", of_ints(0, 0, 1, 1, 0, 0, 1, 1), mode="edge")),
    "pad crop": (13, given("Pad", of_ints(0, 0, -1, 1, 0, 0, 1, 0))),
    "pad axes": (18, given("Pad", of_ints(1, 1, 1, 1), empty, of_ints(2, 3))),
    "pad axes value": (18, given("Pad", of_ints(1, 1, 1, 1), scalar(0.5), of_ints(2, 3))),
    "pad axes negative": (18, given("Pad", of_ints(1, 0), scalar(0.5), of_ints(-1))),
    "pad axes reflect": (
        18,
        given("Pad", of_ints(1, 1, 1, 1), empty, of_ints(2, 3), mode="reflect"),
    ),
    "pad axes unknown": (
        18,
        lambda b, x: b.op(
            "Pad",
            x,
            b.op("Cast", b.op("Slice", b.op("Shape", x), ints(b, 1), ints(b, 3)), to=7),
            "",
            ints(b, 3),
        ),
    ),
    "pad then transpose": (
        18,
        chain(
            given("Pad", of_ints(1, 1), empty, of_ints(3)),
            op("Transpose", perm=[0, 2, 3, 1]),
        ),
    ),
    "softmax": (13, op("Softmax", axis=1)),
    "softmax 11": (11, op("Softmax", axis=1)),
    "logsoftmax": (13, op("LogSoftmax", axis=-1)),
    "tanh": (13, op("Tanh")),
    "hardswish": (14, op("HardSwish")),
    "hardsigmoid": (13, op("HardSigmoid")),
    "gelu": (20, op("Gelu")),
    "elu": (13, op("Elu")),
    "prelu": (13, given("PRelu", weight(4, 1, 1))),
    "exp": (13, op("Exp")),
    "abs": (13, op("Abs")),
    "neg": (13, op("Neg")),
    "sqrt": (13, chain(op("Abs"), op("Sqrt"))),
    "erf": (13, op("Erf")),
    "sub": (13, twice("Sub")),
    "sub itself": (13, lambda b, x: b.op("Sub", b.op("Relu", x), x)),
    "div": (13, given("Div", weight(1, 1, 6, 6))),
    "pow": (13, given("Pow", scalar(2))),
    "min": (13, twice("Min")),
    "max": (13, twice("Max")),
    "sum": (13, twice("Sum")),
    "mean": (13, twice("Mean")),
    "reducemean": (13, op("ReduceMean", axes=[2, 3])),
    "reducemean kept": (18, given("ReduceMean", of_ints(2, 3), keepdims=1)),
    "reducemax": (13, op("ReduceMax", axes=[1], keepdims=1)),
    "reducesum": (13, given("ReduceSum", of_ints(1), keepdims=1)),
    "globalmaxpool": (13, op("GlobalMaxPool")),
    "lppool": (13, op("LpPool", kernel_shape=[2, 2])),
    "depthtospace": (13, op("DepthToSpace", blocksize=2)),
    "spacetodepth": (13, op("SpaceToDepth", blocksize=2)),
    "tile": (13, given("Tile", of_ints(1, 1, 2, 1))),
    "expand": (13, chain(op("GlobalAveragePool"), given("Expand", of_ints(1, 1, 3, 3)))),
    "where": (
        13,
        lambda b, x: b.op(
            "Where", b.op("Greater", x, scalar(0)(b)), x, b.conv(x, 4, 4, k=1)
        ),
    ),
    "where constant": (
        13,
        lambda b, x: b.op("Where", b.const(np.eye(6) > 0), x, scalar(0.5)(b)),
    ),
    "cast": (
        13,
        chain(
            op("Cast", to=onnx.TensorProto.DOUBLE), op("Cast", to=onnx.TensorProto.FLOAT)
        ),
    ),
    "topk": (13, lambda b, x: b.op("TopK", x, ints(b, 3), outputs=2, axis=-1)),
    "gathernd": (13, lambda b, x: b.op("GatherND", x, b.const([[0], [2]], np.int64))),
    "gatherelements": (
        13,
        lambda b, x: b.op(
            "GatherElements", x, b.const(np.zeros((1, 4, 6, 2)), np.int64), axis=3
        ),
    ),
    "cumsum": (14, lambda b, x: b.op("CumSum", x, b.const(1, np.int64))),
    "trilu": (14, op("Trilu")),
    "einsum": (13, op("Einsum", equation="nchw->nhwc")),
    "lrn": (13, op("LRN", size=3)),
    "instancenorm": (13, given("InstanceNormalization", weight(4), weight(4))),
    "layernorm": (17, given("LayerNormalization", weight(6), weight(6))),
    "batchnorm": (15, lambda b, x: b.bn(b.op("MaxPool", x, kernel_shape=[2, 2]), 4)),
    "convtranspose": (13, given("ConvTranspose", weight(4, 3, 2, 2))),
    "attention": (
        13,
        lambda b, x: b.op("MatMul", x, b.op("Transpose", x, perm=[0, 1, 3, 2])),
    ),
    "argmax": (
        13,
        lambda b, x: b.op("Cast", b.op("ArgMax", x, axis=1), to=onnx.TensorProto.FLOAT),
    ),
    "gridsample": (
        16,
        lambda b, x: b.op(
            "GridSample", x, b.const(b.rng.uniform(-1, 1, (3, 4, 4, 2)), np.float32)
        ),
    ),
    "relu, pad and pool": (
        13,
        chain(
            op("Relu"),
            given("Pad", of_ints(0, 0, 1, 1, 0, 0, 1, 1)),
            op("MaxPool", kernel_shape=[3, 3]),
        ),
    ),
}

SAMPLES = 3


def inputs(seed: int = 0) -> dict[str, Array]:
    return {
        "x": np.random.default_rng(seed)
        .standard_normal((SAMPLES, 3, 6, 6))
        .astype(np.float32)
    }


def network(name: str, behind: str) -> Graph:
    """A convolution, the part, and what reads it: another layer, or an output as well."""
    opset, part = PARTS[name]
    b = Builder(7, opset=opset, ir_version=10 if opset > 20 else 8)
    y = part(b, b.conv(b.input(SAMPLES, 3, 6, 6), 3, 4))
    shape = run(session(b.graph(y), fast=False), inputs())[0].shape
    z = (
        b.conv(y, shape[1], 5, k=1)
        if len(shape) == 4
        else b.op("MatMul", y, b.weight(shape[-1], 5))
    )
    return b.graph(z, y) if behind == "output" else b.graph(z)


@pytest.mark.parametrize("behind", ["layer", "output"])
@pytest.mark.parametrize("name", PARTS)
def test_the_file_runs_as_it_is_opened(name: str, behind: str) -> None:
    graph = network(name, behind)
    quantized = pg.quantize(graph, inputs())
    expected = run(session(graph, fast=False), inputs())
    given = run(session(quantized.model), inputs())
    for x, y in zip(expected, given, strict=True):
        assert decibels(float(np.square(x).sum()), float(np.square(x - y).sum())) > 18


@pytest.mark.parametrize(
    ("data", "options"), [(inputs(), {}), (None, {"activations": "none"})]
)
def test_what_onnx_runtime_does_not_open_is_not_given_back(
    data: dict[str, Array] | None, options: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(graph: Graph, **_: object) -> None:
        raise ModelError(f"{graph.source}: ONNX Runtime cannot load it: no such kernel")

    monkeypatch.setattr("prunegraph.quantization.quantize.session", refuses)
    with pytest.raises(
        ModelError,
        match=r"^quantized model: .* no such kernel; leave the layers around that node",
    ):
        pg.quantize(network("relu", "layer"), data, **options)

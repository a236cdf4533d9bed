"""Larger and smaller images."""

from __future__ import annotations

import numpy as np

from prunegraph.frontends.mxnet.builder import Value
from prunegraph.frontends.mxnet.operators.base import SymbolCall, operator


@operator("UpSampling")
def upsampling(call: SymbolCall) -> Value:
    scale = call.integer("scale")
    if call.word("sample_type", "nearest", ("nearest", "bilinear")) == "bilinear":
        return _bilinear(call, scale)
    if len(call.inputs) == 1:
        return _nearest(call, call.x, scale)
    build = call.builder
    height = call.x.size(2) * scale
    scales = [height // value.size(2) for value in call.inputs]
    parts = [
        _nearest(call, value, times)
        for value, times in zip(call.inputs, scales, strict=True)
    ]
    if call.word("multi_input_mode", "concat", ("concat", "sum")) == "sum":
        return build.emit("Sum", *parts)
    return build.emit("Concat", *parts, axis=1)


def _nearest(call: SymbolCall, x: Value, scale: int) -> Value:
    scales = np.array([1, 1, scale, scale], np.float32)
    return call.builder.emit(
        "Resize",
        x,
        None,
        scales,
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )


def _bilinear(call: SymbolCall, scale: int) -> Value:
    """A transposed convolution by channel, whose weight is input 1."""
    kernel = 2 * scale - scale % 2
    pad = -(-(scale - 1) // 2)
    return call.builder.emit(
        "ConvTranspose",
        call.x,
        call.inputs[1],
        kernel_shape=[kernel] * 2,
        strides=[scale] * 2,
        pads=[pad] * 4,
        group=call.integer("num_filter"),
    )


@operator("_contrib_BilinearResize2D")
def bilinear_resize(call: SymbolCall) -> Value:
    build, x = call.builder, call.x
    mode = call.word("mode", "size", ("size", "like"))
    if mode == "like":
        height, width = call.inputs[1].size(2), call.inputs[1].size(3)
    elif call.has("scale_height"):
        height = int(x.size(2) * call.real("scale_height"))
        width = int(x.size(3) * call.real("scale_width"))
    else:
        height, width = call.integer("height", 1), call.integer("width", 1)
    aligned = call.flag("align_corners", True)
    # By scales, so that neither batch nor channels are written down.
    scales = np.array(
        [1, 1, _scale(x.size(2), height), _scale(x.size(3), width)], np.float32
    )
    return build.emit(
        "Resize",
        x,
        None,
        scales,
        mode="linear",
        coordinate_transformation_mode="align_corners" if aligned else "half_pixel",
    )


def _scale(have: int, want: int) -> np.float32:
    """The factor between two sizes; the product is rounded down, so it must not fall below."""
    factor = np.float32(want / have)
    while int(have * float(factor)) < want:
        factor = np.nextafter(factor, np.float32(np.inf))
    return factor

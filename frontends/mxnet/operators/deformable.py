"""Deformable convolution: the input is sampled for each position of the kernel, then a 1x1 convolution."""

from __future__ import annotations

from itertools import product

import numpy as np

from prunegraph.frontends.mxnet.builder import Value
from prunegraph.frontends.mxnet.operators.base import SymbolCall, operator


@operator("_contrib_DeformableConvolution")
def deformable_convolution(call: SymbolCall) -> Value:
    build = call.builder
    data, offset, weight = call.inputs[:3]
    kernel = call.integers("kernel", length=2)
    groups = call.integer("num_deformable_group", 1)
    if groups != 1 or call.integer("num_group", 1) != 1:
        call.fail("groups are not supported")
    taps = [
        _sample(call, data, offset, number, row, column)
        for number, (row, column) in enumerate(product(range(kernel[0]), range(kernel[1])))
    ]
    columns = build.emit("Concat", *taps, axis=1)
    # [F, C, kh, kw] as [F, kh * kw * C, 1, 1]: the taps are joined tap by tap.
    moved = build.emit("Transpose", weight, perm=[0, 2, 3, 1])
    flat = build.emit("Reshape", moved, [weight.size(0), -1, 1, 1])
    bias = [] if call.flag("no_bias") else [call.inputs[3]]
    return build.emit("Conv", columns, flat, *bias, kernel_shape=[1, 1])


def _sample(
    call: SymbolCall, data: Value, offset: Value, number: int, row: int, column: int
) -> Value:
    """The input at one position of the kernel, moved by its offsets; 0 outside the image."""
    build = call.builder
    stride, dilate = call.integers("stride", (1, 1), 2), call.integers("dilate", (1, 1), 2)
    pad = call.integers("pad", (0, 0), 2)
    grids, inside = [], None
    for axis, tap in enumerate((row, column)):
        size, count = data.size(axis + 2), offset.size(axis + 2)
        steps = (np.arange(count) * stride[axis] - pad[axis] + tap * dilate[axis]).astype(
            np.float32
        )
        start = build.constant(steps.reshape((1, -1, 1) if axis == 0 else (1, 1, -1)))
        moved = build.emit(
            "Gather", offset, build.constant(np.array(2 * number + axis)), axis=1
        )
        place = build.emit("Add", moved, start)
        low = build.emit("GreaterOrEqual", place, build.number(0.0, place))
        high = build.emit("Less", place, build.number(size, place))
        both = build.emit("And", low, high)
        inside = both if inside is None else build.emit("And", inside, both)
        scaled = build.emit("Mul", place, build.number(2.0 / max(size - 1, 1), place))
        grids.append(
            build.emit(
                "Unsqueeze", build.emit("Sub", scaled, build.number(1.0, place)), [3]
            )
        )
    grid = build.emit("Concat", grids[1], grids[0], axis=3)
    sampled = build.emit(
        "GridSample", data, grid, mode="bilinear", padding_mode="border", align_corners=1
    )
    assert inside is not None
    return build.emit(
        "Where", build.emit("Unsqueeze", inside, [1]), sampled, build.number(0.0, sampled)
    )

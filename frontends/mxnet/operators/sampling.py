"""Sampling at positions: grids, bilinear samplers, and the correlation of two maps.

A grid [N, 2, H, W] has x and y from -1, the centre of the first pixel, to 1, that of the last one.
"""

from __future__ import annotations

from itertools import product

import numpy as np

from prunegraph.frontends.mxnet.builder import Value
from prunegraph.frontends.mxnet.operators.base import (
    MAX_ELEMENTS,
    SymbolCall,
    operator,
)

#: Displacements of a correlation, at most: each is a few nodes.
MAX_DISPLACEMENTS = 4096


@operator("GridGenerator")
def grid_generator(call: SymbolCall) -> Value:
    if call.word("transform_type", "", ("affine", "warp")) == "affine":
        return _affine_grid(call, call.x)
    return _warped_grid(call)


@operator("BilinearSampler")
def bilinear_sampler(call: SymbolCall) -> Value:
    return _sampled(call, call.x, call.inputs[1])


@operator("SpatialTransformer")
def spatial_transformer(call: SymbolCall) -> Value:
    call.word("transform_type", "affine", ("affine",))
    call.word("sampler_type", "bilinear", ("bilinear",))
    return _sampled(call, call.x, _affine_grid(call, call.inputs[1]))


def _affine_grid(call: SymbolCall, matrices: Value) -> Value:
    """Positions [N, 2, H, W] that affine matrices [N, 6] make of those of the output.

    Their columns are taken apart: of a product with the places, pruning could remove one that is summed over.
    """
    build = call.builder
    height, width = _target(call)
    rows, columns = np.meshgrid(_ends(height), _ends(width), indexing="ij")
    x, y = (
        build.constant(each.reshape(1, 1, -1).astype(matrices.dtype))
        for each in (columns, rows)
    )
    by_x, by_y, shift = build.emit_many(
        "Split", build.emit("Reshape", matrices, [0, 2, 3]), count=3, axis=2
    )
    turned = build.emit("Add", build.emit("Mul", by_x, x), build.emit("Mul", by_y, y))
    return build.emit("Reshape", build.emit("Add", turned, shift), [0, 2, height, width])


def _target(call: SymbolCall) -> tuple[int, int]:
    """Height and width of the output."""
    height, width = call.integers("target_shape", (0, 0), length=2)
    if min(height, width) < 2:
        # MXNet divides by one less, and its positions are no numbers then.
        call.fail(f"target_shape={(height, width)} must be at least 2 high and wide")
    call.affordable(2, height, width)
    return height, width


def _ends(count: int) -> np.ndarray:
    """Places from -1 to 1."""
    return -1 + np.arange(count) * (2.0 / (count - 1))


def _warped_grid(call: SymbolCall) -> Value:
    """Positions that a flow [N, 2, H, W] in pixels moves those of the output to."""
    build, flow = call.builder, call.x
    height, width = flow.size(2), flow.size(3)
    if min(height, width) < 2:
        call.fail("a flow must be at least 2 high and wide")
    rows, columns = np.mgrid[:height, :width]
    pixels = np.stack([columns, rows])[None].astype(flow.dtype)
    half = np.array([(width - 1) / 2, (height - 1) / 2]).reshape(1, 2, 1, 1)
    moved = build.emit("Add", flow, build.constant(pixels))
    scaled = build.emit("Div", moved, build.constant(half.astype(flow.dtype)))
    return build.emit("Sub", scaled, build.number(1.0, scaled))


def _sampled(call: SymbolCall, data: Value, grid: Value) -> Value:
    """The data at the positions of a grid, between pixels in straight lines, 0 around the image."""
    build = call.builder
    return build.emit(
        "GridSample",
        data,
        build.emit("Transpose", grid, perm=[0, 2, 3, 1]),
        mode="bilinear",
        padding_mode="zeros",
        align_corners=1,
    )


@operator("Correlation")
def correlation(call: SymbolCall) -> Value:
    """Mean product, or absolute difference, of each patch of the first map with displaced ones of the second.

    A displacement is a slice, a product and a mean over channels; patches and strides are an average pooling of all.
    """
    build = call.builder
    kernel, stride = call.integer("kernel_size", 1), call.integer("stride1", 1)
    most, step = call.integer("max_displacement", 1), call.integer("stride2", 1)
    pad = call.integer("pad_size", 0)
    if kernel < 1 or kernel % 2 == 0:
        call.fail(f"kernel_size={kernel} must be odd")
    if min(stride, step) < 1 or min(most, pad) < 0:
        call.fail("strides must be positive, and neither pad nor displacement negative")
    radius = most // step
    if (2 * radius + 1) ** 2 > MAX_DISPLACEMENTS:
        call.fail(
            f"it has {(2 * radius + 1) ** 2} displacements, more than {MAX_DISPLACEMENTS}"
        )
    border = most + kernel // 2
    counts = [-(-(call.x.size(axis) + 2 * pad - 2 * border) // stride) for axis in (2, 3)]
    if min(counts) < 1:
        call.fail("displacements and kernel do not fit into the padded map")
    spans = [(count - 1) * stride + kernel for count in counts]
    first, second = (_padded(call, value, pad) for value in call.inputs[:2])
    window = _window(call, first, (most, most), spans)
    maps = []
    for row, column in product(range(-radius, radius + 1), repeat=2):
        start = (most + row * step, most + column * step)
        other = _window(call, second, start, spans)
        if call.flag("is_multiply", True):
            both = build.emit("Mul", window, other)
        else:
            both = build.emit("Abs", build.emit("Sub", window, other))
        maps.append(build.emit("ReduceMean", both, axes=[1], keepdims=1))
    joined = build.emit("Concat", *maps, axis=1)
    if kernel == stride == 1:
        return joined
    return build.emit(
        "AveragePool", joined, kernel_shape=[kernel] * 2, strides=[stride] * 2
    )


def _padded(call: SymbolCall, value: Value, pad: int) -> Value:
    if not pad:
        return value
    size = (value.size(2) + 2 * pad) * (value.size(3) + 2 * pad)
    if size > MAX_ELEMENTS:
        call.fail(f"pad_size={pad} makes a map of {size} places")
    return call.builder.emit("Pad", value, [0, 0, pad, pad, 0, 0, pad, pad])


def _window(
    call: SymbolCall, value: Value, start: tuple[int, int], spans: list[int]
) -> Value:
    """A part of a map, from a row and a column on."""
    ends = [start[0] + spans[0], start[1] + spans[1]]
    return call.builder.emit("Slice", value, list(start), ends, [2, 3])

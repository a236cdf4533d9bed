"""Joining, splitting, cutting out, padding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from prunegraph.frontends.mxnet.builder import Value
from prunegraph.frontends.mxnet.operators.base import SymbolCall, operator

_START, _END = np.iinfo(np.int64).min, np.iinfo(np.int64).max


@operator("Concat", "_rnn_param_concat")
def concat(call: SymbolCall) -> Value:
    return call.builder.emit(
        "Concat", *call.inputs, axis=call.axis("dim", 1 if call.x.rank > 1 else 0)
    )


@operator("_npi_concatenate")
def numpy_concatenate(call: SymbolCall) -> Value:
    if "axis" in call.node.attributes and not call.has("axis"):
        flat = [call.builder.emit("Reshape", value, [-1]) for value in call.inputs]
        return call.builder.emit("Concat", *flat, axis=0)
    return call.builder.emit("Concat", *call.inputs, axis=call.axis("axis", 0))


@operator("stack")
def stack(call: SymbolCall) -> Value:
    axis = call.axis("axis", 0, rank=call.x.rank + 1)
    parts = [call.builder.emit("Unsqueeze", value, [axis]) for value in call.inputs]
    return call.builder.emit("Concat", *parts, axis=axis)


def _split(
    call: SymbolCall, sizes: Sequence[int] | None, count: int, axis: int
) -> list[Value]:
    build = call.builder
    parts = (
        [build.emit("Identity", call.x)]
        if count == 1
        else build.emit_many(
            "Split", call.x, *([sizes] if sizes else []), count=count, axis=axis
        )
    )
    return (
        [build.emit("Squeeze", part, [axis]) for part in parts]
        if call.flag("squeeze_axis")
        else parts
    )


@operator("SliceChannel")
def slice_channel(call: SymbolCall) -> list[Value]:
    count, axis = call.integer("num_outputs"), call.axis("axis", 1)
    if count < 1 or call.x.size(axis) % count:
        call.fail(f"an axis of {call.x.size(axis)} cannot be split in {count}")
    return _split(call, None, count, axis)


@operator("_split_v2")
def split_v2(call: SymbolCall) -> list[Value]:
    axis, sections = call.axis("axis", 0), call.integer("sections", 0)
    if sections:
        if sections < 0 or call.x.size(axis) % sections:
            call.fail(f"an axis of {call.x.size(axis)} cannot be split in {sections}")
        return _split(call, None, sections, axis)
    starts = [*call.integers("indices")]
    sizes = np.diff([*starts, call.x.size(axis)]).tolist()
    return _split(call, sizes, len(sizes), axis)


@operator("slice")
def slice_(call: SymbolCall) -> Value:
    begin, end = call.items("begin"), call.items("end")
    step: Sequence[int | None] = (
        call.items("step") if call.has("step") else (None,) * len(begin)
    )
    if not len(begin) == len(end) == len(step):
        call.fail("begin, end and step must have one number an axis")
    steps = [1 if s is None else s for s in step]
    starts = [
        (0 if s > 0 else _END) if b is None else b
        for b, s in zip(begin, steps, strict=True)
    ]
    ends = [
        (_END if s > 0 else _START) if e is None else e
        for e, s in zip(end, steps, strict=True)
    ]
    return cut(call, starts, ends, range(len(begin)), steps)


def cut(
    call: SymbolCall,
    starts: Sequence[int],
    ends: Sequence[int],
    axes: Sequence[int],
    steps: Sequence[int] | None = None,
) -> Value:
    """Slices along some axes; an axis that is taken whole is not named."""
    taken = steps or [1] * len(axes)
    rows = [
        row
        for row in zip(starts, ends, axes, taken, strict=True)
        if row[:2] != (0, _END) or row[3] != 1
    ]
    if not rows:
        return call.builder.emit("Identity", call.x)
    starts, ends, axes, taken = (list(column) for column in zip(*rows, strict=True))
    return call.builder.emit("Slice", call.x, starts, ends, axes, taken)


@operator("slice_axis")
def slice_axis(call: SymbolCall) -> Value:
    (end,) = call.items("end")
    return cut(
        call, [call.integer("begin", 0)], [_END if end is None else end], [call.axis()]
    )


@operator("slice_like")
def slice_like(call: SymbolCall) -> Value:
    x, like = call.x, call.inputs[1]
    axes = [axis % x.rank for axis in call.integers("axes", range(min(x.rank, like.rank)))]
    axes = [
        axis for axis in axes if x.shape[axis] is None or x.shape[axis] != like.shape[axis]
    ]
    return cut(call, [0] * len(axes), [like.size(axis) for axis in axes], axes)


@operator("Crop")
def crop(call: SymbolCall) -> Value:
    """A window of the two last axes."""
    x = call.x
    height, width = (
        (call.inputs[1].size(2), call.inputs[1].size(3))
        if len(call.inputs) > 1
        else call.integers("h_w")
    )
    top, remaining = call.integers("offset", (0, 0), 2)
    if call.flag("center_crop"):
        top, remaining = (x.size(2) - height) // 2, (x.size(3) - width) // 2
    return cut(call, [top, remaining], [top + height, remaining + width], [2, 3])


@operator("reverse")
def reverse(call: SymbolCall) -> Value:
    axes = call.axes()
    count = len(axes)
    return cut(call, [-1] * count, [_START] * count, axes, [-1] * count)


@operator("Pad")
def pad(call: SymbolCall) -> Value:
    mode = call.word("mode", "constant", ("constant", "edge", "reflect"))
    width = call.integers("pad_width")
    value = (
        [call.builder.number(call.real("constant_value", 0.0), call.x)]
        if mode == "constant"
        else []
    )
    return call.builder.emit("Pad", call.x, [*width[::2], *width[1::2]], *value, mode=mode)

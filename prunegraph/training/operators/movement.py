"""Operators that move data without computing: shapes, joins, slices."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as nnf
from onnx import numpy_helper

from prunegraph.graph.evaluate import resolve_reshape, slice_index
from prunegraph.training.operators.table import (
    DTYPES,
    Call,
    Tensor,
    axes_of,
    ints,
    operator,
    pair_pads,
    scalar,
    to_torch,
)


@operator("Constant")
def constant(call: Call) -> Tensor:
    raise call.refuse("a constant that is neither a number nor a tensor of numbers")


@operator("Shape")
def shape(call: Call, x: Tensor) -> Tensor:
    return torch.tensor(
        list(x.shape)[call.get("start", 0) : call.get("end")], dtype=torch.int64
    )


@operator("Size")
def size(call: Call, x: Tensor) -> Tensor:
    return torch.tensor(x.numel(), dtype=torch.int64)


@operator("Reshape", host=(1,))
def reshape(call: Call, x: Tensor, target: Tensor | None = None) -> Tensor:
    wanted = ints(target) if target is not None else list(call.get("shape"))
    assert wanted is not None
    return x.reshape(resolve_reshape(x.shape, wanted, bool(call.get("allowzero", 0))))


@operator("Flatten")
def flatten(call: Call, x: Tensor) -> Tensor:
    axis = call.get("axis", 1)
    axis = axis + x.dim() if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


@operator("Transpose")
def transpose(call: Call, x: Tensor) -> Tensor:
    return x.permute(tuple(call.get("perm", range(x.dim() - 1, -1, -1))))


@operator("Squeeze", host=(1,))
def squeeze(call: Call, x: Tensor, axes: Tensor | None = None) -> Tensor:
    result = axes_of(call, axes)
    return x.squeeze() if result is None else x.squeeze(tuple(result))


@operator("Unsqueeze", host=(1,))
def unsqueeze(call: Call, x: Tensor, axes: Tensor | None = None) -> Tensor:
    result = axes_of(call, axes) or []
    rank = x.dim() + len(result)
    for axis in sorted(axis % rank for axis in result):
        x = x.unsqueeze(axis)
    return x


@operator("Expand", host=(1,))
def expand(call: Call, x: Tensor, target: Tensor) -> Tensor:
    return x.expand(torch.broadcast_shapes(x.shape, tuple(ints(target) or ())))


@operator("Tile", host=(1,))
def tile(call: Call, x: Tensor, repeats: Tensor) -> Tensor:
    return x.repeat(tuple(ints(repeats) or ())) if x.dim() else x


@operator("Concat")
def concat(call: Call, *inputs: Tensor) -> Tensor:
    return torch.cat(inputs, call.get("axis", 1))


@operator("Split", host=(1,))
def split(call: Call, x: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
    axis = call.get("axis", 0)
    parts = ints(sizes) if sizes is not None else ints(call.get("split"))
    if parts is None:
        # As equal as can be, the last one smaller.
        count = call.get("num_outputs", call.outputs)
        each = math.ceil(x.shape[axis] / count)
        parts = [max(min(each, x.shape[axis] - i * each), 0) for i in range(count)]
    return torch.split(x, parts, axis)


@operator("Slice", host=(1, 2, 3, 4))
def slice_(call: Call, x: Tensor, *given: Tensor | None) -> Tensor:
    index = slice_index(call.node, [x, *(ints(v) for v in given)], x.dim())
    forward = []
    for axis, part in enumerate(index):
        start, stop, step = part.indices(x.shape[axis])
        if step > 0:
            forward.append(slice(start, max(stop, start), step))
        else:
            # Torch slices forwards only: the same cells, then turned round.
            count = len(range(start, stop, step))
            first = start + (count - 1) * step
            forward.append(
                slice(first, start + 1 if count else first, -step) if count else slice(0, 0)
            )
    turned = [
        axis for axis, part in enumerate(index) if part.step is not None and part.step < 0
    ]
    x = x[tuple(forward)]
    return x.flip(turned) if turned else x


@operator("Pad", host=(1, 2, 3))
def pad(
    call: Call,
    x: Tensor,
    pads: Tensor | None = None,
    value: Tensor | None = None,
    axes: Tensor | None = None,
) -> Tensor:
    amounts = (
        ints(pads) if pads is not None else list(call.get("pads", call.get("paddings", [])))
    )
    assert amounts is not None
    places = [axis % x.dim() for axis in ints(axes) or range(x.dim())]
    begins, ends = [0] * x.dim(), [0] * x.dim()
    for i, axis in enumerate(places):
        begins[axis], ends[axis] = amounts[i], amounts[i + len(places)]
    mode = call.get("mode", "constant")
    if mode == "constant":
        fill = scalar(value, call.get("value", 0))
        if x.dtype == torch.bool:
            return nnf.pad(x.to(torch.uint8), pair_pads(begins + ends), value=int(fill)).to(
                torch.bool
            )
        return nnf.pad(x, pair_pads(begins + ends), value=fill)
    for axis, (begin, end) in enumerate(zip(begins, ends, strict=True)):
        if begin or end:
            # Of "reflect", "edge" and "wrap" numpy says which cell goes where; negative pads take cells away.
            cells = np.pad(
                np.arange(x.shape[axis]), (max(begin, 0), max(end, 0)), mode=mode
            )
            cells = cells[max(-begin, 0) : len(cells) - max(-end, 0)]
            x = x.index_select(axis, torch.from_numpy(cells).to(x.device))
    return x


@operator("ConstantOfShape", host=(0,))
def constant_of_shape(call: Call, target: Tensor) -> Tensor:
    given = call.get("value")
    value = torch.zeros(1) if given is None else to_torch(numpy_helper.to_array(given))
    return value.reshape(()).expand(tuple(ints(target) or ())).clone()


@operator("Range", host=(0, 1, 2))
def range_(call: Call, start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    first, last, step = scalar(start), scalar(limit), scalar(delta)
    count = max(math.ceil((last - first) / step), 0)
    return (start.reshape(()) + torch.arange(count) * delta.reshape(())).to(start.dtype)


@operator("EyeLike")
def eye_like(call: Call, x: Tensor) -> Tensor:
    dtype = DTYPES[call.get("dtype")] if call.has("dtype") else x.dtype
    ones = torch.ones(x.shape, dtype=dtype, device=x.device)
    offset = call.get("k", 0)
    return torch.triu(torch.tril(ones, offset), offset)


@operator("DepthToSpace")
def depth_to_space(call: Call, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    b = call.get("blocksize")
    if call.get("mode", "DCR") == "CRD":
        parts = x.reshape(n, c // b**2, b, b, h, w).permute(0, 1, 4, 2, 5, 3)
    else:
        parts = x.reshape(n, b, b, c // b**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return parts.reshape(n, c // b**2, h * b, w * b)


@operator("SpaceToDepth")
def space_to_depth(call: Call, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    b = call.get("blocksize")
    parts = x.reshape(n, c, h // b, b, w // b, b)
    order = (0, 1, 3, 5, 2, 4) if call.get("mode", "DCR") == "CRD" else (0, 3, 5, 1, 2, 4)
    return parts.permute(order).reshape(n, c * b**2, h // b, w // b)


@operator("Trilu", host=(1,))
def trilu(call: Call, x: Tensor, k: Tensor | None = None) -> Tensor:
    return (torch.triu if call.get("upper", 1) else torch.tril)(x, int(scalar(k, 0)))


@operator("CenterCropPad", host=(1,))
def center_crop_pad(call: Call, x: Tensor, target: Tensor) -> Tensor:
    sizes = ints(target) or []
    for axis, wanted in zip(call.get("axes", range(x.dim())), sizes, strict=True):
        spare = x.shape[axis] - wanted
        if spare > 0:
            x = x.narrow(axis, spare // 2, wanted)
        elif spare < 0:
            amounts: list[Any] = [0] * (2 * x.dim())
            amounts[axis % x.dim()] = -spare // 2
            amounts[axis % x.dim() + x.dim()] = -spare - (-spare // 2)
            x = nnf.pad(x, pair_pads(amounts))
    return x


@operator("ReverseSequence", host=(1,))
def reverse_sequence(call: Call, x: Tensor, lengths: Tensor) -> Tensor:
    time, batch = call.get("time_axis", 0), call.get("batch_axis", 1)
    parts = []
    for length, part in zip(lengths.tolist(), x.split(1, batch), strict=True):
        head, tail = part.split([length, part.shape[time] - length], time)
        parts.append(torch.cat([head.flip(time), tail], time))
    return torch.cat(parts, batch)

"""Operators that arrange elements anew."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prunegraph.frontends.mxnet.builder import Shape, Value
from prunegraph.frontends.mxnet.operators.base import SymbolCall, operator

INFER = -1


@dataclass(frozen=True)
class Dim:
    """A size of a result: a copy of source axes (their product), a number, or to be inferred.

    `code` is the position in the attribute that asks for it.
    """

    source: tuple[int, ...] = ()
    literal: int | None = None
    code: int = -1


def walk(codes: Sequence[int], shape: Shape) -> list[Dim]:
    """Say what Reshape's codes mean for a tensor of that shape. Raises ValueError.

    Codes walk the source's axes: a number or -1 (infer) takes the place of one axis, 0 copies
    one, -2 copies all that are left, -3 merges two, -4 splits one in the two sizes that follow.
    """
    result: list[Dim] = []
    at, position = 0, 0
    while position < len(codes):
        code = codes[position]
        if code == -2:
            result += [Dim((axis,), code=position) for axis in range(at, len(shape))]
            at = len(shape)
        elif code == -3:
            result.append(Dim((_axis(at, shape), _axis(at + 1, shape)), code=position))
            at += 2
        elif code == -4:
            if len(codes) < position + 3:
                raise ValueError("-4 must be followed by two sizes")
            result += _split(
                codes[position + 1], codes[position + 2], shape[_axis(at, shape)], position
            )
            position += 2
            at += 1
        elif code == 0:
            result.append(Dim((_axis(at, shape),), code=position))
            at += 1
        elif code >= INFER:
            result.append(Dim(literal=code, code=position))
            at += 1
        else:
            raise ValueError(f"{code} is no code of Reshape")
        position += 1
    return result


def _axis(axis: int, shape: Shape) -> int:
    if axis >= len(shape):
        raise ValueError(f"it names axis {axis} of a tensor of rank {len(shape)}")
    return axis


def _split(first: int, second: int, size: int | None, position: int) -> list[Dim]:
    """The two parts of a split axis."""
    if first == INFER and second == INFER:
        raise ValueError("-4 -1 -1 leaves both sizes open")
    if size is not None and INFER in (first, second):
        known = second if first == INFER else first
        if known <= 0 or size % known:
            raise ValueError(f"an axis of {size} cannot be split by {known}")
    return [Dim(literal=first, code=position + 1), Dim(literal=second, code=position + 2)]


def backwards(codes: Sequence[int]) -> list[int]:
    """Codes in reversed order; the sizes of a split follow their -4 again."""
    result: list[int] = []
    rest = list(codes)
    while rest:
        if len(rest) >= 3 and rest[-1] == -4:
            result += [-4, rest[-2], rest[-3]]
            del rest[-3:]
        elif len(rest) >= 3 and rest[-3] == -4:
            result += [-4, rest[-1], rest[-2]]
            del rest[-3:]
        else:
            result.append(rest.pop())
    return result


def target(codes: Sequence[int], x: Value, reverse: bool) -> list[int]:
    """An ONNX Reshape's shape, with 0 (copy) and -1 (infer) in place of numbers where they do.

    Raises ValueError, UnknownShapeError.
    """
    shape = x.shape[::-1] if reverse else x.shape
    dims = walk(backwards(codes) if reverse else codes, shape)
    if reverse:
        dims = [
            Dim(tuple(x.rank - 1 - axis for axis in dim.source), dim.literal)
            for dim in reversed(dims)
        ]
    open_ends = [k for k, dim in enumerate(dims) if dim.literal == INFER]
    copies = [k for k, dim in enumerate(dims) if dim.literal is None and dim.source != (k,)]
    # One size may be left open: the one that moves with the batch or the channels.
    free = (
        open_ends[0]
        if open_ends
        else min(copies, key=lambda k: _rank_of_use(dims[k]), default=-1)
    )
    result = []
    for k, dim in enumerate(dims):
        if k == free:
            result.append(INFER)
        elif dim.literal is not None:
            result.append(dim.literal)
        else:
            result.append(
                0 if dim.source == (k,) else math.prod(x.size(axis) for axis in dim.source)
            )
    if result.count(INFER) > 1:
        raise ValueError("two sizes are left open")
    return result


def _rank_of_use(dim: Dim) -> int:
    """Merged axes before moved ones, the earliest first."""
    return min(dim.source) + (0 if len(dim.source) > 1 else 100)


@operator("Reshape")
def reshape(call: SymbolCall) -> Value:
    codes = call.integers("shape", ())
    if not codes:
        return _old_reshape(call)
    try:
        return call.builder.emit(
            "Reshape", call.x, target(codes, call.x, call.flag("reverse"))
        )
    except ValueError as error:
        call.fail(f"shape={codes} does not fit {call.x.shape}: {error}")


def _old_reshape(call: SymbolCall) -> Value:
    """`target_shape` of old files: 0 is inferred; `keep_highest` keeps the first axis."""
    sizes = list(call.integers("target_shape"))
    if call.flag("keep_highest"):
        sizes[0] = 0
        return call.builder.emit(
            "Reshape", call.x, [0, *(size or INFER for size in sizes[1:])]
        )
    return call.builder.emit("Reshape", call.x, [size or INFER for size in sizes])


@operator("_npx_reshape")
def numpy_reshape(call: SymbolCall) -> Value:
    """Codes of numpy's reshape: -2 copies an axis, the others are as in numpy."""
    codes = call.integers("newshape")
    if any(code < -2 for code in codes) or call.flag("reverse"):
        call.fail("codes below -2 and reverse are not supported")
    return call.builder.emit(
        "Reshape", call.x, [0 if code == -2 else code for code in codes]
    )


@operator("_np_reshape")
def plain_reshape(call: SymbolCall) -> Value:
    return call.builder.emit("Reshape", call.x, call.integers("newshape"))


@operator("Flatten")
def flatten(call: SymbolCall) -> Value:
    return call.builder.emit("Flatten", call.x, axis=1)


@operator("transpose")
def transpose(call: SymbolCall) -> Value:
    rank = call.x.rank
    axes = [axis % rank for axis in call.integers("axes", range(rank - 1, -1, -1))]
    if sorted(axes) != list(range(rank)):
        call.fail(f"axes={axes} are no order of {rank} axes")
    return call.builder.emit("Transpose", call.x, perm=axes)


@operator("SwapAxis")
def swap_axes(call: SymbolCall) -> Value:
    order = list(range(call.x.rank))
    a, b = call.axis("dim1", 0), call.axis("dim2", 0)
    order[a], order[b] = order[b], order[a]
    return call.builder.emit("Transpose", call.x, perm=order)


@operator("expand_dims")
def expand_dims(call: SymbolCall) -> Value:
    return call.builder.emit("Unsqueeze", call.x, list(call.integers("axis")))


@operator("squeeze")
def squeeze(call: SymbolCall) -> Value:
    if call.node.attributes.get("axis", "None") != "None":
        ones = call.axes() if call.has("axis") else []  # () squeezes nothing
    else:
        ones = [axis for axis, size in enumerate(call.x.sizes) if size == 1]
        if len(ones) == call.x.rank and not call.numpy_shapes:
            ones = ones[1:]
    return (
        call.builder.emit("Squeeze", call.x, ones)
        if ones
        else call.builder.emit("Identity", call.x)
    )


@operator("reshape_like")
def reshape_like(call: SymbolCall) -> Value:
    if any(call.has(name) for name in ("lhs_begin", "lhs_end", "rhs_begin", "rhs_end")):
        call.fail("parts of shapes (lhs_begin and so on) are not supported")
    x, like = call.x, call.inputs[1].sizes
    same = [k < x.rank and x.shape[k] == size for k, size in enumerate(like)]
    codes = [0 if equal else size for equal, size in zip(same, like, strict=True)]
    if False in same:
        codes[same.index(False)] = INFER
    return call.builder.emit("Reshape", x, codes)


@operator("depth_to_space")
def depth_to_space(call: SymbolCall) -> Value:
    return call.builder.emit(
        "DepthToSpace", call.x, blocksize=call.integer("block_size"), mode="DCR"
    )


@operator("space_to_depth")
def space_to_depth(call: SymbolCall) -> Value:
    return call.builder.emit("SpaceToDepth", call.x, blocksize=call.integer("block_size"))


# -- larger shapes ----------------------------------------------------------------------------


def expand(call: SymbolCall, sizes: Sequence[int]) -> Value:
    """The tensor broadcast; a size of 1 leaves an axis as it is."""
    return call.builder.emit("Expand", call.x, list(sizes))


@operator("broadcast_to")
def broadcast_to(call: SymbolCall) -> Value:
    keep = () if call.is_numpy else (0,)
    return expand(
        call, [1 if size in keep or size == -1 else size for size in call.integers("shape")]
    )


@operator("broadcast_axis")
def broadcast_axis(call: SymbolCall) -> Value:
    sizes = [1] * call.x.rank
    for axis, size in zip(
        call.integers("axis", ()), call.integers("size", ()), strict=True
    ):
        sizes[axis] = size
    return expand(call, sizes)


@operator("broadcast_like")
def broadcast_like(call: SymbolCall) -> Value:
    x, like = call.x, call.inputs[1]
    own = [axis % x.rank for axis in call.integers("lhs_axes", range(x.rank))]
    other = call.integers("rhs_axes", range(like.rank))
    sizes = [1] * x.rank
    for axis, source in zip(own, other, strict=True):
        sizes[axis] = 1 if like.shape[source] == x.shape[axis] else like.size(source)
    return expand(call, sizes)


@operator("tile")
def tile(call: SymbolCall) -> Value:
    build, x = call.builder, call.x
    times = list(call.integers("reps"))
    if len(times) > x.rank:
        x = build.emit("Unsqueeze", x, list(range(len(times) - x.rank)))
    return build.emit("Tile", x, [1] * (x.rank - len(times)) + times)


@operator("repeat")
def repeat(call: SymbolCall) -> Value:
    build, x = call.builder, call.x
    x, axis = (x, call.axis()) if call.has("axis") else (build.emit("Reshape", x, [-1]), 0)
    call.affordable(x.size(axis), call.integer("repeats"))
    return build.emit(
        "Gather", x, np.repeat(np.arange(x.size(axis)), call.integer("repeats")), axis=axis
    )

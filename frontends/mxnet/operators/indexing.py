"""Looking up, sorting, and what depends on positions."""

from __future__ import annotations

import numpy as np

from prunegraph.frontends.mxnet.builder import Value
from prunegraph.frontends.mxnet.operators.base import SymbolCall, operator


def positions(call: SymbolCall, index: Value, size: int, mode: str) -> Value:
    """Indices as int64 within an axis of that size, clipped or wrapped; fractions are cut off."""
    build = call.builder
    whole = build.cast(index, np.int64)
    if mode == "wrap":
        return build.emit("Mod", whole, build.number(size, whole))
    return build.emit("Clip", whole, build.number(0, whole), build.number(size - 1, whole))


@operator("take")
def take(call: SymbolCall) -> Value:
    axis = call.axis("axis", 0)
    mode = call.word("mode", "clip", ("clip", "wrap"))
    return call.builder.emit(
        "Gather",
        call.x,
        positions(call, call.inputs[1], call.x.size(axis), mode),
        axis=axis,
    )


@operator("pick")
def pick(call: SymbolCall) -> Value:
    build, data, index = call.builder, *call.inputs[:2]
    axis = call.axis("axis", -1)
    mode = call.word("mode", "clip", ("clip", "wrap"))
    if index.rank < data.rank:
        index = build.emit("Unsqueeze", index, [axis])
    picked = build.emit(
        "GatherElements", data, positions(call, index, data.size(axis), mode), axis=axis
    )
    return picked if call.flag("keepdims") else build.emit("Squeeze", picked, [axis])


@operator("gather_nd")
def gather_nd(call: SymbolCall) -> Value:
    build, data, index = call.builder, *call.inputs[:2]
    index = build.transpose(build.cast(index, np.int64), [*range(1, index.rank), 0])
    return build.emit("GatherND", data, index)


@operator("one_hot")
def one_hot(call: SymbolCall) -> Value:
    build = call.builder
    depth, dtype = call.integer("depth"), call.dtype()
    call.affordable(depth)
    index = build.emit("Unsqueeze", build.cast(call.x, np.int64), [-1])
    hit = build.emit("Equal", index, build.constant(np.arange(depth)))
    on, off = (
        np.array(call.real(name, default), dtype)
        for name, default in (("on_value", 1.0), ("off_value", 0.0))
    )
    return build.emit("Where", hit, on, off)


@operator("where")
def where(call: SymbolCall) -> Value:
    build, condition, yes, no = call.builder, *call.inputs[:3]
    chosen = build.cast(condition, np.bool_)
    if condition.rank == 1 and yes.rank > 1 and not call.is_numpy:
        chosen = build.emit("Reshape", chosen, [-1] + [1] * (yes.rank - 1))
    return build.emit("Where", chosen, yes, no)


# -- order --------------------------------------------------------------------------------


def _flat(call: SymbolCall) -> tuple[Value, int]:
    """The data and the axis to sort along; without an axis the data is a vector."""
    if "axis" in call.node.attributes and not call.has("axis"):
        return call.builder.emit("Reshape", call.x, [-1]), 0
    return call.x, call.axis("axis", -1)


def _top(
    call: SymbolCall, data: Value, axis: int, count: int, ascending: bool
) -> list[Value]:
    return call.builder.emit_many(
        "TopK", data, [count], count=2, axis=axis, largest=int(not ascending), sorted=1
    )


@operator("topk")
def topk(call: SymbolCall) -> Value | list[Value]:
    build = call.builder
    data, axis = _flat(call)
    count = call.integer("k", 1)
    count = count if 0 < count < data.size(axis) else data.size(axis)
    kind = call.word("ret_typ", "indices", ("indices", "value", "both", "mask"))
    values, index = _top(call, data, axis, count, call.flag("is_ascend"))
    if kind == "mask":
        zeros = build.constant(np.zeros(data.sizes, data.dtype))
        ones = build.constant(np.ones(index.sizes, data.dtype))
        return build.emit("ScatterElements", zeros, index, ones, axis=axis)
    index = build.cast(index, call.dtype())
    if kind == "both":
        return [values, index]
    return index if kind == "indices" else values


@operator("sort")
def sort(call: SymbolCall) -> Value:
    data, axis = _flat(call)
    return _top(call, data, axis, data.size(axis), call.flag("is_ascend", True))[0]


@operator("argsort")
def argsort(call: SymbolCall) -> Value:
    data, axis = _flat(call)
    index = _top(call, data, axis, data.size(axis), call.flag("is_ascend", True))[1]
    return call.builder.cast(index, call.dtype())


@operator("argmax", "argmin")
def arg_extreme(call: SymbolCall) -> Value:
    build, x = call.builder, call.x
    op = "ArgMax" if call.node.op == "argmax" else "ArgMin"
    keep = call.flag("keepdims")
    if call.has("axis"):
        result = build.emit(op, x, axis=call.axis(), keepdims=int(keep))
    else:
        result = build.emit(
            op, build.emit("Reshape", x, [-1]), axis=0, keepdims=int(not call.numpy_shapes)
        )
        result = build.emit("Reshape", result, [1] * x.rank) if keep else result
    return result if call.is_numpy else build.cast(result, np.float32)


@operator("argmax_channel")
def argmax_channel(call: SymbolCall) -> Value:
    return call.builder.cast(
        call.builder.emit("ArgMax", call.x, axis=1, keepdims=0), np.float32
    )


# -- sequences: [time, batch, ...] with axis 0, [batch, time, ...] with axis 1 --------------


@operator("SequenceMask")
def sequence_mask(call: SymbolCall) -> Value:
    build, x = call.builder, call.x
    if not call.flag("use_sequence_length"):
        return build.emit("Identity", x)
    axis = call.axis("axis", 0)
    steps = build.constant(
        np.arange(x.size(axis), dtype=np.float32).reshape((-1, 1) if axis == 0 else (1, -1))
    )
    lengths = build.emit("Unsqueeze", build.cast(call.inputs[1], np.float32), [axis])
    inside = build.emit("Less", steps, lengths)
    inside = (
        build.emit("Unsqueeze", inside, list(range(2, x.rank))) if x.rank > 2 else inside
    )
    return build.emit("Where", inside, x, build.number(call.real("value", 0.0), x))


@operator("SequenceLast")
def sequence_last(call: SymbolCall) -> Value:
    build, x = call.builder, call.x
    axis = call.axis("axis", 0)
    if not call.flag("use_sequence_length"):
        return build.emit("Gather", x, build.constant(np.array(-1)), axis=axis)
    batched = build.transpose(x, [1, 0, *range(2, x.rank)]) if axis == 0 else x
    whole = build.cast(call.inputs[1], np.int64)
    last = build.emit("Unsqueeze", build.emit("Sub", whole, build.number(1, whole)), [1])
    return build.emit("GatherND", batched, last, batch_dims=1)


@operator("SequenceReverse")
def sequence_reverse(call: SymbolCall) -> Value:
    build, x = call.builder, call.x
    axis = call.axis("axis", 0)
    if not call.flag("use_sequence_length"):
        return build.emit("Slice", x, [-1], [np.iinfo(np.int64).min], [axis], [-1])
    if axis != 0:
        call.fail("sequences of different lengths are reversed along axis 0 only")
    return build.emit(
        "ReverseSequence",
        x,
        build.cast(call.inputs[1], np.int64),
        time_axis=0,
        batch_axis=1,
    )

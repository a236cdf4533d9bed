"""Selection of boxes: greedy non-maximum suppression as MXNet does it, with results in fixed places.

Boxes are sorted by score; a Scan goes through them and drops what overlaps a box that stays.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper

from prunegraph.frontends.mxnet.builder import Value
from prunegraph.frontends.mxnet.operators.base import SymbolCall, operator

#: Boxes whose overlaps are compared pair by pair; more would need a matrix too large.
MAX_BOXES = 6000

_NONE = -1.0


def _number(call: SymbolCall, value: float) -> Value:
    return call.builder.constant(np.array(value, np.float32))


def _column(call: SymbolCall, rows: Value, index: int) -> Value:
    """A column of [B, N, K] as [B, N]."""
    return call.builder.emit("Gather", rows, call.builder.constant(np.array(index)), axis=2)


def _rows(call: SymbolCall, rows: Value, order: Value) -> Value:
    """Rows of [B, N, K] in the order of [B, M]."""
    return call.builder.emit(
        "GatherND", rows, call.builder.emit("Unsqueeze", order, [2]), batch_dims=1
    )


def _only(call: SymbolCall, rows: Value, keep: Value) -> Value:
    """Rows that are kept; the others are all -1."""
    return call.builder.emit(
        "Where", call.builder.emit("Unsqueeze", keep, [2]), rows, _number(call, _NONE)
    )


def _sorted(
    call: SymbolCall, scores: Value, valid: Value, count: int
) -> tuple[Value, Value]:
    """Positions [B, count] of the best valid scores, best first, and which of them are valid."""
    build = call.builder
    ranked = build.emit("Where", valid, scores, _number(call, -np.inf))
    order = build.emit_many("TopK", ranked, [count], count=2, axis=1, largest=1, sorted=1)[
        1
    ]
    return order, build.emit("GatherElements", valid, order, axis=1)


def _to_front(call: SymbolCall, keep: Value) -> Value:
    """Positions [B, N] that put what is kept before the rest, each in the order it has."""
    build, count = call.builder, keep.size(1)
    steps = build.constant(np.arange(count, dtype=np.float32)[None])
    late = build.constant(np.arange(count, 2 * count, dtype=np.float32)[None])
    key = build.emit("Where", keep, steps, late)
    return build.emit_many("TopK", key, [count], count=2, axis=1, largest=0, sorted=1)[1]


def _overlap(call: SymbolCall, boxes: Value) -> Value:
    """Intersection over union of all pairs of corners [B, T, 4], as [B, T, T]; 0 for empty boxes."""
    build = call.builder
    remaining, top, right, bottom = build.emit_many("Split", boxes, count=4, axis=2)
    zero = _number(call, 0.0)

    def across(value: Value) -> Value:
        return build.emit("Transpose", value, perm=[0, 2, 1])

    def extent(low: Value, high: Value) -> Value:
        length = build.emit(
            "Sub",
            build.emit("Min", high, across(high)),
            build.emit("Max", low, across(low)),
        )
        return build.emit("Max", length, zero)

    shared = build.emit("Mul", extent(remaining, right), extent(top, bottom))
    area = build.emit(
        "Mul", build.emit("Sub", right, remaining), build.emit("Sub", bottom, top)
    )
    union = build.emit("Sub", build.emit("Add", area, across(area)), shared)
    positive = build.emit("Greater", union, zero)
    safe = build.emit("Where", positive, union, _number(call, 1.0))
    return build.emit("Where", positive, build.emit("Div", shared, safe), zero)


def _step() -> onnx.GraphProto:
    """One box: those it drops go, if it is still there itself."""
    nodes = [
        helper.make_node("Gather", ["keep", "number"], ["mine"], axis=1),
        helper.make_node("Unsqueeze", ["mine", "last"], ["here"]),
        helper.make_node("And", ["drops", "here"], ["dropped"]),
        helper.make_node("Not", ["dropped"], ["spared"]),
        helper.make_node("And", ["keep", "spared"], ["kept"]),
    ]
    bools = [
        helper.make_tensor_value_info(name, TensorProto.BOOL, [None, None])
        for name in ("keep", "drops", "kept")
    ]
    number = helper.make_tensor_value_info("number", TensorProto.INT64, [])
    last = helper.make_tensor("last", TensorProto.INT64, [1], [1])
    return helper.make_graph(
        nodes, "suppress", [bools[0], number, bools[1]], [bools[2]], [last]
    )


def suppress(
    call: SymbolCall, boxes: Value, classes: Value | None, keep: Value, threshold: float
) -> Value:
    """Tell which of the sorted boxes [B, T, 4] stay: none that overlaps a better one of its class that stays."""
    build, count = call.builder, boxes.size(1)
    if count > MAX_BOXES:
        call.fail(
            f"{count} boxes would be compared pair by pair; limit them (topk) to {MAX_BOXES}"
        )
    drops = build.emit("GreaterOrEqual", _overlap(call, boxes), _number(call, threshold))
    later = build.constant(np.triu(np.ones((count, count), bool), 1)[None])
    drops = build.emit("And", drops, later)
    if classes is not None:
        alike = build.emit(
            "Equal",
            build.emit("Unsqueeze", classes, [2]),
            build.emit("Unsqueeze", classes, [1]),
        )
        drops = build.emit("And", drops, alike)
    numbers = build.constant(np.arange(count))
    by_box = build.emit("Transpose", drops, perm=[1, 0, 2])
    return build.emit_as(
        "Scan",
        [keep, numbers, by_box],
        keep.shape,
        keep.dtype,
        num_scan_inputs=2,
        body=_step(),
    )


# -- operators ------------------------------------------------------------------------------


@operator("_contrib_MultiBoxDetection")
def multibox_detection(call: SymbolCall) -> Value:
    """Rows [class, score, corners]: the best `nms_topk` sorted, then the other valid ones as they come."""
    build = call.builder
    probability, offsets, anchors = call.inputs[:3]
    foreground = build.emit("Slice", probability, [1], [np.iinfo(np.int64).max], [1])
    scores = build.emit("ReduceMax", foreground, axes=[1], keepdims=0)
    classes = build.cast(build.emit("ArgMax", foreground, axis=1, keepdims=0), np.float32)
    valid = build.emit(
        "GreaterOrEqual", scores, _number(call, call.real("threshold", 0.01))
    )
    boxes = _corners(call, build.emit("Reshape", offsets, [0, -1, 4]), anchors)
    columns = [build.emit("Unsqueeze", value, [2]) for value in (classes, scores)]
    rows = build.emit("Concat", *columns, boxes, axis=2)
    first = _only(call, rows, valid)
    compact = _rows(call, first, _to_front(call, valid))
    threshold = call.real("nms_threshold", 0.5)
    if not 0 < threshold <= 1:
        return compact
    total, limit = scores.size(1), call.integer("nms_topk", -1)
    count = min(limit, total) if limit > 0 else total
    order, there = _sorted(call, scores, valid, count)
    best = _only(call, _rows(call, rows, order), there)
    group = None if call.flag("force_suppress") else _column(call, best, 0)
    corners = build.emit("Slice", best, [2], [6], [2])
    keep = suppress(call, corners, group, there, threshold)
    # What is dropped, or comes after `nms_topk`, loses its class only.
    names = build.emit("Where", keep, _column(call, best, 0), _number(call, _NONE))
    names = build.emit("Unsqueeze", names, [2])
    if count < total:
        best = build.emit(
            "Concat", best, build.emit("Slice", compact, [count], [total], [1]), axis=1
        )
        names = build.emit(
            "Pad", names, [0, 0, 0, 0, total - count, 0], _number(call, _NONE)
        )
    return build.emit("Concat", names, build.emit("Slice", best, [1], [6], [2]), axis=2)


def _corners(call: SymbolCall, offsets: Value, anchors: Value) -> Value:
    """Corners [B, N, 4] from offsets and anchors as corners [1, N, 4]."""
    build = call.builder
    scale = call.reals("variances", (0.1, 0.1, 0.2, 0.2))
    shifts = build.emit_many("Split", offsets, count=4, axis=2)
    edges = build.emit_many("Split", anchors, count=4, axis=2)
    low, high = [], []
    for k in range(2):
        extent = build.emit("Sub", edges[k + 2], edges[k])
        centre = build.emit(
            "Mul", build.emit("Add", edges[k], edges[k + 2]), _number(call, 0.5)
        )
        moved = build.emit(
            "Mul", build.emit("Mul", shifts[k], _number(call, scale[k])), extent
        )
        centre = build.emit("Add", moved, centre)
        grown = build.emit(
            "Exp", build.emit("Mul", shifts[k + 2], _number(call, scale[k + 2]))
        )
        half = build.emit("Mul", build.emit("Mul", grown, extent), _number(call, 0.5))
        low.append(build.emit("Sub", centre, half))
        high.append(build.emit("Add", centre, half))
    boxes = build.emit("Concat", *low, *high, axis=2)
    return (
        build.emit("Clip", boxes, _number(call, 0.0), _number(call, 1.0))
        if call.flag("clip", True)
        else boxes
    )


@operator("_contrib_box_nms")
def box_nms(call: SymbolCall) -> list[Value]:
    """Rows that stay, sorted by score; the others are all -1, at the end."""
    build, x = call.builder, call.x
    if call.word("in_format", "corner") != call.word("out_format", "corner"):
        call.fail("boxes that change between centres and corners are not supported")
    rows = build.emit("Reshape", x, [-1, *x.sizes[-2:]]) if x.rank != 3 else x
    score, group = call.integer("score_index", 1), call.integer("id_index", -1)
    scores = _column(call, rows, score)
    valid = build.emit("Greater", scores, _number(call, call.real("valid_thresh", 0.0)))
    background = call.integer("background_id", -1)
    if group >= 0:
        other = build.emit(
            "Not",
            build.emit("Equal", _column(call, rows, group), _number(call, background)),
        )
        valid = build.emit("And", valid, other)
    total, limit = rows.size(1), call.integer("topk", -1)
    count = min(limit, total) if limit > 0 else total
    order, there = _sorted(call, scores, valid, count)
    best = _rows(call, rows, order)
    classes = (
        _column(call, best, group)
        if group >= 0 and not call.flag("force_suppress")
        else None
    )
    keep = suppress(
        call, _boxes(call, best), classes, there, call.real("overlap_thresh", 0.5)
    )
    kept = _rows(call, _only(call, best, keep), _to_front(call, keep))
    if count < total:
        padding = build.constant(np.array(_NONE, np.float32))
        kept = build.emit("Pad", kept, [0, 0, 0, 0, total - count, 0], padding)
    return [
        build.emit("Reshape", kept, [*_leading(x), *x.sizes[-2:]]) if x.rank != 3 else kept
    ]


def _leading(x: Value) -> Sequence[int]:
    return x.sizes[:-2]


def _boxes(call: SymbolCall, rows: Value) -> Value:
    """Corners [B, T, 4] of rows, whose boxes may be centres and sizes."""
    build, start = call.builder, call.integer("coord_start", 2)
    boxes = build.emit("Slice", rows, [start], [start + 4], [2])
    if call.word("in_format", "corner", ("corner", "center")) == "corner":
        return boxes
    centre, size = build.emit_many("Split", boxes, count=2, axis=2)
    half = build.emit("Mul", size, _number(call, 0.5))
    return build.emit(
        "Concat", build.emit("Sub", centre, half), build.emit("Add", centre, half), axis=2
    )

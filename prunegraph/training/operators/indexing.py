"""Operators that look up, write or sort by index."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from prunegraph.training.operators.table import Call, Tensor, operator, scalar, to_numpy


def _positive(index: Tensor, size: int) -> Tensor:
    index = index.to(torch.int64)
    return torch.where(index < 0, index + size, index)


@operator("Gather")
def gather(call: Call, x: Tensor, index: Tensor) -> Tensor:
    axis = call.get("axis", 0) % x.dim()
    index = _positive(index, x.shape[axis])
    if index.dim() == 0:
        return x.select(axis, int(index))
    rows = x.index_select(axis, index.reshape(-1))
    return rows.reshape(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])


@operator("GatherElements")
def gather_elements(call: Call, x: Tensor, index: Tensor) -> Tensor:
    axis = call.get("axis", 0)
    return torch.gather(x, axis, _positive(index, x.shape[axis]))


def _points(index: Tensor, shape: torch.Size) -> tuple[Tensor, ...]:
    """The last axis of an index taken apart, one tensor an axis."""
    return tuple(
        _positive(part, size) for part, size in zip(index.unbind(-1), shape, strict=False)
    )


@operator("GatherND")
def gather_nd(call: Call, x: Tensor, index: Tensor) -> Tensor:
    batched = call.get("batch_dims", 0)
    lead = x.shape[:batched]
    flat, points = (
        x.reshape(-1, *x.shape[batched:]),
        index.reshape(-1, *index.shape[batched:]),
    )
    rows = (
        torch.arange(len(flat), device=x.device)
        .reshape(-1, *[1] * (points.dim() - 2))
        .expand(points.shape[:-1])
    )
    result = flat[(rows, *_points(points, x.shape[batched:]))]
    return result.reshape((*lead, *result.shape[1:]))


REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


@operator("ScatterElements", "Scatter")
def scatter_elements(call: Call, x: Tensor, index: Tensor, updates: Tensor) -> Tensor:
    axis, reduction = call.get("axis", 0), call.get("reduction", "none")
    index = _positive(index, x.shape[axis])
    if reduction == "none":
        return x.scatter(axis, index, updates)
    return x.scatter_reduce(axis, index, updates, REDUCTIONS[reduction])


@operator("ScatterND")
def scatter_nd(call: Call, x: Tensor, index: Tensor, updates: Tensor) -> Tensor:
    reduction, points = call.get("reduction", "none"), _points(index, x.shape)
    if reduction == "none":
        return x.index_put(points, updates)
    depth = index.shape[-1]
    flat = x.reshape(-1, *x.shape[depth:])
    where = torch.zeros_like(points[0])
    for part, size in zip(points, x.shape, strict=False):
        where = where * size + part
    rows = updates.reshape(-1, *x.shape[depth:])
    target = where.reshape(-1, *[1] * (rows.dim() - 1)).expand_as(rows)
    return flat.scatter_reduce(0, target, rows, REDUCTIONS[reduction]).reshape(x.shape)


@operator("TensorScatter")
def tensor_scatter(
    call: Call, cache: Tensor, update: Tensor, starts: Tensor | None = None
) -> Tensor:
    axis = call.get("axis", -2) % cache.dim()
    size, output = cache.shape[axis], cache.clone()
    for row in range(cache.shape[0]):
        first = 0 if starts is None else int(starts[row])
        places = first + torch.arange(update.shape[axis], device=cache.device)
        places = places % size if call.get("mode", "linear") == "circular" else places
        output[row] = output[row].index_copy(axis - 1, places, update[row])
    return output


@operator("OneHot", host=(1,))
def one_hot(call: Call, index: Tensor, depth: Tensor, values: Tensor) -> Tensor:
    size, axis = int(scalar(depth)), call.get("axis", -1)
    axis = axis % (index.dim() + 1)
    inside = (index >= -size) & (index < size)
    cells = _positive(index, size).unsqueeze(axis)
    steps = torch.arange(size, device=index.device).reshape(-1, *[1] * (index.dim() - axis))
    return torch.where((cells == steps) & inside.unsqueeze(axis), values[1], values[0])


@operator("NonZero")
def non_zero(call: Call, x: Tensor) -> Tensor:
    return torch.nonzero(x.reshape(1) if x.dim() == 0 else x).T


@operator("Compress")
def compress(call: Call, x: Tensor, condition: Tensor) -> Tensor:
    axis = call.get("axis")
    x, axis = (x.reshape(-1), 0) if axis is None else (x, axis)
    return x.index_select(axis, torch.nonzero(condition)[:, 0])


def _best(call: Call, x: Tensor, largest: bool) -> Tensor:
    axis = call.get("axis", 0)
    last = call.get("select_last_index", 0)
    turned = x.flip(axis) if last else x
    # Of equal ones the first counts; torch promises that for a stable sort only.
    best = torch.sort(turned, dim=axis, descending=largest, stable=True)[1].narrow(
        axis, 0, 1
    )
    best = x.shape[axis] - 1 - best if last else best
    return best if call.get("keepdims", 1) else best.squeeze(axis)


@operator("ArgMax")
def arg_max(call: Call, x: Tensor) -> Tensor:
    return _best(call, x, largest=True)


@operator("ArgMin")
def arg_min(call: Call, x: Tensor) -> Tensor:
    return _best(call, x, largest=False)


@operator("TopK", host=(1,))
def top_k(call: Call, x: Tensor, k: Tensor | None = None) -> tuple[Tensor, Tensor]:
    count = int(scalar(k, call.get("k")))
    axis, largest = call.get("axis", -1), bool(call.get("largest", 1))
    values, places = torch.sort(x, dim=axis, descending=largest, stable=True)
    return values.narrow(axis, 0, count), places.narrow(axis, 0, count)


@operator("Unique")
def unique(call: Call, x: Tensor) -> tuple[Tensor, ...]:
    axis = call.get("axis")
    x, axis = (x.reshape(-1), 0) if axis is None else (x, axis)
    values, inverse, counts = torch.unique(
        x, return_inverse=True, return_counts=True, dim=axis
    )
    order = torch.arange(len(inverse), device=x.device)
    first = order.new_full((len(counts),), len(inverse)).scatter_reduce(
        0, inverse, order, "amin"
    )
    if not call.get("sorted", 1):
        by_place = torch.argsort(first)
        values, counts, first = (
            values.index_select(axis, by_place),
            counts[by_place],
            first[by_place],
        )
        inverse = torch.argsort(by_place)[inverse]
    return values, first, inverse, counts


@operator("NonMaxSuppression", host=(2, 3, 4))
def non_max_suppression(
    call: Call,
    boxes: Tensor,
    scores: Tensor,
    most: Tensor | None = None,
    overlap: Tensor | None = None,
    threshold: Tensor | None = None,
) -> Tensor:
    """Rows of (batch, class, box) that are kept, best first."""
    count, limit = int(scalar(most, 0)), scalar(overlap, 0.0)
    kept = []
    # Places have no gradients, and numpy is quicker with so many small arrays.
    all_boxes, all_scores = to_numpy(boxes.float()), to_numpy(scores.float())
    for batch in range(scores.shape[0]):
        corners = _as_corners(all_boxes[batch], bool(call.get("center_point_box", 0)))
        for kind in range(scores.shape[1]):
            chosen = _suppressed(corners, all_scores[batch, kind], count, limit, threshold)
            kept += [(batch, kind, box) for box in chosen]
    return torch.tensor(kept, dtype=torch.int64, device=boxes.device).reshape(-1, 3)


def _as_corners(boxes: np.ndarray, centred: bool) -> np.ndarray:
    """Boxes as (low, low, high, high)."""
    if centred:
        middle, half = boxes[:, :2], boxes[:, 2:] / 2
        return np.concatenate([middle - half, middle + half], 1)
    return np.concatenate(
        [np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])], 1
    )


def _suppressed(
    boxes: np.ndarray,
    scores: np.ndarray,
    count: int,
    limit: float,
    threshold: Tensor | None,
) -> Iterator[int]:
    """Boxes that stay, best first: one goes if it overlaps a better one that stays."""
    order = np.argsort(-scores, kind="stable")
    if threshold is not None:
        order = order[scores[order] > scalar(threshold)]
    boxes = boxes[order]
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    while len(order) and count > 0:
        yield int(order[0])
        count -= 1
        stays = _overlap(boxes[0], areas[0], boxes[1:], areas[1:]) <= limit
        order, boxes, areas = order[1:][stays], boxes[1:][stays], areas[1:][stays]


def _overlap(
    box: np.ndarray, area: np.ndarray, others: np.ndarray, areas: np.ndarray
) -> np.ndarray:
    """Intersection over union of a box with others."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    common = np.maximum(sides[:, 0], 0) * np.maximum(sides[:, 1], 0)
    whole = area + areas - common
    return np.divide(common, whole, out=np.zeros_like(common), where=whole > 0)

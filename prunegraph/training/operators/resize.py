"""Resize and Upsample: every mode of every opset, one axis after the other."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from prunegraph.training.operators.table import Call, Tensor, ints, operator

Array = np.ndarray


@dataclass(frozen=True)
class _Axis:
    """How one axis is resized; `roi` are its start and end for `tf_crop_and_resize`."""

    old: int
    new: int
    scale: float
    roi: tuple[float, float] = (0.0, 1.0)


def _positions(axis: _Axis, mode: str) -> Array:
    """Where each new cell is on the old axis."""
    old, new, scale = axis.old, axis.new, axis.scale
    cells = np.arange(new, dtype=np.float64)
    if mode == "asymmetric":
        return cells / scale
    if mode == "align_corners":
        return cells * ((old - 1) / (new - 1)) if new > 1 else np.zeros(new)
    if mode == "tf_half_pixel_for_nn":
        return (cells + 0.5) / scale
    if mode == "tf_crop_and_resize":
        start, end = axis.roi
        if new > 1:
            return start * (old - 1) + cells * (end - start) * (old - 1) / (new - 1)
        return np.full(new, 0.5 * (start + end) * (old - 1))
    if mode == "pytorch_half_pixel" and new <= 1:
        return np.zeros(new)
    result = (cells + 0.5) / scale - 0.5
    if mode == "half_pixel_symmetric":
        result += old / 2 * (1 - new / (scale * old))
    return result


def _nearest(positions: Array, rounding: str) -> Array:
    if rounding == "floor":
        return np.floor(positions)
    if rounding == "ceil":
        return np.ceil(positions)
    if rounding == "round_prefer_ceil":
        return np.floor(positions + 0.5)
    return np.ceil(positions - 0.5)


def _triangle(distance: Array, _: float) -> Array:
    return np.clip(1 - np.abs(distance), 0, None)


def _cubic(distance: Array, a: float) -> Array:
    """Keys' kernel."""
    d = np.abs(distance)
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


def _matrix(call: Call, axis: _Axis, positions: Array, mode: str) -> Array:
    """Weights of the old cells for each new one [new, old]."""
    kernel, reach = (_triangle, 1) if mode == "linear" else (_cubic, 2)
    shrink = min(axis.scale, 1.0) if call.get("antialias", 0) else 1.0
    reach = math.ceil(reach / shrink)
    cells = np.floor(positions)[:, None] + np.arange(-reach, reach + 2)
    weights = kernel(
        (cells - positions[:, None]) * shrink, call.get("cubic_coeff_a", -0.75)
    )
    if call.get("exclude_outside", 0):
        weights = np.where((cells >= 0) & (cells < axis.old), weights, 0.0)
    if call.get("exclude_outside", 0) or shrink < 1:
        weights = weights / weights.sum(1, keepdims=True)
    matrix = np.zeros((axis.new, axis.old))
    rows = np.broadcast_to(np.arange(axis.new)[:, None], cells.shape)
    np.add.at(matrix, (rows, np.clip(cells, 0, axis.old - 1).astype(np.int64)), weights)
    return matrix


def _resized(
    call: Call, x: Tensor, place: int, axis: _Axis, defaults: tuple[str, str]
) -> Tensor:
    """A tensor with one axis resized."""
    coordinates = call.get("coordinate_transformation_mode", defaults[0])
    mode = call.get("mode", "nearest")
    if axis.new == axis.old and axis.scale == 1 and coordinates != "tf_crop_and_resize":
        return x
    positions = _positions(axis, coordinates)
    if mode == "nearest":
        cells = np.clip(
            _nearest(positions, call.get("nearest_mode", defaults[1])), 0, axis.old - 1
        )
        y = x.index_select(place, torch.from_numpy(cells.astype(np.int64)).to(x.device))
    else:
        matrix = torch.from_numpy(
            _matrix(call, axis, positions, "cubic" if mode == "cubic" else "linear")
        )
        kind = x.dtype if x.is_floating_point() else torch.float32
        y = torch.matmul(
            x.movedim(place, -1).to(kind), matrix.T.to(x.device, kind)
        ).movedim(-1, place)
        y = y if x.is_floating_point() else y.round().to(x.dtype)
    if coordinates == "tf_crop_and_resize":
        outside = torch.from_numpy((positions < 0) | (positions > axis.old - 1)).to(
            x.device
        )
        shape = [-1 if i == place else 1 for i in range(x.dim())]
        y = torch.where(outside.reshape(shape), call.get("extrapolation_value", 0.0), y)
    return y


def _scaled(sizes: list[int], scales: list[float]) -> list[_Axis]:
    return [
        _Axis(old, math.floor(old * scale), scale)
        for old, scale in zip(sizes, scales, strict=True)
    ]


def _sized(sizes: list[int], wanted: list[int], policy: str) -> list[_Axis]:
    if policy == "stretch":
        return [_Axis(old, new, new / old) for old, new in zip(sizes, wanted, strict=True)]
    ratios = [new / old for old, new in zip(sizes, wanted, strict=True)]
    scale = min(ratios) if policy == "not_larger" else max(ratios)
    return [_Axis(old, math.floor(scale * old + 0.5), scale) for old in sizes]


@operator("Resize", host=(1, 2, 3))
def resize(
    call: Call,
    x: Tensor,
    roi: Tensor | None = None,
    scales: Tensor | None = None,
    sizes: Tensor | None = None,
) -> Tensor:
    defaults = ("half_pixel", "round_prefer_floor")
    if call.version < 11:
        roi, scales, defaults = None, roi, ("asymmetric", "floor")
    places = [axis % x.dim() for axis in call.get("axes", range(x.dim()))]
    old = [x.shape[place] for place in places]
    if sizes is not None and sizes.numel():
        axes = _sized(
            old, ints(sizes) or [], call.get("keep_aspect_ratio_policy", "stretch")
        )
    else:
        assert scales is not None
        axes = _scaled(old, scales.tolist())
    if roi is not None and roi.numel():
        given = roi.tolist()
        axes = [
            _Axis(axis.old, axis.new, axis.scale, (given[i], given[i + len(axes)]))
            for i, axis in enumerate(axes)
        ]
    for place, axis in zip(places, axes, strict=True):
        x = _resized(call, x, place, axis, defaults)
    return x


@operator("Upsample", host=(1,))
def upsample(call: Call, x: Tensor, scales: Tensor | None = None) -> Tensor:
    given = scales.tolist() if scales is not None else list(call.get("scales"))
    for place, axis in enumerate(_scaled(list(x.shape), given)):
        x = _resized(call, x, place, axis, ("asymmetric", "floor"))
    return x

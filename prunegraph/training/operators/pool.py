"""Pools, and operators that sample a map at positions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as nnf

from prunegraph.training.operators.table import Call, Tensor, auto_pads, operator, pair_pads

MAX_POOL = {1: nnf.max_pool1d, 2: nnf.max_pool2d, 3: nnf.max_pool3d}


class _Window:
    """A pool's attributes, with pads at the end stretched where the output size is rounded up."""

    def __init__(self, call: Call, x: Tensor):
        rank = x.dim() - 2
        self.kernel = list(call.get("kernel_shape"))
        self.strides = list(call.get("strides", [1] * rank))
        self.dilations = list(call.get("dilations", [1] * rank))
        self.pads = auto_pads(call, x.shape[2:], self.kernel, self.strides, self.dilations)
        ceil = call.get("ceil_mode", 0) and call.get("auto_pad", "NOTSET") == "NOTSET"
        self.extra = [
            self._extra(axis, x.shape[2 + axis]) if ceil else 0 for axis in range(rank)
        ]

    def _extra(self, axis: int, size: int) -> int:
        """Cells behind the padding that a last, incomplete window needs; it has to start inside of the padding."""
        rank, stride = len(self.kernel), self.strides[axis]
        whole = size + self.pads[axis] + self.pads[axis + rank]
        width = (self.kernel[axis] - 1) * self.dilations[axis] + 1
        steps = math.ceil((whole - width) / stride)
        if steps * stride >= size + self.pads[axis]:
            steps -= 1
        return max(steps * stride + width - whole, 0)

    def stretched(self) -> list[int]:
        rank = len(self.kernel)
        return self.pads[:rank] + [
            p + e for p, e in zip(self.pads[rank:], self.extra, strict=True)
        ]

    def windows(self, x: Tensor, fill: float, pads: Sequence[int]) -> Tensor:
        """Cells of every window along a last axis [n, c, *positions, cells]."""
        x = nnf.pad(x, pair_pads(pads), value=fill)
        rank = len(self.kernel)
        for axis, (width, stride, dilation) in enumerate(
            zip(self.kernel, self.strides, self.dilations, strict=True)
        ):
            x = x.unfold(2 + axis, (width - 1) * dilation + 1, stride)[..., ::1]
            x = x[..., torch.arange(0, x.shape[-1], dilation, device=x.device)]
        return x.flatten(2 + rank)


def _lowest(x: Tensor) -> float:
    return -math.inf if x.is_floating_point() else torch.iinfo(x.dtype).min


@operator("MaxPool")
def max_pool(call: Call, x: Tensor) -> object:
    window, rank = _Window(call, x), x.dim() - 2
    pads = window.stretched()
    if call.wanted(1):
        return _max_with_places(call, x, window, pads)
    half = [min(b, e) for b, e in zip(pads[:rank], pads[rank:], strict=True)]
    fits = rank in MAX_POOL and all(
        p * 2 <= k for p, k in zip(half, window.kernel, strict=True)
    )
    if not fits or not x.is_floating_point():
        kind = x.dtype
        wide = x if x.is_floating_point() else x.to(torch.int64)
        return window.windows(wide, _lowest(wide), pads).amax(-1).to(kind)
    rest = [p - h for p, h in zip(pads, half * 2, strict=True)]
    if any(rest):
        x = nnf.pad(x, pair_pads(rest), value=-math.inf)
    return MAX_POOL[rank](x, window.kernel, window.strides, half, window.dilations)


def _max_with_places(
    call: Call, x: Tensor, window: _Window, pads: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Maxima, and where they are in the flattened input."""
    spatial = list(x.shape[2:])
    places = torch.arange(x.numel(), device=x.device)
    if call.get("storage_order", 0):
        last = list(reversed(range(x.dim() - 2)))
        size = math.prod(spatial)
        columns = (
            torch.arange(size, device=x.device)
            .reshape(spatial[::-1])
            .permute(last)
            .reshape(-1)
        )
        places = (
            columns + size * torch.arange(x.shape[0] * x.shape[1], device=x.device)[:, None]
        )
    wide = x if x.is_floating_point() else x.to(torch.int64)
    best, index = window.windows(wide, _lowest(wide), pads).max(-1)
    cells = window.windows(places.reshape(x.shape).double(), -1, pads).long()
    return best.to(x.dtype), cells.gather(-1, index[..., None])[..., 0]


@operator("AveragePool")
def average_pool(call: Call, x: Tensor) -> Tensor:
    window = _Window(call, x)
    if (
        not any(window.pads)
        and not any(window.extra)
        and set(window.dilations) == {1}
        and x.dim() == 4
    ):
        return nnf.avg_pool2d(x, window.kernel, window.strides)
    pads = window.stretched()
    sums = window.windows(x, 0.0, pads).sum(-1)
    if call.get("count_include_pad", 0):
        inside, rest = (
            nnf.pad(torch.ones_like(x[:1, :1]), pair_pads(window.pads), value=1.0),
            window.extra,
        )
        counts = window.windows(inside, 0.0, [0] * len(rest) + list(rest)).sum(-1)
    else:
        counts = window.windows(torch.ones_like(x[:1, :1]), 0.0, pads).sum(-1)
    return sums / counts


@operator("LpPool")
def lp_pool(call: Call, x: Tensor) -> Tensor:
    window, p = _Window(call, x), call.get("p", 2)
    return window.windows(x.abs().pow(p), 0.0, window.stretched()).sum(-1).pow(1 / p)


@operator("GlobalAveragePool")
def global_average_pool(call: Call, x: Tensor) -> Tensor:
    return x.mean(list(range(2, x.dim())), keepdim=True)


@operator("GlobalMaxPool")
def global_max_pool(call: Call, x: Tensor) -> Tensor:
    return x.amax(list(range(2, x.dim())), keepdim=True)


@operator("GlobalLpPool")
def global_lp_pool(call: Call, x: Tensor) -> Tensor:
    p = call.get("p", 2)
    return x.abs().pow(p).sum(list(range(2, x.dim())), keepdim=True).pow(1 / p)


@operator("GridSample")
def grid_sample(call: Call, x: Tensor, grid: Tensor) -> Tensor:
    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(
        call.get("mode", "bilinear"), call.get("mode", "bilinear")
    )
    if mode == "bicubic" and x.dim() != 4:
        raise call.refuse("a cubic GridSample of volumes")
    return nnf.grid_sample(
        x, grid, mode, call.get("padding_mode", "zeros"), bool(call.get("align_corners", 0))
    )


@operator("AffineGrid", host=(1,))
def affine_grid(call: Call, theta: Tensor, size: Tensor) -> Tensor:
    return nnf.affine_grid(theta, size.tolist(), bool(call.get("align_corners", 0)))


@operator("RoiAlign")
def roi_align(call: Call, x: Tensor, rois: Tensor, batch: Tensor) -> Tensor:
    """Means (or maxima) of bilinear samples in the cells of each region."""
    high, wide = call.get("output_height", 1), call.get("output_width", 1)
    half = call.get(
        "coordinate_transformation_mode",
        "half_pixel" if call.version >= 16 else "output_half_pixel",
    )
    corners = rois * call.get("spatial_scale", 1.0) - (0.5 if half == "half_pixel" else 0.0)
    created = []
    for (x1, y1, x2, y2), index in zip(corners.tolist(), batch.tolist(), strict=True):
        width, height = x2 - x1, y2 - y1
        if half != "half_pixel":
            width, height = max(width, 1.0), max(height, 1.0)
        ratio = call.get("sampling_ratio", 0)
        rows = _samples(y1, height, high, ratio)
        columns = _samples(x1, width, wide, ratio)
        created.append(_pooled(call, x[int(index)], rows, columns, (high, wide)))
    return torch.stack(created) if created else x.new_zeros((0, x.shape[1], high, wide))


def _samples(start: float, size: float, cells: int, ratio: int) -> Tensor:
    """Positions of the samples along one axis [cells * samples a cell]."""
    count = ratio if ratio > 0 else max(math.ceil(size / cells), 1)
    steps = (torch.arange(cells * count, dtype=torch.float32) + 0.5) / count
    return torch.tensor(start, dtype=torch.float32) + steps * (size / cells)


def _corners(
    positions: Tensor, size: int, like: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Lower and upper cell, weight of the upper one, and which positions are inside."""
    inside = (positions >= -1.0) & (positions <= size)
    positions = positions.clamp(min=0)
    low = positions.floor().long().clamp(max=size - 1)
    high = (low + 1).clamp(max=size - 1)
    part = torch.where(low >= size - 1, torch.zeros_like(positions), positions - low)
    device = like.device
    return low.to(device), high.to(device), part.to(like), inside.to(device)


def _pooled(
    call: Call, x: Tensor, rows: Tensor, columns: Tensor, cells: tuple[int, int]
) -> Tensor:
    top, bottom, down, rows_in = _corners(rows, x.shape[1], x)
    remaining, right, along, columns_in = _corners(columns, x.shape[2], x)
    down = down[:, None]
    inside = rows_in[:, None] & columns_in
    parts = [
        x[:, row][:, :, column] * share
        for row, column, share in (
            (top, remaining, (1 - down) * (1 - along)),
            (top, right, (1 - down) * along),
            (bottom, remaining, down * (1 - along)),
            (bottom, right, down * along),
        )
    ]
    shape = (
        x.shape[0],
        cells[0],
        len(rows) // cells[0],
        cells[1],
        len(columns) // cells[1],
    )
    if call.get("mode", "avg") == "max":
        # ONNX takes the largest of the four weighted corners, not of their sums.
        largest = torch.stack(parts).amax(0)
        return torch.where(inside, largest, 0.0).reshape(shape).amax((2, 4))
    return torch.where(inside, sum(parts), 0.0).reshape(shape).mean((2, 4))

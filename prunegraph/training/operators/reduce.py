"""Reductions and running sums."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch

from prunegraph.training.operators.table import Call, Tensor, axes_of, operator, scalar

Reduction = Callable[[Tensor, list[int]], Tensor]


def _product(x: Tensor, axes: list[int]) -> Tensor:
    for axis in axes:
        x = x.prod(axis, keepdim=True, dtype=x.dtype)
    return x


def _extreme(x: Tensor, axes: list[int], largest: bool) -> Tensor:
    """Maxima or minima; those of nothing are the lowest or highest number."""
    if x.dtype == torch.bool:
        return _extreme(x.to(torch.uint8), axes, largest).clamp(max=1).to(torch.bool)
    if any(x.shape[axis] == 0 for axis in axes):
        shape = [1 if axis in axes else size for axis, size in enumerate(x.shape)]
        low, high = (-math.inf, math.inf) if x.is_floating_point() else _limits(x.dtype)
        return x.new_full(shape, low if largest else high)
    return x.amax(axes, keepdim=True) if largest else x.amin(axes, keepdim=True)


def _limits(dtype: torch.dtype) -> tuple[int, int]:
    limits = torch.iinfo(dtype)
    return limits.min, limits.max


def _sum(x: Tensor, axes: list[int]) -> Tensor:
    return x.sum(axes, keepdim=True, dtype=x.dtype)


def _log_sum_exp(x: Tensor, axes: list[int]) -> Tensor:
    return torch.logsumexp(
        x if x.is_floating_point() else x.double(), axes, keepdim=True
    ).to(x.dtype)


def _mean(x: Tensor, axes: list[int]) -> Tensor:
    return (
        x.mean(axes, keepdim=True)
        if x.is_floating_point()
        else x.double().mean(axes, True).to(x.dtype)
    )


def _norm(x: Tensor, axes: list[int]) -> Tensor:
    if not x.is_floating_point():
        return x.double().square().sum(axes, keepdim=True).sqrt().to(x.dtype)
    return torch.linalg.vector_norm(x, 2, dim=axes, keepdim=True)


REDUCTIONS: dict[str, Reduction] = {
    "ReduceL1": lambda x, axes: _sum(x.abs(), axes),
    "ReduceL2": _norm,
    "ReduceLogSum": lambda x, axes: _sum(x, axes).log(),
    "ReduceLogSumExp": _log_sum_exp,
    "ReduceMax": functools.partial(_extreme, largest=True),
    "ReduceMean": _mean,
    "ReduceMin": functools.partial(_extreme, largest=False),
    "ReduceProd": _product,
    "ReduceSum": _sum,
    "ReduceSumSquare": lambda x, axes: _sum(x.square(), axes),
}


def _register(name: str, function: Reduction) -> None:
    @operator(name, host=(1,))
    def reduce(call: Call, x: Tensor, axes: Tensor | None = None) -> Tensor:
        result = axes_of(call, axes)
        if not result:
            if call.get("noop_with_empty_axes", 0):
                # Nothing is summed; what is done to single elements is done all the same.
                return function(x.unsqueeze(-1), [x.dim()]).squeeze(-1)
            result = list(range(x.dim()))
        places = sorted(axis % x.dim() for axis in result) if x.dim() else []
        if not places:
            return function(x.reshape(1), [0]).reshape(())
        created = function(x, places)
        return (
            created
            if call.get("keepdims", 1)
            else created.reshape([s for a, s in enumerate(x.shape) if a not in places])
        )


for _name, _function in REDUCTIONS.items():
    _register(_name, _function)


def _running(
    call: Call, x: Tensor, axis: int, function: Callable[..., Tensor], start: float
) -> Tensor:
    """Running sums or products along an axis, with ONNX's two switches."""
    x = x.flip(axis) if call.get("reverse", 0) else x
    created = function(x, axis, dtype=x.dtype)
    if call.get("exclusive", 0):
        first = torch.full_like(created.narrow(axis, 0, 1), start)
        created = torch.cat([first, created.narrow(axis, 0, created.shape[axis] - 1)], axis)
    return created.flip(axis) if call.get("reverse", 0) else created


@operator("CumSum", host=(1,))
def cum_sum(call: Call, x: Tensor, axis: Tensor) -> Tensor:
    return _running(call, x, int(scalar(axis)), torch.cumsum, 0)


@operator("CumProd", host=(1,))
def cum_prod(call: Call, x: Tensor, axis: Tensor) -> Tensor:
    return _running(call, x, int(scalar(axis)), torch.cumprod, 1)

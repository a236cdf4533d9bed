"""The two operators of a binary network while it is trained, with the gradients they get.

Domain `prunegraph.binary`: `HalfWave` quantizes rectified activations, `BinaryWeight` makes the weights a layer
computes with, scale times sign, of those that are trained. Both become operators of ONNX when the network is written
(`lower`).
Sources: Cai, He, Sun, Vasconcelos 2017 (HWGQ); Rastegari, Ordonez, Redmon, Farhadi 2016 (scales of filters).
"""

from __future__ import annotations

from typing import Any

import torch

from prunegraph.training.operators.table import Call, Tensor, operator

DOMAIN = "prunegraph.binary"

#: What stands in for the gradient of a half-wave quantizer.
BACKWARDS = ("clipped", "relu", "log")

#: The size of the group of inputs that has a filter's largest scale; the others' are whole numbers below. The coarser
#: they are, the finer a layer's bias can be beside them (`requantize`).
LEVELS = 15


class HalfWaveThrough(torch.autograd.Function):
    """The quantizer `half_wave`; its gradient is that of the function named `backward`.

    "clipped": 1 on (0, q], q the largest level; "relu": 1 above 0; "log": as clipped, and 1 / (x - (q - 1)) above q.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, step: float, top: int, deadzone: bool, backward: str
    ) -> Tensor:
        ctx.limit, ctx.kind = step * top, backward
        ctx.save_for_backward((x > 0) & (x <= ctx.limit) if backward == "clipped" else x)
        return half_wave(x, step, top, deadzone)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        (saved,) = ctx.saved_tensors
        if ctx.kind == "clipped":
            return gradients[0] * saved, None, None, None, None
        slope = (saved > 0).to(saved.dtype)
        if ctx.kind == "log":
            slope = torch.where(
                saved > ctx.limit, 1 / (saved - (ctx.limit - 1)).clamp(min=1.0), slope
            )
        return gradients[0] * slope, None, None, None, None


def half_wave(x: Tensor, step: float, top: int, deadzone: bool = False) -> Tensor:
    """Levels 0, step, ... top * step.

    Without a dead zone i * step for (i - 1/2) * step < x <= (i + 1/2) * step, and at least step for x > 0; with one, x
    rounded to a multiple of the step, half to even. The order of the operations is that of `lower`.
    """
    if deadzone:
        return torch.round(x / torch.tensor(step, dtype=x.dtype)).clamp_(0, top).mul_(step)
    codes = (x * (1 / step)).sub_(0.5).ceil_().clamp_(1, top)
    return codes.mul_(x > 0).mul_(step)


class SignThrough(torch.autograd.Function):
    """Scale times sign of a weight, the scale being the mean magnitude of each filter; gradients pass unchanged.

    With more than one scale, those of groups of a filter's inputs, by `group_scales`.
    """

    @staticmethod
    def forward(ctx: Any, w: Tensor, axis: int, count: int = 1) -> Tensor:
        # Adding 0 makes +0 of -0: the sign of 0 is 1.
        if count == 1:
            return torch.copysign(scales(w, axis), w + 0.0)
        sizes, gain = group_scales(w, axis, count)
        rows = w.movedim(axis, 0)
        each = (sizes * gain[:, None])[:, :, None].expand(-1, -1, rows[0].numel() // count)
        return torch.copysign(each.reshape(rows.shape).movedim(0, axis), w + 0.0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0], None, None


def scales(w: Tensor, axis: int) -> Tensor:
    """Mean magnitude of each filter, filters along `axis`; it broadcasts with the weight."""
    others = [i for i in range(w.dim()) if i != axis]
    return w.abs().mean(others, keepdim=True)


def group_scales(w: Tensor, axis: int, count: int) -> tuple[Tensor, Tensor]:
    """Mean magnitudes of groups of inputs that follow each other, as sizes times a scale of each filter.

    Sizes [filters, count] are whole numbers up to `LEVELS`, which the largest group of a filter has; scales [filters].
    """
    rows = w.movedim(axis, 0)
    means = rows.reshape(len(rows), count, -1).abs().mean(2)
    gain = means.amax(1) / LEVELS
    return torch.round(means / torch.where(gain > 0, gain, 1.0)[:, None]), gain


@operator("HalfWave", domain=DOMAIN)
def run_half_wave(call: Call, x: Tensor) -> Tensor:
    top = 2 ** call.get("bits") - 1
    return HalfWaveThrough.apply(
        x, call.get("step"), top, bool(call.get("deadzone", 0)), call.get("backward")
    )


@operator("BinaryWeight", domain=DOMAIN)
def run_binary_weight(call: Call, w: Tensor) -> Tensor:
    return SignThrough.apply(w, call.get("axis", 0), call.get("scales", 1))

"""Fake quantization: floating-point numbers rounded to what integers can hold, with gradients straight through.

`fq(r) = S * (clip(round(r / S) + Z, lowest, highest) - Z)`, and `dfq/dr = 1` where no code is clipped, else 0. Ranges
of activations are moving averages of what batches hold, or their scales are learnt (LSQ). Weights are symmetric with
a scale for each output, taken anew from the weights at every step. Sources: ALGORITHMS 1.5; Jacob et al. 2018;
Esser et al. 2020.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from prunegraph.graph.linear import output_axis
from prunegraph.graph.model import Node
from prunegraph.quantization.scheme import MIN_SCALE, Params, params_of
from prunegraph.quantization.weights import BIAS_LIMIT
from prunegraph.training.operators.quantized import RoundThrough, ScaleGradient
from prunegraph.training.operators.table import Call, Tensor, lookup

#: What is left of a moving average at each step.
RHO = 0.99


class FakeRound(torch.autograd.Function):
    """`S * clip(round(x / S), low, high)`; the gradient passes where nothing is clipped."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, low: Tensor | float, high: Tensor | float
    ) -> Tensor:
        codes = (x / scale).round_()
        ctx.save_for_backward((codes >= low) & (codes <= high))
        return codes.clamp_(low, high).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (inside,) = ctx.saved_tensors
        return gradients[0] * inside, None, None, None


class FakeQuantize(torch.nn.Module):
    """Quantizes values that share one scale and zero point.

    Args:
        first: scale and zero point to start with.
        symmetric: whether the zero point is the middle of the type.
        learn: whether the scale is a parameter (LSQ); else the range follows what is seen in train mode.

    `observing` says whether the range follows what is seen, `active` whether values are rounded in train mode; in eval
    mode they always are.
    """

    scale: Tensor
    zero: Tensor
    bounds: Tensor

    def __init__(self, first: Params, *, symmetric: bool = False, learn: bool = False):
        super().__init__()
        self.type, self.symmetric, self.learn = first.type, symmetric, learn
        scale = torch.tensor(first.scale, dtype=torch.float32)
        if learn:
            self.scale = torch.nn.Parameter(scale)
        else:
            self.register_buffer("scale", scale)
        self.register_buffer("zero", torch.tensor(float(first.zero_point)))
        self.register_buffer(
            "bounds", torch.tensor([first.low, first.high], dtype=torch.float64)
        )
        self.observing, self.active = not learn, True
        self.seen: tuple[float, float] | None = None

    @property
    def params(self) -> Params:
        """Scale and zero point as they are now."""
        scale = max(float(self.scale.item()), MIN_SCALE)
        return Params(scale, int(self.zero.item()), self.type)

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.observing and x.numel():
            low, high = (float(v.item()) for v in torch.aminmax(x.detach()))
            self.seen = (
                (low, high)
                if self.seen is None
                else (min(low, self.seen[0]), max(high, self.seen[1]))
            )
        if self.training and not self.active:
            return x
        low_code, high_code = self.type.lowest - self.zero, self.type.highest - self.zero
        if not self.learn:
            return FakeRound.apply(x, self.scale, low_code, high_code)
        each = max(x.numel() // max(x.shape[0], 1), 1) if x.dim() else 1
        factor = 1 / math.sqrt(each * self.type.highest)
        scale = ScaleGradient.apply(self.scale.clamp(min=MIN_SCALE), factor)
        return torch.clamp(RoundThrough.apply(x / scale), low_code, high_code) * scale

    def settle(self) -> None:
        """Let the range follow what the last batch held."""
        if self.seen is None:
            return
        for slot, value in enumerate((min(self.seen[0], 0.0), max(self.seen[1], 0.0))):
            self.bounds[slot] = RHO * self.bounds[slot] + (1 - RHO) * value
        low, high = (float(v) for v in self.bounds.tolist())
        result = params_of(low, high, self.type, symmetric=self.symmetric)
        self.scale.fill_(result.scale)
        self.zero.fill_(result.zero_point)
        self.seen = None


class FakeLayer(torch.nn.Module):
    """Runs a layer with a rounded weight, and the BatchNormalization behind it folded into that weight.

    The folded weight is `W_f = scale * W / sqrt(variance + epsilon)` with the running variance. While `batch` is
    on, train mode normalises what it gives by the batch's statistics and brings the running ones up to date; without,
    and in eval mode, the layer computes what the folded one will: `W_f x + shift - scale * mean / sqrt(...)`.

    Args:
        node: the layer.
        normal: its BatchNormalization, or None.
        limit: the largest code of the weight.
    """

    def __init__(self, node: Node, normal: Node | None, limit: int):
        super().__init__()
        self.limit, self.axis = limit, output_axis(node)
        self.normal = normal is not None
        self.epsilon, self.momentum = 1e-5, 0.9
        if normal is not None:
            self.epsilon = float(normal.attributes.get("epsilon", self.epsilon))
            self.momentum = float(normal.attributes.get("momentum", self.momentum))
        self.batch = True

    def forward(
        self,
        call: Call,
        inputs: FakeQuantize | None,
        x: Tensor,
        w: Tensor,
        b: Tensor | None = None,
        *normal: Tensor,
    ) -> Tensor:
        function = lookup(call.node).function
        if not self.normal:
            w = self.rounded(w, b, inputs)
            y: Tensor = function(call, x, w) if b is None else function(call, x, w, b)
            return y
        scale, shift, mean, variance = normal
        deviation = (variance + self.epsilon).sqrt()
        factor = scale / deviation
        w = w * factor.reshape([-1 if axis == self.axis else 1 for axis in range(w.dim())])
        own = 0.0 if b is None else b
        # A single sample is no batch; see `batch_normalization`.
        if self.training and self.batch and x.shape[0] > 1:
            y = function(call, x, self.rounded(w, None, inputs))
            return self._normalised(y, factor, deviation, shift, own, mean, variance)
        bias = shift + (own - mean) * factor
        folded: Tensor = function(call, x, self.rounded(w, bias, inputs), bias)
        return folded

    def rounded(
        self, w: Tensor, bias: Tensor | None, inputs: FakeQuantize | None
    ) -> Tensor:
        """A weight with a scale for each output; none is so small that the bias leaves 32 bits."""
        others = [axis for axis in range(w.dim()) if axis != self.axis]
        with torch.no_grad():
            scale = w.abs().amax(others, keepdim=True) / self.limit
            if bias is not None and inputs is not None:
                least = bias.abs() / (inputs.scale.abs().clamp(min=MIN_SCALE) * BIAS_LIMIT)
                scale = torch.maximum(
                    scale, least.reshape(-1).expand(w.shape[self.axis]).reshape(scale.shape)
                )
            scale = torch.where(scale > 0, scale.clamp(min=MIN_SCALE), 1.0)
        return FakeRound.apply(w, scale, -float(self.limit), float(self.limit))

    def _normalised(
        self,
        y: Tensor,
        factor: Tensor,
        deviation: Tensor,
        shift: Tensor,
        bias: Tensor | float,
        mean: Tensor,
        variance: Tensor,
    ) -> Tensor:
        """Say what BatchNormalization gives for `y / factor`, without dividing by a factor that may be 0."""
        axes, shape = (
            [axis for axis in range(y.dim()) if axis != 1],
            [-1] + [1] * (y.dim() - 2),
        )
        spread, now = torch.var_mean(y, axes, correction=0)
        there = factor != 0
        below = (spread + self.epsilon * factor.square() + torch.finfo(y.dtype).tiny).sqrt()
        gain = torch.where(there, deviation * factor.abs() / below, 1.0)
        with torch.no_grad():
            count = y.numel() // y.shape[1]
            safe = torch.where(there, factor, 1.0)
            for running, match in (
                (mean, now / safe + bias),
                (variance, spread / safe.square() * (count / max(count - 1, 1))),
            ):
                running.copy_(
                    torch.where(there, torch.lerp(match, running, self.momentum), running)
                )
        return (y - now.reshape(shape)) * gain.reshape(shape) + shift.reshape(shape)

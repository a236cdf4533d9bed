"""Normalisations, softmax and dropout."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as nnf

from prunegraph.training.operators.table import Call, Tensor, operator, scalar


@operator("BatchNormalization")
def batch_normalization(
    call: Call, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor
) -> object:
    """By running statistics, or in train mode by the batch's, with running ones brought up to date as torch does.

    A single sample is no batch: its own statistics would wipe out what tells it from others, and ruin the running ones.
    """
    eps, momentum = call.get("epsilon", 1e-5), call.get("momentum", 0.9)
    if call.get("training_mode", 0):
        return _trained_in_graph(x, scale, bias, mean, var, eps, momentum)
    by_batch = call.training and call.by_batch and x.shape[0] > 1
    if mean.dtype == var.dtype == scale.dtype == bias.dtype == x.dtype:
        return nnf.batch_norm(x, mean, var, scale, bias, by_batch, 1 - momentum, eps)
    kind = mean.dtype
    y = nnf.batch_norm(
        x.to(kind), mean, var, scale.to(kind), bias.to(kind), by_batch, 1 - momentum, eps
    )
    return y.to(x.dtype)


def _trained_in_graph(
    x: Tensor,
    scale: Tensor,
    bias: Tensor,
    mean: Tensor,
    var: Tensor,
    eps: float,
    momentum: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """A node that trains by itself: it returns the running statistics (with the population's variance)."""
    axes = [axis for axis in range(x.dim()) if axis != 1]
    now, spread = x.mean(axes), x.var(axes, correction=0)
    y = nnf.batch_norm(x, None, None, scale.to(x.dtype), bias.to(x.dtype), True, 0.0, eps)
    return (
        y,
        mean * momentum + now * (1 - momentum),
        var * momentum + spread * (1 - momentum),
    )


@operator("InstanceNormalization")
def instance_normalization(call: Call, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    axes = list(range(2, x.dim()))
    centred = x - x.mean(axes, keepdim=True)
    shape = (-1, *[1] * len(axes))
    normal = centred * torch.rsqrt(
        centred.square().mean(axes, keepdim=True) + call.get("epsilon", 1e-5)
    )
    return normal * scale.reshape(shape) + bias.reshape(shape)


@operator("LayerNormalization")
def layer_normalization(
    call: Call, x: Tensor, scale: Tensor, bias: Tensor | None = None
) -> object:
    axis, eps = call.get("axis", -1) % x.dim(), call.get("epsilon", 1e-5)
    shape = x.shape[axis:]
    plain = scale.shape == shape and (bias is None or bias.shape == shape)
    if plain and not call.wanted(1) and not call.wanted(2):
        return nnf.layer_norm(x, shape, scale, bias, eps)
    axes = list(range(axis, x.dim()))
    mean = x.mean(axes, keepdim=True)
    inverse = torch.rsqrt((x - mean).square().mean(axes, keepdim=True) + eps)
    y = (x - mean) * inverse * scale
    return (y if bias is None else y + bias), mean, inverse


@operator("RMSNormalization", "SimplifiedLayerNormalization")
def rms_normalization(call: Call, x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    axes = list(range(call.get("axis", -1) % x.dim(), x.dim()))
    inverse = torch.rsqrt(x.square().mean(axes, keepdim=True) + call.get("epsilon", 1e-5))
    return x * inverse * scale, inverse


@operator("GroupNormalization")
def group_normalization(call: Call, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    groups = call.get("num_groups")
    if call.version < 21:
        # Before opset 21 there is one scale a group.
        scale, bias = (v.repeat_interleave(x.shape[1] // groups) for v in (scale, bias))
    return nnf.group_norm(x, groups, scale, bias, call.get("epsilon", 1e-5))


@operator("LRN")
def lrn(call: Call, x: Tensor) -> Tensor:
    size = call.get("size")
    squares = nnf.pad(
        x.square().unsqueeze(1).flatten(3),
        (0, 0, (size - 1) // 2, math.ceil((size - 1) / 2)),
    )
    sums = nnf.avg_pool2d(squares, (size, 1), 1, divisor_override=1).reshape(x.shape)
    alpha, beta, bias = (
        call.get("alpha", 1e-4),
        call.get("beta", 0.75),
        call.get("bias", 1.0),
    )
    return x / (bias + alpha / size * sums) ** beta


@operator("LpNormalization")
def lp_normalization(call: Call, x: Tensor) -> Tensor:
    norm = torch.linalg.vector_norm(
        x, call.get("p", 2), dim=call.get("axis", -1), keepdim=True
    )
    return torch.where(
        norm == 0,
        torch.zeros_like(x),
        x / torch.where(norm == 0, torch.ones_like(norm), norm),
    )


@operator("MeanVarianceNormalization")
def mean_variance_normalization(call: Call, x: Tensor) -> Tensor:
    axes = list(call.get("axes", [0, 2, 3]))
    centred = x - x.mean(axes, keepdim=True)
    return centred / (centred.square().mean(axes, keepdim=True).sqrt() + 1e-9)


def _over_axis(call: Call, x: Tensor, function: object) -> Tensor:
    """A function over one axis; before opset 13 over all axes from `axis` on."""
    if call.version >= 13:
        return function(x, call.get("axis", -1))  # type: ignore[operator]
    axis = call.get("axis", 1) % max(x.dim(), 1)
    return function(x.flatten(axis), axis).reshape(x.shape)  # type: ignore[operator]


@operator("Softmax")
def softmax(call: Call, x: Tensor) -> Tensor:
    return _over_axis(call, x, torch.softmax)


@operator("LogSoftmax")
def log_softmax(call: Call, x: Tensor) -> Tensor:
    return _over_axis(call, x, torch.log_softmax)


@operator("Hardmax")
def hardmax(call: Call, x: Tensor) -> Tensor:
    def one_hot(values: Tensor, axis: int) -> Tensor:
        best = values.argmax(axis, keepdim=True)
        return torch.zeros_like(values).scatter(axis, best, 1.0)

    return _over_axis(call, x, one_hot)


@operator("Dropout")
def dropout(
    call: Call, x: Tensor, ratio: Tensor | None = None, training: Tensor | None = None
) -> object:
    """Active where the graph says so, and in a module in train mode."""
    share = call.get("ratio", 0.5) if call.version < 12 else scalar(ratio, 0.5)
    active = (call.training or bool(scalar(training, False))) and share > 0
    if not active:
        return (x, torch.ones_like(x, dtype=torch.bool)) if call.wanted(1) else x
    mask = torch.rand_like(x) >= share
    return torch.where(mask, x / (1 - share), torch.zeros_like(x)), mask

"""Normalisations without running statistics."""

from __future__ import annotations

import numpy as np

from prunegraph.frontends.mxnet.builder import Value
from prunegraph.frontends.mxnet.operators.base import SymbolCall, operator


@operator("LayerNorm")
def layer_norm(call: SymbolCall) -> Value:
    build, x = call.builder, call.x
    axis = call.axis("axis", -1)
    order = [*(other for other in range(x.rank) if other != axis), axis]
    moved = build.transpose(x, order)
    result = build.emit(
        "LayerNormalization",
        moved,
        *call.inputs[1:3],
        axis=-1,
        epsilon=call.real("eps", 1e-5),
    )
    return build.transpose(result, np.argsort(order).tolist())


@operator("InstanceNorm")
def instance_norm(call: SymbolCall) -> Value:
    return call.builder.emit(
        "InstanceNormalization", *call.inputs[:3], epsilon=call.real("eps", 1e-3)
    )


@operator("GroupNorm")
def group_norm(call: SymbolCall) -> Value:
    """Groups as instances, then scale and shift by channel."""
    build, x = call.builder, call.x
    groups, channels = call.integer("num_groups", 1), x.size(1)
    if groups < 1 or channels % groups:
        call.fail(f"{channels} channels are no {groups} groups")
    ones, zeros = np.ones(groups, x.dtype), np.zeros(groups, x.dtype)
    grouped = build.emit("Reshape", x, [0, groups, -1])
    result = build.emit(
        "InstanceNormalization", grouped, ones, zeros, epsilon=call.real("eps", 1e-5)
    )
    result = build.emit("Reshape", result, [0, channels, *x.sizes[2:]])
    scale, shift = (_by_channel(call, value, channels) for value in call.inputs[1:3])
    return build.emit("Add", build.emit("Mul", result, scale), shift)


def _by_channel(call: SymbolCall, value: Value, channels: int) -> Value:
    """Gamma or beta as [C, 1, ...]; up to 1.9 there is one number a group."""
    build = call.builder
    if value.size(0) != channels:
        if value.data is None or channels % value.size(0):
            call.fail(
                f"gamma and beta of {value.size(0)} numbers do not fit {channels} channels"
            )
        times = channels // value.size(0)
        value = build.fold(lambda array: np.repeat(array, times), value)
    return build.emit("Reshape", value, [-1] + [1] * (call.x.rank - 2))


@operator("L2Normalization")
def l2_normalization(call: SymbolCall) -> Value:
    build, x = call.builder, call.x
    mode = call.word("mode", "instance", ("instance", "channel", "spatial"))
    axes = {"instance": range(1, x.rank), "channel": [1], "spatial": range(2, x.rank)}[mode]
    total = build.emit("ReduceSum", build.emit("Mul", x, x), list(axes), keepdims=1)
    norm = build.emit(
        "Sqrt", build.emit("Add", total, build.number(call.real("eps", 1e-10), x))
    )
    return build.emit("Div", x, norm)


@operator("LRN")
def local_response(call: SymbolCall) -> Value:
    return call.builder.emit(
        "LRN",
        call.x,
        size=call.integer("nsize"),
        alpha=call.real("alpha", 1e-4),
        beta=call.real("beta", 0.75),
        bias=call.real("knorm", 2.0),
    )

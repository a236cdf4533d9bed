"""Layers with weights, and activations."""

from __future__ import annotations

import numpy as np

from prunegraph.frontends.mxnet.builder import Value
from prunegraph.frontends.mxnet.operators.base import SymbolCall, operator
from prunegraph.frontends.mxnet.operators.indexing import positions


def _windows(
    call: SymbolCall,
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Kernel, stride, dilation and padding."""
    kernel = call.integers("kernel")
    rank = len(kernel)
    stride = call.integers("stride", (1,) * rank, rank)
    dilate = call.integers("dilate", (1,) * rank, rank)
    return kernel, stride, dilate, call.integers("pad", (0,) * rank, rank)


def _channels_first(call: SymbolCall) -> None:
    if call.word("layout", "None") not in ("None", "NCW", "NCHW", "NCDHW"):
        call.fail("layers with channels last run on GPUs only and are not converted")


@operator("Convolution", "Convolution_v1")
def convolution(call: SymbolCall) -> Value:
    _channels_first(call)
    kernel, stride, dilate, pad = _windows(call)
    return call.builder.emit(
        "Conv",
        *call.inputs[: 2 if call.flag("no_bias") else 3],
        kernel_shape=kernel,
        strides=stride,
        dilations=dilate,
        pads=pad + pad,
        group=call.integer("num_group", 1),
    )


@operator("Deconvolution")
def deconvolution(call: SymbolCall) -> Value:
    _channels_first(call)
    kernel, stride, dilate, pad = _windows(call)
    adjust = call.integers("adj", (0,) * len(kernel), len(kernel))
    target = call.integers("target_shape", (0,) * len(kernel), len(kernel))
    if any(target):
        total = [
            s * (call.x.size(axis + 2) - 1) + d * (k - 1) + 1 - t
            for axis, (s, d, k, t) in enumerate(
                zip(stride, dilate, kernel, target, strict=True)
            )
        ]
        if min(total) < 0:
            call.fail("target_shape is larger than the result can be")
        adjust = tuple(size % 2 for size in total)
        pad = tuple((size + 1) // 2 for size in total)
    return call.builder.emit(
        "ConvTranspose",
        *call.inputs[: 2 if call.flag("no_bias", True) else 3],
        kernel_shape=kernel,
        strides=stride,
        dilations=dilate,
        pads=pad + pad,
        output_padding=adjust,
        group=call.integer("num_group", 1),
    )


@operator("FullyConnected")
def fully_connected(call: SymbolCall) -> Value:
    data, weight = call.inputs[:2]
    bias = None if call.flag("no_bias") else call.optional(2)
    build = call.builder
    if call.flag("flatten", True):
        data = data if data.rank == 2 else build.emit("Flatten", data, axis=1)
        data.size(1)  # an image of unknown size would fit any weight here, and fail in use
        return build.emit("Gemm", data, weight, *([bias] if bias else []), transB=1)
    result = build.emit("MatMul", data, build.emit("Transpose", weight, perm=[1, 0]))
    return build.emit("Add", result, bias) if bias else result


@operator(
    "BatchNorm", "BatchNorm_v1", "_contrib_SyncBatchNorm", "_contrib_BatchNormWithReLU"
)
def batch_norm(call: SymbolCall) -> Value:
    data, gamma, beta, mean, variance = call.inputs[:5]
    build = call.builder
    if call.flag("fix_gamma", True):
        gamma = _ones(call, gamma)
    axis = call.axis("axis", 1)
    order = [0, *(other for other in range(data.rank) if other not in (0, axis))]
    order.insert(1, axis)
    moved = build.transpose(data, order) if axis != 1 else data
    result = build.emit(
        "BatchNormalization",
        moved,
        gamma,
        beta,
        mean,
        variance,
        epsilon=call.real("eps", 1e-3),
    )
    result = build.transpose(result, np.argsort(order).tolist()) if axis != 1 else result
    return (
        build.emit("Relu", result)
        if call.node.op == "_contrib_BatchNormWithReLU"
        else result
    )


def _ones(call: SymbolCall, gamma: Value) -> Value:
    """Ones in place of a stored gamma, which MXNet ignores."""
    if gamma.data is None:
        call.fail("fix_gamma=True with a gamma that is no parameter")
    return call.builder.fold(np.ones_like, gamma, trace=lambda array: array)


_ACTIVATIONS = {
    "relu": "Relu",
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
    "softrelu": "Softplus",
    "softsign": "Softsign",
}


@operator("Activation")
def activation(call: SymbolCall) -> Value:
    return call.builder.emit(
        _ACTIVATIONS[call.word("act_type", "", tuple(_ACTIVATIONS))], call.x
    )


@operator("LeakyReLU")
def leaky_relu(call: SymbolCall) -> Value:
    build = call.builder
    kind = call.word(
        "act_type", "leaky", ("leaky", "elu", "selu", "gelu", "prelu", "rrelu")
    )
    slope = call.real("slope", 0.25)
    if kind == "leaky":
        return build.emit("LeakyRelu", call.x, alpha=slope)
    if kind == "elu":
        return build.emit("Elu", call.x, alpha=slope)
    if kind == "selu":
        return build.emit("Selu", call.x)
    if kind == "rrelu":
        return build.emit(
            "LeakyRelu",
            call.x,
            alpha=(call.real("lower_bound", 0.125) + call.real("upper_bound", 0.334)) / 2,
        )
    return _gelu(call) if kind == "gelu" else _prelu(call)


def _gelu(call: SymbolCall) -> Value:
    build, x = call.builder, call.x
    inner = build.emit("Erf", build.emit("Div", x, build.number(np.sqrt(2.0), x)))
    product = build.emit("Mul", x, build.emit("Add", inner, build.number(1.0, x)))
    return build.emit("Mul", product, build.number(0.5, x))


def _prelu(call: SymbolCall) -> Value:
    slope = call.inputs[1]
    trailing = call.x.rank - 2
    if slope.rank == 1 and trailing > 0 and slope.size(0) != 1:
        slope = call.builder.emit("Reshape", slope, [-1] + [1] * trailing)
    return call.builder.emit("PRelu", call.x, slope)


@operator("Embedding", "_contrib_SparseEmbedding")
def embedding(call: SymbolCall) -> Value:
    weight = call.inputs[1]
    return call.builder.emit(
        "Gather", weight, positions(call, call.x, weight.size(0), "clip"), axis=0
    )

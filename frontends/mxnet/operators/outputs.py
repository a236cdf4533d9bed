"""Softmax in its forms, output layers of training, and what does nothing at inference."""

from __future__ import annotations

import warnings

import numpy as np

from prunegraph.frontends.mxnet.builder import Value
from prunegraph.frontends.mxnet.operators.base import SymbolCall, operator


@operator(
    "BlockGrad",
    "MakeLoss",
    "make_loss",
    "_copy",
    "LinearRegressionOutput",
    "MAERegressionOutput",
    "SVMOutput",
    "IdentityAttachKLSparseReg",
    "_CrossDeviceCopy",
    "_contrib_gradientmultiplier",
)
def identity(call: SymbolCall) -> Value:
    return call.builder.emit("Identity", call.x)


@operator("_identity_with_attr_like_rhs")
def identity_like(call: SymbolCall) -> Value:
    return call.builder.emit("Identity", call.x)


@operator("Dropout")
def dropout(call: SymbolCall) -> Value:
    if call.word("mode", "training") == "always":
        warnings.warn(
            f"Dropout {call.node.name!r} is random at inference in MXNet; it is left out",
            stacklevel=2,
        )
    return call.builder.emit("Identity", call.x)


@operator("LogisticRegressionOutput")
def logistic(call: SymbolCall) -> Value:
    return call.builder.emit("Sigmoid", call.x)


@operator("SoftmaxOutput")
def softmax_output(call: SymbolCall) -> Value:
    if call.flag("multi_output"):
        return call.builder.emit("Softmax", call.x, axis=1)
    if call.flag("preserve_shape") or call.x.rank == 2:
        return call.builder.emit("Softmax", call.x, axis=-1)
    build, x = call.builder, call.x
    # Over all but the batch.
    result = build.emit("Softmax", build.emit("Flatten", x, axis=1), axis=-1)
    return build.emit("Reshape", result, [0, *x.sizes[1:]])


@operator("SoftmaxActivation")
def softmax_activation(call: SymbolCall) -> Value:
    """Of an instance, MXNet 1.9.1 takes the last axis only, whatever its documentation says."""
    mode = call.word("mode", "instance", ("instance", "channel"))
    return call.builder.emit("Softmax", call.x, axis=1 if mode == "channel" else -1)


@operator("softmax", "log_softmax", "softmin")
def softmax(call: SymbolCall) -> Value:
    build, x = call.builder, call.x
    axis = call.axis("axis", -1)
    x = build.cast(x, call.dtype()) if call.has("dtype") else x
    if call.node.op == "softmin":
        x = build.emit("Neg", x)
    heat = call.real("temperature", 1.0)
    x = x if heat == 1 else build.emit("Div", x, build.number(heat, x))
    if call.flag("use_length"):
        return _masked(call, x, axis)
    return build.emit(
        "LogSoftmax" if call.node.op == "log_softmax" else "Softmax", x, axis=axis
    )


def _masked(call: SymbolCall, x: Value, axis: int) -> Value:
    """Softmax over the first `length` elements; the others are exactly 0."""
    if call.node.op == "log_softmax":
        call.fail("use_length is converted for softmax only")
    build = call.builder
    steps = np.arange(x.size(axis)).reshape(
        [-1 if other == axis else 1 for other in range(x.rank)]
    )
    lengths = build.emit("Unsqueeze", build.cast(call.inputs[1], np.int64), [axis])
    inside = build.emit("Less", steps, lengths)
    result = build.emit(
        "Softmax", build.emit("Where", inside, x, build.number(-np.inf, x)), axis=axis
    )
    return build.emit("Where", inside, result, build.number(0.0, x))

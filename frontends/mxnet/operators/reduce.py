"""Reductions."""

from __future__ import annotations

import numpy as np

from prunegraph.frontends.mxnet.builder import Value
from prunegraph.frontends.mxnet.operators.base import SymbolCall, operator

_ONNX = {
    "mean": "ReduceMean",
    "max": "ReduceMax",
    "min": "ReduceMin",
    "prod": "ReduceProd",
    "sum": "ReduceSum",
    "nansum": "ReduceSum",
    "nanprod": "ReduceProd",
}


def reduced_axes(call: SymbolCall) -> list[int]:
    """The axes that go; `exclude` names those that stay."""
    axes = call.axes()
    if call.flag("exclude"):
        named = axes if call.has("axis") else []
        return [axis for axis in range(call.x.rank) if axis not in named]
    return axes


def reduce(call: SymbolCall, op: str, x: Value) -> Value:
    """A reduction; of all axes it has shape (1,) outside numpy's semantics."""
    build, axes, keep = call.builder, reduced_axes(call), call.flag("keepdims")
    if not axes:
        return build.emit("Identity", x)
    whole = len(axes) == x.rank and not keep and not call.numpy_shapes
    if op == "ReduceSum":
        result = build.emit(op, x, axes, keepdims=int(keep))
    else:
        result = build.emit(op, x, axes=axes, keepdims=int(keep))
    return build.emit("Reshape", result, [1]) if whole else result


@operator(*_ONNX)
def reduction(call: SymbolCall) -> Value:
    build, x = call.builder, call.x
    x = build.cast(x, call.dtype()) if call.has("dtype") else x
    if call.node.op.startswith("nan"):
        neutral = build.number(0.0 if call.node.op == "nansum" else 1.0, x)
        x = build.emit("Where", build.emit("IsNaN", x), neutral, x)
    return reduce(call, _ONNX[call.node.op], x)


@operator("norm")
def norm(call: SymbolCall) -> Value:
    order = call.integer("ord", 2)
    if order not in (1, 2):
        call.fail("norms of order 1 and 2 are converted")
    return reduce(call, f"ReduceL{order}", call.x)


@operator("moments")
def moments(call: SymbolCall) -> list[Value]:
    build, x = call.builder, call.x
    axes = call.axes("axes")
    mean = build.emit("ReduceMean", x, axes=axes, keepdims=1)
    apart = build.emit("Sub", x, mean)
    keep = call.flag("keepdims")
    variance = build.emit(
        "ReduceMean", build.emit("Mul", apart, apart), axes=axes, keepdims=int(keep)
    )
    return [mean if keep else build.emit("Squeeze", mean, axes), variance]


@operator("size_array")
def size_array(call: SymbolCall) -> Value:
    return call.builder.constant(np.array([np.prod(call.x.sizes)], np.int64))

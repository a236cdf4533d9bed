"""Tensors that depend on attributes and shapes only."""

from __future__ import annotations

import numpy as np

from prunegraph.frontends.mxnet.builder import Value
from prunegraph.frontends.mxnet.operators.base import SymbolCall, operator


def _labelled(call: SymbolCall, data: np.ndarray) -> Value:
    return call.builder.constant(data, call.node.name)


@operator("_zeros", "_ones", "_full")
def filled(call: SymbolCall) -> Value:
    """A constant. An unknown size (0) is 1: the batch of an initial state, which broadcasts."""
    shape = call.integers("shape")
    if min(shape, default=1) <= 0:
        if call.node.op != "_zeros":
            call.fail("a size is not known")
        shape = tuple(size if size > 0 else 1 for size in shape)
    call.affordable(*shape)
    value = {"_zeros": 0.0, "_ones": 1.0}.get(call.node.op)
    return _labelled(
        call, np.full(shape, call.real("value") if value is None else value, call.dtype())
    )


@operator("zeros_like", "ones_like")
def filled_like(call: SymbolCall) -> Value:
    value = float(call.node.op == "ones_like")
    return _labelled(call, np.full(call.x.sizes, value, call.x.dtype))


@operator("_npi_full_like")
def numpy_full_like(call: SymbolCall) -> Value:
    kind = call.dtype() if call.has("dtype") else call.x.dtype
    return _labelled(call, np.full(call.x.sizes, call.real("fill_value"), kind))


@operator("_arange")
def arange(call: SymbolCall) -> Value:
    start, stop = call.real("start", 0.0), call.real("stop") if call.has("stop") else None
    if call.flag("infer_range"):
        call.fail("a range whose length follows from its use is not supported")
    start, stop = (0.0, start) if stop is None else (start, stop)
    step, times = call.real("step", 1.0), call.integer("repeat", 1)
    call.affordable((stop - start) / step, times)
    return _labelled(
        call,
        np.repeat(np.arange(start, stop, step, dtype=np.float64), times).astype(
            call.dtype()
        ),
    )


@operator("_linspace")
def linspace(call: SymbolCall) -> Value:
    call.affordable(call.integer("num"))
    values = np.linspace(
        call.real("start"),
        call.real("stop"),
        call.integer("num"),
        endpoint=call.flag("endpoint", True),
    )
    return _labelled(call, values.astype(call.dtype()))


@operator("_contrib_arange_like")
def arange_like(call: SymbolCall) -> Value:
    x, times = call.x, call.integer("repeat", 1)
    sizes = (x.size(call.axis()),) if call.has("axis") else x.sizes
    count = int(np.prod(sizes))
    call.affordable(count)
    steps = np.repeat(np.arange(-(-count // times)), times)[:count]
    values = call.real("start", 0.0) + call.real("step", 1.0) * steps
    return _labelled(call, values.reshape(sizes).astype(x.dtype))


@operator("shape_array")
def shape_array(call: SymbolCall) -> Value:
    return call.builder.emit("Shape", call.x)

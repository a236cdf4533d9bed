"""Pooling."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from prunegraph.frontends.mxnet.builder import Value
from prunegraph.frontends.mxnet.operators.base import SymbolCall, operator

KINDS = ("max", "avg", "sum", "lp")


@operator("Pooling", "Pooling_v1")
def pooling(call: SymbolCall) -> Value:
    last = call.word("layout", "None") in ("NWC", "NHWC", "NDHWC")
    x, rank, build = call.x, call.x.rank, call.builder
    x = build.transpose(x, [0, rank - 1, *range(1, rank - 1)]) if last else x
    result = _global(call, x) if call.flag("global_pool") else _windows(call, x)
    return build.transpose(result, [0, *range(2, rank), 1]) if last else result


def _global(call: SymbolCall, x: Value) -> Value:
    build = call.builder
    kind = call.word("pool_type", "max", KINDS)
    axes = list(range(2, x.rank))
    if kind == "max":
        return build.emit("GlobalMaxPool", x)
    if kind == "avg":
        return build.emit("GlobalAveragePool", x)
    if kind == "lp" and call.integer("p_value", 2) == 2:
        return build.emit("GlobalLpPool", x, p=2)
    if kind == "lp" and call.integer("p_value", 2) != 1:
        call.fail("Lp pooling is converted for p_value 1 and 2")
    return build.emit("ReduceSum", x, axes, keepdims=1)


def _windows(call: SymbolCall, x: Value) -> Value:
    kernel = call.integers("kernel")
    rank = len(kernel)
    stride = call.integers("stride", (1,) * rank, rank)
    pad = call.integers("pad", (0,) * rank, rank)
    convention = call.word("pooling_convention", "valid", ("valid", "full"))
    extra = (
        tuple(
            _extra(x, *window)
            for window in zip(range(rank), kernel, stride, pad, strict=True)
        )
        if (convention == "full")
        else (0,) * rank
    )
    if any(p + e >= k for p, e, k in zip(pad, extra, kernel, strict=True)):
        call.fail(
            "a window lies wholly in the padding, where MXNet gives 0 and ONNX has nothing"
        )
    kind = call.word("pool_type", "max", KINDS)
    if kind == "max":
        ends = tuple(p + e for p, e in zip(pad, extra, strict=True))
        return call.builder.emit(
            "MaxPool", x, kernel_shape=kernel, strides=stride, pads=pad + ends
        )
    if kind == "avg":
        return _average(call, x, kernel, stride, pad, extra)
    return _sum(call, x, kernel, stride, pad, extra, kind)


def _extra(x: Value, axis: int, kernel: int, stride: int, pad: int) -> int:
    """Columns by which the last window of the convention "full" reaches past the padding."""
    size = x.size(axis + 2) + 2 * pad
    windows = 1 + math.ceil((size - kernel) / stride)
    return max(0, (windows - 1) * stride + kernel - size)


def _padded(
    call: SymbolCall, x: Value, before: Sequence[int], after: Sequence[int]
) -> Value:
    if not any((*before, *after)):
        return x
    return call.builder.emit(
        "Pad", x, [0, 0, *before, 0, 0, *after], call.builder.number(0.0, x)
    )


def _average(
    call: SymbolCall,
    x: Value,
    kernel: Sequence[int],
    stride: Sequence[int],
    pad: tuple[int, ...],
    extra: tuple[int, ...],
) -> Value:
    """A window's divisor counts the padding of the attribute, never what "full" adds to it."""
    build = call.builder
    counted = call.flag("count_include_pad", True)
    if counted and any(extra):
        padded = _padded(call, x, pad, pad)
        return build.emit(
            "AveragePool",
            padded,
            kernel_shape=kernel,
            strides=stride,
            pads=(0,) * len(pad) + extra,
            count_include_pad=0,
        )
    ends = tuple(p + e for p, e in zip(pad, extra, strict=True))
    return build.emit(
        "AveragePool",
        x,
        kernel_shape=kernel,
        strides=stride,
        pads=pad + ends,
        count_include_pad=int(counted),
    )


def _sum(
    call: SymbolCall,
    x: Value,
    kernel: Sequence[int],
    stride: Sequence[int],
    pad: tuple[int, ...],
    extra: tuple[int, ...],
    kind: str,
) -> Value:
    build = call.builder
    power = call.integer("p_value", 2) if kind == "lp" else 1
    if power not in (1, 2):
        call.fail("Lp pooling is converted for p_value 1 and 2")
    ends = tuple(p + e for p, e in zip(pad, extra, strict=True))
    if power == 2:
        return build.emit(
            "LpPool", x, kernel_shape=kernel, strides=stride, pads=pad + ends, p=2
        )
    # MXNet's L1 pooling takes no absolute values: it is a sum.
    mean = build.emit(
        "AveragePool", _padded(call, x, pad, ends), kernel_shape=kernel, strides=stride
    )
    return build.emit("Mul", mean, build.number(math.prod(kernel), mean))


@operator("_contrib_AdaptiveAvgPooling2D")
def adaptive_average(call: SymbolCall) -> Value:
    build, x = call.builder, call.x
    size = call.integers("output_size", (1, 1))
    size = size * 2 if len(size) == 1 else size
    if size == (1, 1):
        return build.emit("GlobalAveragePool", x)
    given = (x.size(2), x.size(3))
    if all(have % want == 0 for have, want in zip(given, size, strict=True)):
        step = [have // want for have, want in zip(given, size, strict=True)]
        return build.emit("AveragePool", x, kernel_shape=step, strides=step)
    if min(size) < 1:
        call.fail("a size below 1")
    call.affordable(*given, *size)
    rows, columns = (
        build.constant(_averages(have, want, x.dtype))
        for have, want in zip(given, size, strict=True)
    )
    result = build.emit("MatMul", x, build.transpose(columns, [1, 0]))
    return build.emit("MatMul", rows, result)


def _averages(have: int, want: int, dtype: np.dtype) -> np.ndarray:
    """Matrix [want, have] whose rows average the windows of adaptive pooling."""
    matrix = np.zeros((want, have), dtype)
    for row in range(want):
        start, end = row * have // want, -(-(row + 1) * have // want)
        matrix[row, start:end] = 1 / (end - start)
    return matrix

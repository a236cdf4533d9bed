"""Products of matrices, and attention from interleaved projections."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from prunegraph.frontends.mxnet.builder import Value
from prunegraph.frontends.mxnet.operators.base import SymbolCall, operator


def _swapped(call: SymbolCall, value: Value, flag: str) -> Value:
    """A tensor with its two last axes swapped, where the flag says so."""
    order = [*range(value.rank - 2), value.rank - 1, value.rank - 2]
    return call.builder.transpose(value, order) if call.flag(flag) else value


def _product(call: SymbolCall) -> Value:
    a, b = call.inputs[:2]
    return call.builder.emit(
        "MatMul", _swapped(call, a, "transpose_a"), _swapped(call, b, "transpose_b")
    )


@operator("batch_dot")
def batch_dot(call: SymbolCall) -> Value:
    return _product(call)


@operator("_linalg_gemm2")
def gemm2(call: SymbolCall) -> Value:
    if call.has("axis") and call.integer("axis") != -2:
        call.fail("only matrices in the two last axes are supported")
    result = _product(call)
    alpha = call.real("alpha", 1.0)
    return (
        result
        if alpha == 1
        else call.builder.emit("Mul", result, call.builder.number(alpha, result))
    )


@operator("_npi_matmul")
def matmul(call: SymbolCall) -> Value:
    return call.builder.emit("MatMul", *call.inputs[:2])


@operator("dot")
def dot(call: SymbolCall) -> Value:
    """The last axis of the left with the first of the right; transposing moves a whole axis."""
    build, a, b = call.builder, *call.inputs[:2]
    if call.flag("transpose_a"):
        a = build.transpose(a, [*range(1, a.rank), 0])
    if call.flag("transpose_b"):
        b = build.transpose(b, [b.rank - 1, *range(b.rank - 1)])
    if a.rank == b.rank == 1:
        product = build.emit("MatMul", a, b)
        return product if call.numpy_shapes else build.emit("Reshape", product, [1])
    if b.rank <= 2:
        return build.emit("MatMul", a, b)
    flat = build.emit("Reshape", b, [0, -1])
    return build.emit(
        "Reshape", build.emit("MatMul", a, flat), [*[0] * (a.rank - 1), *b.sizes[1:]]
    )


# -- interleaved projections: [length, batch, heads * parts * head_dim] ----------------------


def _part(call: SymbolCall, value: Value, parts: int, which: int) -> Value:
    """One of the interleaved parts as [batch * heads, length, head_dim]."""
    build, heads = call.builder, call.integer("heads")
    split = build.emit("Reshape", value, [0, 0, heads, parts, -1])
    part = (
        build.emit("Gather", split, build.constant(np.array(which)), axis=3)
        if parts > 1
        else build.emit("Squeeze", split, [3])
    )
    moved = build.emit("Transpose", part, perm=[1, 2, 0, 3])
    return build.emit("Reshape", moved, [-1, *moved.sizes[2:]])


def _scores(call: SymbolCall, query: Value, key: Value) -> Value:
    build = call.builder
    scaled = build.emit("Div", query, build.number(math.sqrt(query.size(-1)), query))
    return build.emit("MatMul", scaled, build.transpose(key, [0, 2, 1]))


def _weighted(call: SymbolCall, weights: Value, values: Value) -> Value:
    """Attention times values, back as [length, batch, heads * head_dim]."""
    build, heads = call.builder, call.integer("heads")
    result = build.emit("MatMul", weights, values)
    length, width = result.sizes[1:]
    apart: Sequence[int] = [-1, heads, length, width]
    moved = build.emit("Transpose", build.emit("Reshape", result, apart), perm=[2, 0, 1, 3])
    return build.emit("Reshape", moved, [0, 0, -1])


@operator("_contrib_interleaved_matmul_selfatt_qk")
def self_scores(call: SymbolCall) -> Value:
    return _scores(call, _part(call, call.x, 3, 0), _part(call, call.x, 3, 1))


@operator("_contrib_interleaved_matmul_selfatt_valatt")
def self_values(call: SymbolCall) -> Value:
    return _weighted(call, call.inputs[1], _part(call, call.x, 3, 2))


@operator("_contrib_interleaved_matmul_encdec_qk")
def cross_scores(call: SymbolCall) -> Value:
    return _scores(call, _part(call, call.x, 1, 0), _part(call, call.inputs[1], 2, 0))


@operator("_contrib_interleaved_matmul_encdec_valatt")
def cross_values(call: SymbolCall) -> Value:
    return _weighted(call, call.inputs[1], _part(call, call.x, 2, 1))

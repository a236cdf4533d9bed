"""Decoders: heads that share keys, rotary tables that layers share, positions counted from sizes."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto

import prunegraph as pg
from prunegraph.coupling.coupling import Coupling
from prunegraph.graph.model import Graph
from tests.builders import Builder
from tests.oracle import random_plan

STREAM, DIM = 24, 8


def _rotary(b: Builder, ids: str) -> tuple[str, str]:
    """Cosines and sines of positions, computed from the length of the input."""
    length = b.op("Squeeze", b.op("Shape", ids, start=1, end=2))
    positions = b.op(
        "Cast",
        b.op("Range", b.const(0, np.int64), length, b.const(1, np.int64)),
        to=TensorProto.FLOAT,
    )
    frequencies = b.const(1 / 10 ** np.linspace(0, 2, DIM // 2), np.float32)
    angles = b.op("Mul", b.op("Unsqueeze", positions, b.const([1])), frequencies)
    both = b.op("Concat", angles, angles, axis=-1)
    return b.op("Cos", both), b.op("Sin", both)


def _rotated(b: Builder, x: str, tables: tuple[str, str]) -> str:
    half, end, axis = b.const([DIM // 2]), b.const([2**31]), b.const([-1])
    first, second = (
        b.op("Slice", x, b.const([0]), half, axis),
        b.op("Slice", x, half, end, axis),
    )
    turned = b.op("Concat", b.op("Neg", second), first, axis=-1)
    return b.op("Add", b.op("Mul", x, tables[0]), b.op("Mul", turned, tables[1]))


def _heads(b: Builder, x: str, heads: int, name: str) -> str:
    y = b.op("MatMul", x, b.weight(STREAM, heads * DIM), name=name)
    return b.op(
        "Transpose", b.op("Reshape", y, b.const([0, 0, heads, DIM])), perm=[0, 2, 1, 3]
    )


def _repeated(b: Builder, x: str, keys: int, repeats: int, how: str) -> str:
    """Every key head, once for each of its query heads."""
    if how == "gather":
        return b.op("Gather", x, b.const(np.repeat(np.arange(keys), repeats)), axis=1)
    wide = b.op("Unsqueeze", x, b.const([2]))
    if how == "tile":
        wide = b.op("Tile", wide, b.const([1, 1, repeats, 1, 1]))
    elif how == "concat":
        wide = b.op("Concat", *[wide] * repeats, axis=2)
    else:
        sizes = [b.op("Shape", x, start=axis, end=axis + 1) for axis in range(4)]
        sizes.insert(2, b.const([repeats]))
        wide = b.op("Expand", wide, b.op("Concat", *sizes, axis=0))
    length = b.op("Shape", x, start=2, end=3)
    return b.op(
        "Reshape",
        wide,
        b.op("Concat", b.const([0, keys * repeats]), length, b.const([DIM]), axis=0),
    )


def decoder(keys: int, repeats: int, layers: int = 2, how: str = "expand") -> Graph:
    """Layers of grouped-query attention that share rotary tables."""
    b = Builder(opset=18)
    ids = b.input("batch", "length", name="ids", kind=TensorProto.INT64)
    x = b.op("Gather", b.weight(16, STREAM), ids, name="embedding")
    tables = _rotary(b, ids)
    for i in range(layers):
        query = _rotated(b, _heads(b, x, keys * repeats, f"q{i}"), tables)
        key = _rotated(b, _heads(b, x, keys, f"k{i}"), tables)
        value = _heads(b, x, keys, f"v{i}")
        if repeats > 1:
            key, value = (_repeated(b, each, keys, repeats, how) for each in (key, value))
        scores = b.op(
            "Softmax", b.op("MatMul", query, b.op("Transpose", key, perm=[0, 1, 3, 2]))
        )
        merged = b.op("Transpose", b.op("MatMul", scores, value), perm=[0, 2, 1, 3])
        merged = b.op("Reshape", merged, b.const([0, 0, keys * repeats * DIM]))
        x = b.op(
            "Add",
            x,
            b.op("MatMul", merged, b.weight(keys * repeats * DIM, STREAM), name=f"o{i}"),
        )
    return b.graph(b.op("MatMul", x, b.weight(STREAM, 7), name="logits"))


def proved(graph: Graph, attention: str | None, seed: int = 0) -> Coupling:
    """The coupling of a graph, of which a random half has been pruned and proved."""
    coupling = pg.analyze(graph, attention=attention)
    plan = random_plan(coupling, seed)
    pruned = pg.apply(graph, plan)
    assert pg.verify(graph, plan, pruned).relative <= 1e-4
    assert all(group.channels > 1 for group in coupling.groups)
    return coupling


def layers_of(coupling: Coupling) -> dict[tuple[str, ...], int]:
    return {group.layers: group.channels for group in coupling.groups}


@pytest.mark.parametrize("how", ["expand", "tile", "gather", "concat"])
@pytest.mark.parametrize(("keys", "repeats"), [(3, 3), (2, 4), (4, 2), (4, 1)])
def test_heads_that_share_keys(keys: int, repeats: int, how: str) -> None:
    """By heads, key heads go with their queries; by head size, queries and keys go by pairs that are rotated."""
    graph = decoder(keys, repeats, how=how)
    stream = {("embedding", "o0", "o1"): STREAM}
    heads = {("q0", "k0", "v0"): keys, ("q1", "k1", "v1"): keys}
    pairs = {("q0", "k0", "q1", "k1"): DIM // 2, ("v0",): DIM, ("v1",): DIM}
    assert layers_of(proved(graph, "heads")) == stream | heads
    assert layers_of(proved(graph, "head_dim")) == stream | pairs
    assert layers_of(proved(graph, None)) == stream | (pairs if keys < DIM // 2 else heads)


@pytest.mark.parametrize("how", ["expand", "tile", "gather", "concat"])
def test_all_heads_share_one_key(how: str) -> None:
    graph = decoder(1, 4, how=how)
    pairs = {
        ("embedding", "o0", "o1"): STREAM,
        ("q0", "k0", "q1", "k1"): DIM // 2,
        ("v0",): DIM,
        ("v1",): DIM,
    }
    assert layers_of(proved(graph, "head_dim")) == pairs
    assert layers_of(proved(graph, None)) == pairs
    queries = {("embedding", "o0", "o1"): STREAM, ("q0",): 4, ("q1",): 4}
    assert layers_of(proved(graph, "heads")) == (queries if how == "expand" else pairs)

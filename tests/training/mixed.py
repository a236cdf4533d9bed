"""Small networks that are as unlike each other as those that people prune."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from prunegraph.graph.model import Graph
from tests.builders import Builder, residual_net


def chain(seed: int = 0, widths: tuple[int, ...] = (8, 12), classes: int = 5) -> Graph:
    """Convolutions with ReLU, no BatchNormalization."""
    b = Builder(seed)
    x, c = b.input("n", 3, 8, 8), 3
    for i, width in enumerate(widths):
        x, c = b.relu(b.conv(x, c, width, name=f"conv{i}")), width
    return b.graph(b.head(x, c, classes))


def inverted_residual(seed: int = 0) -> Graph:
    """Expand, depthwise, project, with BatchNormalization and a residual sum; a linear bottleneck."""
    b = Builder(seed)
    x = b.bn(b.conv(b.input("n", 3, 8, 8), 3, 6, name="stem"), 6)
    y = b.op(
        "Clip",
        b.bn(b.conv(x, 6, 12, 1, name="expand"), 12),
        b.const(0, np.float32),
        b.const(6, np.float32),
    )
    y = b.relu(b.bn(b.conv(y, 12, 12, group=12, name="depthwise"), 12))
    y = b.op("Add", x, b.bn(b.conv(y, 12, 6, 1, name="project"), 6))
    return b.graph(b.head(y, 6))


def grouped(seed: int = 0) -> Graph:
    b = Builder(seed)
    x = b.relu(b.bn(b.conv(b.input("n", 3, 8, 8), 3, 16, name="first"), 16))
    return b.graph(b.head(b.relu(b.conv(x, 16, 24, group=4, name="grouped")), 24))


def concatenated(seed: int = 0) -> Graph:
    """Two branches joined along channels, then a channel gate."""
    b = Builder(seed)
    x = b.input("n", 3, 8, 8)
    remaining, right = (
        b.relu(b.conv(x, 3, 8, name="left")),
        b.op("Sigmoid", b.conv(x, 3, 6, name="right")),
    )
    y = b.op("Concat", remaining, right, axis=1)
    gate = b.op("Sigmoid", b.conv(b.op("GlobalAveragePool", y), 14, 14, 1, name="gate"))
    y = b.relu(b.conv(b.op("Mul", y, gate), 14, 10, name="behind"))
    return b.graph(b.head(y, 10))


def attention(seed: int = 0, heads: int = 2, width: int = 8, tokens: int = 6) -> Graph:
    """One block of a transformer: LayerNormalization, attention, two linear layers with GELU."""
    b = Builder(seed)
    x = b.input("n", tokens, width)

    def linear(value: str, inputs: int, outputs: int, name: str) -> str:
        return b.op(
            "Add",
            b.op("MatMul", value, b.weight(inputs, outputs), name=name),
            b.weight(outputs),
        )

    def split(value: str, perm: list[int]) -> str:
        shape = b.const([0, tokens, heads, width // heads], np.int64)
        return b.op("Transpose", b.op("Reshape", value, shape), perm=perm)

    n = b.op("LayerNormalization", x, b.weight(width, scale=1.0), b.weight(width), axis=-1)
    q, v = (split(linear(n, width, width, name), [0, 2, 1, 3]) for name in ("q", "v"))
    k = split(linear(n, width, width, "k"), [0, 2, 3, 1])
    a = b.op("MatMul", b.op("Softmax", b.op("MatMul", q, k), axis=-1), v)
    a = b.op(
        "Reshape",
        b.op("Transpose", a, perm=[0, 2, 1, 3]),
        b.const([0, tokens, width], np.int64),
    )
    x = b.op("Add", x, linear(a, width, width, "projection"))
    h = linear(x, width, 3 * width, "fc1")
    half = b.op("Mul", h, b.const(0.5, np.float32))
    erf = b.op(
        "Add",
        b.op("Erf", b.op("Div", h, b.const(np.sqrt(2), np.float32))),
        b.const(1, np.float32),
    )
    x = b.op("Add", x, linear(b.op("Mul", half, erf), 3 * width, width, "fc2"))
    return b.graph(linear(b.op("ReduceMean", x, axes=[1], keepdims=0), width, 3, "head"))


NETWORKS: dict[str, Callable[[int], Graph]] = {
    "chain": chain,
    "residual": residual_net,
    "inverted_residual": inverted_residual,
    "grouped": grouped,
    "concatenated": concatenated,
    "attention": attention,
}


def inputs(graph: Graph, samples: int = 32, seed: int = 0) -> dict[str, np.ndarray]:
    """Random inputs of a network."""
    rng = np.random.default_rng(seed)
    shape = [d.dim_value for d in graph.model.graph.input[0].type.tensor_type.shape.dim[1:]]
    return {"x": rng.standard_normal((samples, *shape)).astype(np.float32)}

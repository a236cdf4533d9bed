"""The integer arithmetic of a quantized graph in numpy: what every node with integers in and out has to give.

Codes of one node are computed from the codes it reads, as the QLinear operators of ONNX define it:
q_y = clip(round((sum (q_x - z_x) q_w + q_b) s_x s_w / s_y) + z_y). Source: ALGORITHMS 1.5.

Processors without VNNI add products of uint8 and int8 in pairs, saturated to 16 bits; `Saturating` does that anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from prunegraph.graph.model import Graph, Node
from prunegraph.runtime import patches

Array = np.ndarray

MOVES = (
    "Flatten",
    "Gather",
    "Identity",
    "MaxPool",
    "Reshape",
    "Slice",
    "Split",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
)


@dataclass(frozen=True)
class Codes:
    """Codes with their scale and zero point."""

    codes: Array
    scale: Array
    zero: Array
    dtype: np.dtype[Any]

    @property
    def values(self) -> Array:
        return (self.codes.astype(np.float64) - self.zero) * self.scale


#: Codes from 0 up [..., groups, inputs] and weights [groups, outputs, inputs] -> sums [..., groups, outputs].
Dot = Callable[[Array, Array], Array]


def exact(codes: Array, weights: Array) -> Array:
    """Sums in as many bits as they need."""
    return np.einsum(
        "...gi,goi->...go",
        codes.astype(np.float64),
        weights.astype(np.float64),
        optimize=True,
    )


class Saturating:
    """Sums of pairs that saturate in 16 bits; the seed says which inputs meet, None pairs neighbours."""

    def __init__(self, seed: int | None = None):
        self.seed = seed

    def __call__(self, codes: Array, weights: Array) -> Array:
        order = np.arange(codes.shape[-1])
        if self.seed is not None:
            order = np.random.default_rng(self.seed).permutation(order)
        first, second = order[::2], order[1::2]
        products = self._products(codes, weights, first)
        products[..., : len(second)] += self._products(codes, weights, second)
        return np.clip(products, -(2**15), 2**15 - 1).sum(axis=-1).astype(np.float64)

    def _products(self, codes: Array, weights: Array, places: Array) -> Array:
        return codes[..., :, None, places].astype(np.int64) * weights[:, :, places].astype(
            np.int64
        )


class Reference:
    """Codes that nodes of a quantized graph give, from the codes they read.

    Args:
        graph: the quantized graph.
        codes: what its QuantizeLinear nodes give.
        dot: how products of 8-bit codes with int8 weights are added up.
    """

    def __init__(self, graph: Graph, codes: Mapping[str, Array], dot: Dot = exact):
        self.graph, self.codes, self.dot = graph, codes, dot

    def results(self) -> dict[str, Array]:
        """Codes by the name of a QuantizeLinear's output, for every node that runs in integers and is known here."""
        result = {}
        for node in self.graph.nodes:
            behind = self._quantize(node)
            if behind is None:
                continue
            values = self._accumulated(node)
            if values is not None:
                scale, zero = (
                    self.graph.weights[behind.inputs[slot]].read() for slot in (1, 2)
                )
                limits = np.iinfo(zero.dtype)
                codes = np.rint(values / np.float64(scale)) + np.int64(zero)
                result[behind.outputs[0]] = np.clip(codes, limits.min, limits.max).astype(
                    zero.dtype
                )
        return result

    def _quantize(self, node: Node) -> Node | None:
        """The QuantizeLinear behind a node that has one output."""
        if len(node.outputs) != 1 or node.op in ("QuantizeLinear", "DequantizeLinear"):
            return None
        readers = [
            self.graph.nodes[index]
            for index, _ in self.graph.consumers.get(node.outputs[0], ())
        ]
        return (
            readers[0] if len(readers) == 1 and readers[0].op == "QuantizeLinear" else None
        )

    def _read(self, value: str) -> Codes | None:
        """The codes behind a value, if a DequantizeLinear makes it."""
        node = (
            self.graph.nodes[self.graph.producer[value]]
            if value in self.graph.producer
            else None
        )
        if node is None or node.op != "DequantizeLinear":
            return None
        weights = self.graph.weights
        codes = (
            weights[node.inputs[0]].read()
            if node.inputs[0] in weights
            else self.codes[node.inputs[0]]
        )
        scale = weights[node.inputs[1]].read().astype(np.float64)
        zero = (
            weights[node.inputs[2]].read().astype(np.int64)
            if node.input(2)
            else np.zeros(scale.shape, np.int64)
        )
        if scale.ndim:
            shape = [
                -1 if each == node.attributes.get("axis", 1) else 1
                for each in range(codes.ndim)
            ]
            scale, zero = scale.reshape(shape), zero.reshape(shape)
        return Codes(codes.astype(np.int64), scale, zero, codes.dtype)

    def _accumulated(self, node: Node) -> Array | None:
        """What a node gives before it is quantized again, from exact sums of integers; None for one in float."""
        read = [self._read(value) for value in node.inputs]
        if not read or read[0] is None:
            return None
        if node.op == "Conv" and all(read):
            return self._conv(node, *read)
        if node.op in ("Gemm", "MatMul") and all(read):
            return self._product(node, *read)
        if node.op == "Add" and all(read):
            return read[0].values + read[1].values
        if node.op == "Mul" and all(read):
            return read[0].values * read[1].values
        if node.op == "Sigmoid":
            return 1 / (1 + np.exp(-read[0].values))
        if node.op == "GlobalAveragePool":
            return read[0].values.mean(
                axis=tuple(range(2, read[0].codes.ndim)), keepdims=True
            )
        if node.op == "Concat" and all(read):
            return np.concatenate(
                [each.values for each in read], axis=node.attributes["axis"]
            )
        return None

    def _conv(self, node: Node, x: Codes, w: Codes, b: Codes | None = None) -> Array:
        shape = w.codes.shape
        rows = patches.Rows(node, shape, 1)
        codes = x.codes
        groups = node.attributes.get("group", 1)
        pads = rows.pads(codes.shape[2:])
        rank = len(shape) - 2
        around = [(0, 0), (0, 0), *zip(pads[:rank], pads[rank:], strict=True)]
        padded = np.pad(codes, around, constant_values=int(x.zero))
        strides, dilations = (
            list(node.attributes.get(n) or [1] * rank) for n in ("strides", "dilations")
        )
        spans = [(k - 1) * d + 1 for k, d in zip(shape[2:], dilations, strict=True)]
        windows = np.lib.stride_tricks.sliding_window_view(
            padded, spans, axis=tuple(range(2, 2 + rank))
        )
        step = (slice(None), slice(None), *(slice(None, None, s) for s in strides))
        windows = windows[(*step, *(slice(None, None, d) for d in dilations))]
        places = windows.shape[2 : 2 + rank]
        n, c = codes.shape[:2]
        matrix = np.moveaxis(windows, 1, 1 + rank).reshape(
            n, *places, groups, c // groups * int(np.prod(shape[2:]))
        )
        filters = (w.codes - w.zero).reshape(groups, shape[0] // groups, -1)
        sums = np.moveaxis(
            self._sums(x, w, matrix, filters).reshape(n, *places, shape[0]), -1, 1
        )
        along = [1, -1] + [1] * rank
        bias = 0 if b is None else b.codes.reshape(along)
        return (sums + bias) * x.scale * w.scale.reshape(along)

    def _product(self, node: Node, x: Codes, w: Codes, b: Codes | None = None) -> Array:
        matrix = w.codes - w.zero
        filters = matrix if node.attributes.get("transB") else matrix.T
        sums = self._sums(x, w, x.codes[..., None, :], filters[None])[..., 0, :]
        return (sums + (0 if b is None else b.codes)) * x.scale * w.scale.reshape(-1)

    def _sums(self, x: Codes, w: Codes, codes: Array, filters: Array) -> Array:
        """Sums of (q_x - z_x) (q_w - z_w): kernels multiply codes from 0 up, and take off what that is too much."""
        lowest = np.iinfo(x.dtype).min
        dot = self.dot if w.dtype == np.int8 and x.dtype.itemsize == 1 else exact
        return dot(codes - lowest, filters) - (x.zero - lowest) * filters.sum(axis=-1)

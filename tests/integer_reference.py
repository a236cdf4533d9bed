"""The integer arithmetic of a quantized graph in numpy: what every node with integers in and out has to give.

Codes of one node are computed from the codes it reads, as the QLinear operators of ONNX define it:
q_y = clip(round((sum (q_x - z_x) q_w + q_b) s_x s_w / s_y) + z_y). Source: ALGORITHMS 1.5.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from prunegraph.graph.model import Graph, Node
from prunegraph.runtime import patches

Array = np.ndarray

MOVES = ("Flatten", "Gather", "Identity", "MaxPool", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze")


@dataclass(frozen=True)
class Codes:
    """Codes with their scale and zero point."""

    codes: Array
    scale: Array
    zero: Array

    @property
    def values(self) -> Array:
        return (self.codes.astype(np.float64) - self.zero) * self.scale


class Reference:
    """Codes that nodes of a quantized graph give, from the codes they read."""

    def __init__(self, graph: Graph, codes: Mapping[str, Array]):
        self.graph, self.codes = graph, codes

    def results(self) -> dict[str, Array]:
        """Codes by the name of a QuantizeLinear's output, for every node that runs in integers and is known here."""
        found = {}
        for node in self.graph.nodes:
            behind = self._quantize(node)
            if behind is None:
                continue
            values = self._accumulated(node)
            if values is not None:
                scale, zero = (self.graph.weights[behind.inputs[slot]].read() for slot in (1, 2))
                limits = np.iinfo(zero.dtype)
                codes = np.rint(values / np.float64(scale)) + np.int64(zero)
                found[behind.outputs[0]] = np.clip(codes, limits.min, limits.max).astype(zero.dtype)
        return found

    def _quantize(self, node: Node) -> Node | None:
        """The QuantizeLinear behind a node that has one output."""
        if len(node.outputs) != 1 or node.op in ("QuantizeLinear", "DequantizeLinear"):
            return None
        readers = [self.graph.nodes[index] for index, _ in self.graph.consumers.get(node.outputs[0], ())]
        return readers[0] if len(readers) == 1 and readers[0].op == "QuantizeLinear" else None

    def _read(self, value: str) -> Codes | None:
        """The codes behind a value, if a DequantizeLinear makes it."""
        node = self.graph.nodes[self.graph.producer[value]] if value in self.graph.producer else None
        if node is None or node.op != "DequantizeLinear":
            return None
        weights = self.graph.weights
        codes = weights[node.inputs[0]].read() if node.inputs[0] in weights else self.codes[node.inputs[0]]
        scale = weights[node.inputs[1]].read().astype(np.float64)
        zero = weights[node.inputs[2]].read().astype(np.int64) if node.input(2) else np.zeros(scale.shape, np.int64)
        if scale.ndim:
            shape = [-1 if each == node.attributes.get("axis", 1) else 1 for each in range(codes.ndim)]
            scale, zero = scale.reshape(shape), zero.reshape(shape)
        return Codes(codes.astype(np.int64), scale, zero)

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
            return read[0].values.mean(axis=tuple(range(2, read[0].codes.ndim)), keepdims=True)
        if node.op == "Concat" and all(read):
            return np.concatenate([each.values for each in read], axis=node.attributes["axis"])
        return None

    def _conv(self, node: Node, x: Codes, w: Codes, b: Codes | None = None) -> Array:
        shape = w.codes.shape
        rows = patches.Rows(node, shape, 1)
        codes = (x.codes - x.zero).astype(np.float64)  # sums below 2^53 are exact
        groups = node.attributes.get("group", 1)
        pads = rows.pads(codes.shape[2:])
        rank = len(shape) - 2
        padded = np.pad(codes, [(0, 0), (0, 0), *zip(pads[:rank], pads[rank:], strict=True)])
        strides, dilations = (list(node.attributes.get(n) or [1] * rank) for n in ("strides", "dilations"))
        spans = [(k - 1) * d + 1 for k, d in zip(shape[2:], dilations, strict=True)]
        windows = np.lib.stride_tricks.sliding_window_view(padded, spans, axis=tuple(range(2, 2 + rank)))
        step = (slice(None), slice(None), *(slice(None, None, s) for s in strides))
        windows = windows[(*step, *(slice(None, None, d) for d in dilations))]
        places = windows.shape[2 : 2 + rank]
        n, c = codes.shape[:2]
        matrix = np.moveaxis(windows, 1, 1 + rank).reshape(n, *places, groups, c // groups * int(np.prod(shape[2:])))
        filters = w.codes.reshape(groups, shape[0] // groups, -1).astype(np.float64)
        sums = np.einsum("...gi,goi->...go", matrix, filters, optimize=True).reshape(n, *places, shape[0])
        sums = np.moveaxis(sums, -1, 1)
        along = [1, -1] + [1] * rank
        bias = 0 if b is None else b.codes.reshape(along)
        return (sums + bias) * x.scale * w.scale.reshape(along)

    def _product(self, node: Node, x: Codes, w: Codes, b: Codes | None = None) -> Array:
        matrix = w.codes.T if node.attributes.get("transB") else w.codes
        sums = (x.codes - x.zero).astype(np.float64) @ matrix.astype(np.float64)
        return (sums + (0 if b is None else b.codes)) * x.scale * w.scale.reshape(-1)

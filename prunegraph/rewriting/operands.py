"""Shape arithmetic after a cut: what it computes now, and how to set it right.

Sizes that follow from `Shape` nodes follow the cut by themselves. Every other reader of
such a chain must see what it saw before (or what its rule wants); where it would not, the
operand is replaced by a constant, or corrected by arithmetic where it depends on sizes that
are only known at run time.
"""

from __future__ import annotations

import math

import numpy as np
import onnx
from onnx import helper, numpy_helper

from prunegraph.coupling.survivors import Survivors
from prunegraph.graph.evaluate import evaluate
from prunegraph.graph.facts import Facts
from prunegraph.graph.model import Graph
from prunegraph.graph.names import Names

Array = np.ndarray


class Operands:
    """Values of shape arithmetic in the cut graph, at the sizes of the analysis."""

    def __init__(self, graph: Graph, facts: Facts, survivors: Survivors):
        self.graph, self.facts, self.survivors = graph, facts, survivors
        self.after: dict[str, Array] = {}
        for node in graph.nodes:
            if node.outputs and node.outputs[0] in facts.known:
                self._evaluate(node.index)

    def _evaluate(self, index: int) -> None:
        node = self.graph.nodes[index]
        before = self.facts.known[node.outputs[0]]
        if node.op in ("Shape", "Size"):
            shape = self.survivors.shape(node.inputs[0])
            assert shape is not None
            start, end = node.attributes.get("start", 0), node.attributes.get("end")
            size = np.asarray(math.prod(shape), np.int64)
            self.after[node.outputs[0]] = np.asarray(shape, np.int64)[start:end] if node.op == "Shape" else size
            return
        inputs = [self.now(v) if v else None for v in node.inputs]
        changed = any(v in self.after and not np.array_equal(self.after[v], self.facts.known[v]) for v in node.inputs)
        value = evaluate(node, inputs) if changed else before
        self.after[node.outputs[0]] = before if value is None else value

    def now(self, value: str) -> Array | None:
        """A value's numbers in the cut graph before any repair."""
        return self.after[value] if value in self.after else self.facts.constant(value)

    def corrected(
        self, value: str, wanted: Array, name: str, names: Names
    ) -> tuple[str, list[onnx.NodeProto], list[onnx.TensorProto]]:
        """A value that is `wanted` at the sizes of the analysis.

        Args:
            value: what is set right.
            wanted: its numbers.
            name: what the new value is to be called, as far as `names` has nothing of that name.
            names: gives fresh names.

        Returns:
            Its name, and the nodes and tensors that make it.
        """
        now = self.now(value)
        assert now is not None
        varies = self.facts.varies(value)
        dtype = now.dtype
        if not varies.any() or now.shape != wanted.shape:
            fresh = names.new(name)
            return fresh, [], [numpy_helper.from_array(wanted.astype(dtype), fresh)]
        changed = now != wanted
        scale = changed & varies & (now != 0)
        factor, divisor, term = np.ones_like(now), np.ones_like(now), np.zeros_like(now)
        common = np.gcd(wanted, now)[scale]
        factor[scale], divisor[scale] = wanted[scale] // common, now[scale] // common
        plain = changed & ~scale
        factor[plain], term[plain] = 0, wanted[plain]
        nodes, tensors, current = [], [], value
        for op, operand, neutral in (("Mul", factor, 1), ("Div", divisor, 1), ("Add", term, 0)):
            if np.all(operand == neutral):
                continue
            tensors.append(numpy_helper.from_array(operand.astype(dtype), names.new(f"{name}/{op}_operand")))
            fresh = names.new(f"{name}/{op}")
            nodes.append(helper.make_node(op, [current, tensors[-1].name], [fresh], name=fresh))
            current = fresh
        return current, nodes, tensors

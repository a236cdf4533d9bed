"""Shape arithmetic after a cut: what it computes now, and how to set it right.

Sizes that follow from `Shape` nodes follow the cut by themselves. Every other reader of
such a chain must see what it saw before (or what its rule wants); where it would not, the
operand is replaced by a constant, or corrected by arithmetic where it depends on sizes that
are only known at run time: by a factor, where it is a product of sizes, else by computing it once
more from sizes that are set right. Who reads a value under its name (a caller of the graph, a subgraph
that is not inlined) finds what it found before.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from prunegraph.coupling.survivors import Survivors
from prunegraph.graph.evaluate import evaluate
from prunegraph.graph.flow import is_control
from prunegraph.graph.model import Graph, Node
from prunegraph.graph.names import Names
from prunegraph.graph.shape_info import ShapeInfo
from prunegraph.graph.varying import open_elements, trace_elements, varies
from prunegraph.operators import measures, moves_data

Array = np.ndarray


#: Operators whose result is a product of elements of their inputs, or a choice among these.
PRODUCTS = frozenset({"Mul", "ReduceProd", "Concat"})

Correction = tuple[str, list[onnx.NodeProto], list[onnx.TensorProto]]


class Operands:
    """Values of shape arithmetic in the cut graph, at the sizes of the analysis.

    `as_cut` names the values that a caller or a subgraph reads and that are others after the cut: the nodes of
    the graph find what their inputs compute now under the new name.

    Args:
        graph: the original.
        shape_info: of it.
        survivors: what is left of every axis.
        renamed: weights that a node reads under another name from now on, by node index and slot.
        names: gives fresh names.
    """

    def __init__(
        self,
        graph: Graph,
        shape_info: ShapeInfo,
        survivors: Survivors,
        renamed: Mapping[tuple[int, int], str],
        names: Names,
    ):
        self.graph, self.shape_info, self.survivors = graph, shape_info, survivors
        self.renamed, self.names = renamed, names
        self.after: dict[str, Array] = {}
        self._open: dict[str, Array] = {}
        marks: dict[str, Array] = {}
        for node in graph.nodes:
            if node.outputs and node.outputs[0] in shape_info.known:
                self._evaluate(node.index)
                trace_elements(shape_info, node.outputs[0], self._marks, marks)
        self._affected = {value for value, flags in marks.items() if flags.any()}
        read = dict.fromkeys(
            (*graph.outputs, *(value for node in graph.nodes for value in node.captured))
        )
        self.as_cut = {
            v: names.new(f"{v}/as_cut")
            for v in read
            if v in self.after and not self.holds(v, shape_info.known[v])
        }

    def _marks(self, node: Node, value: str) -> Array | None:
        """Tell which sizes a cut changes."""
        if not measures(node):
            # What leaves a subgraph has been set right there.
            return np.zeros((), bool) if is_control(node) else None
        new, old = (
            np.asarray(shape)
            for shape in (self._shape(node), self.shape_info.shapes[node.inputs[0]])
        )
        if node.op == "Size":
            return np.asarray(not np.array_equal(new, old))
        return (new != old)[node.attributes.get("start", 0) : node.attributes.get("end")]

    def _shape(self, node: Node) -> tuple[int, ...]:
        """The shape that a node of sizes reads now."""
        shape = self.survivors.shape(node.inputs[0])
        assert shape is not None
        return shape

    def holds(self, value: str, wanted: Array) -> bool:
        """Tell whether a value is what is wanted without any correction, at all sizes."""
        now = self.now(value)
        if now is None:
            return True
        return np.array_equal(now, wanted) and (
            value not in self._affected or self._is_product(value)
        )

    def _evaluate(self, index: int) -> None:
        node = self.graph.nodes[index]
        before = self.shape_info.known[node.outputs[0]]
        if measures(node):
            shape = self._shape(node)
            start, end = node.attributes.get("start", 0), node.attributes.get("end")
            size = np.asarray(math.prod(shape), np.int64)
            self.after[node.outputs[0]] = (
                np.asarray(shape, np.int64)[start:end] if node.op == "Shape" else size
            )
            return
        inputs = [self.now(v) if v else None for v in node.inputs]
        changed = any(
            v in self.after and not np.array_equal(self.after[v], self.shape_info.known[v])
            for v in node.inputs
        )
        value = evaluate(node, inputs) if changed else before
        self.after[node.outputs[0]] = before if value is None else value

    def now(self, value: str) -> Array | None:
        """A value's numbers in the cut graph before any repair."""
        return self.after[value] if value in self.after else self.shape_info.constant(value)

    def corrected(self, value: str, wanted: Array, name: str) -> Correction:
        """A value that is `wanted` at the sizes of the analysis.

        Args:
            value: what is set right.
            wanted: its numbers.
            name: what the new value is to be called, as far as nothing has that name.

        Returns:
            Its name, and the nodes and tensors that make it.
        """
        now = self.now(value)
        assert now is not None
        constant = wanted.astype(now.dtype)
        known = self.shape_info.known.get(value)
        if (
            known is not None
            and np.array_equal(wanted, known)
            and not self._is_product(value)
        ):
            is_open = open_elements(self.shape_info, value, self._open).any()
            return (
                self._recomputed(value, name) if is_open else self._constant(constant, name)
            )
        if now.shape != wanted.shape or not varies(self.shape_info, value).any():
            return self._constant(constant, name)
        return self._scaled(value, wanted, name)

    def _constant(self, values: Array, name: str) -> Correction:
        fresh = self.names.new(name)
        return fresh, [], [numpy_helper.from_array(values, fresh)]

    def _above(self, value: str) -> list[Node]:
        """Nodes that make an affected value from sizes, in order."""
        seen: set[int] = set()
        queue = [value]
        while queue:
            current = queue.pop()
            if current in self._affected and self.graph.producer[current] not in seen:
                node = self.graph.nodes[self.graph.producer[current]]
                seen.add(node.index)
                queue += () if measures(node) else node.inputs
        return [self.graph.nodes[index] for index in sorted(seen)]

    def _is_product(self, value: str) -> bool:
        """Tell whether each number is a product of sizes, so that it changes by one factor at all sizes."""

        def keeps_factors(node: Node) -> bool:
            if measures(node) or node.op in PRODUCTS:
                return True
            return moves_data(node) and self._affected.isdisjoint(node.inputs[1:])

        is_whole = np.issubdtype(self.shape_info.known[value].dtype, np.integer)
        return is_whole and all(keeps_factors(node) for node in self._above(value))

    def _recomputed(self, value: str, name: str) -> Correction:
        """A value as the original computes it, from sizes that are set right."""
        names: dict[str, str] = {}
        nodes: list[onnx.NodeProto] = []
        tensors: list[onnx.TensorProto] = []
        for node in self._above(value):
            output, label = node.outputs[0], f"{name}/{len(names)}"
            if measures(node):
                names[output], new, sizes = self._scaled(
                    output, self.shape_info.known[output], label
                )
                nodes += new
                tensors += sizes
                continue
            proto = onnx.NodeProto()
            proto.CopyFrom(node.proto)
            for slot, source in enumerate(node.inputs):
                now = self.renamed.get((node.index, slot), self.as_cut.get(source, source))
                proto.input[slot] = names.get(source, now)
            proto.name = proto.output[0] = names[output] = self.names.new(label)
            nodes.append(proto)
        return names[value], nodes, tensors

    def _scaled(self, value: str, wanted: Array, name: str) -> Correction:
        """A value whose every number gets a factor of its own, or is replaced where it never varies."""
        now = self.now(value)
        assert now is not None
        varying, dtype = varies(self.shape_info, value), now.dtype
        changed = now != wanted
        scale = changed & varying & (now != 0)
        factor, divisor, term = np.ones_like(now), np.ones_like(now), np.zeros_like(now)
        common = np.gcd(wanted, now)[scale]
        factor[scale], divisor[scale] = wanted[scale] // common, now[scale] // common
        plain = changed & ~scale
        factor[plain], term[plain] = 0, wanted[plain]
        nodes, tensors, current = [], [], self.as_cut.get(value, value)
        for op, operand, neutral in (
            ("Mul", factor, 1),
            ("Div", divisor, 1),
            ("Add", term, 0),
        ):
            if np.all(operand == neutral):
                continue
            tensors.append(
                numpy_helper.from_array(
                    operand.astype(dtype), self.names.new(f"{name}/{op}_operand")
                )
            )
            fresh = self.names.new(f"{name}/{op}")
            nodes.append(
                helper.make_node(op, [current, tensors[-1].name], [fresh], name=fresh)
            )
            current = fresh
        return current, nodes, tensors

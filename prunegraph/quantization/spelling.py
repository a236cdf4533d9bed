"""The same graph, spelled so that ONNX Runtime's optimizer leaves it right once layers run in integers.

Between a DequantizeLinear and a QuantizeLinear the optimizer takes operators over, and it moves the transpositions of
its integer convolutions through others. Some variants it gets wrong; here they are written in ways that it gets right.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper

from prunegraph.graph.model import Graph, Node
from prunegraph.graph.shapes import shape_info
from prunegraph.operators import is_resize
from prunegraph.rewriting.rewriter import Rewriter

Array = np.ndarray


def spelled_out(graph: Graph) -> Graph:
    """The same function without what ONNX Runtime gets wrong between integers; `graph` is not touched."""
    return _Speller(graph).run()


class _Speller:
    def __init__(self, graph: Graph):
        self.graph, self.shape_info = graph, shape_info(graph)
        self.rewriter = Rewriter(graph)

    def run(self) -> Graph:
        for node in self.graph.nodes:
            if node.subgraph is None and not node.domain:
                self._spell(node)
        return self.graph if self.rewriter.is_idle else self.rewriter.finish()

    def _spell(self, node: Node) -> None:
        """Every node on its own: outputs that nobody names, and the variants of an operator."""
        if node.outputs and not node.outputs[-1]:
            named = [slot for slot, value in enumerate(node.outputs) if value]
            del self.rewriter.edit(node).output[(named[-1] + 1 if named else 0) :]
        if node.op == "AveragePool":
            self._average(node)
        elif node.op == "Pad" and node.input(3):
            self._pad(node)
        elif is_resize(node) and node.attributes.get("axes") is not None:
            self._resize(node)

    def _average(self, node: Node) -> None:
        """The integer kernel knows no dilations, and counts other paddings at the end."""
        dilations = list(node.attributes.get("dilations") or [])
        if any(each != 1 for each in dilations) or (
            node.attributes.get("ceil_mode") and node.attributes.get("count_include_pad")
        ):
            self._stay_in_float(node)
        elif dilations:
            self._without(node, "dilations")

    def _pad(self, node: Node) -> None:
        """All axes, where they are known: transpositions are moved through a Pad as if it had no list of them."""
        axes, pads = (self.shape_info.constant(node.input(slot)) for slot in (3, 1))
        rank = self._rank(node)
        if axes is None or pads is None or rank is None:
            self._stand_alone(node)
            return
        whole = np.zeros((2, rank), np.int64)
        whole[:, axes.astype(np.int64) % rank] = pads.reshape(2, -1)
        proto = self.rewriter.edit(node)
        proto.input[1] = self._tensor(node, "pads", whole.reshape(-1))
        del proto.input[3:]
        while not proto.input[-1]:
            del proto.input[-1]

    def _resize(self, node: Node) -> None:
        """All axes: scales of 1 and the sizes that others have, where each can be said by itself."""
        axes, rank = [int(axis) for axis in node.attributes["axes"]], self._rank(node)
        scales = self.shape_info.constant(node.input(2)) if node.input(2) else None
        if (
            rank is None
            or node.input(1)
            or node.attributes.get("keep_aspect_ratio_policy", b"stretch") != b"stretch"
        ):
            self._stand_alone(node)
            return
        if scales is not None and scales.size:
            whole = np.ones(rank, np.float32)
            whole[axes] = scales.reshape(-1)
            self.rewriter.edit(node).input[2] = self._tensor(node, "scales", whole)
        elif node.input(3):
            shape, sizes = self._value(node, "shape"), self._value(node, "sizes")
            places = self._tensor(node, "axes", np.asarray(axes, np.int64) % rank)
            self.rewriter.insert_before(
                node,
                helper.make_node("Shape", [node.inputs[0]], [shape]),
                helper.make_node(
                    "ScatterElements", [shape, places, node.inputs[3]], [sizes]
                ),
            )
            self.rewriter.edit(node).input[3] = sizes
        else:
            self._stand_alone(node)
            return
        self._without(node, "axes")

    def _rank(self, node: Node) -> int | None:
        shape = self.shape_info.shapes.get(node.inputs[0])
        return None if shape is None else len(shape)

    def _stay_in_float(self, node: Node) -> None:
        """Read a Max of one value, which is that value: the optimizer takes no operator over behind it."""
        self._read(
            node, [helper.make_node("Max", [node.inputs[0]], [self._value(node, "float")])]
        )

    def _stand_alone(self, node: Node) -> None:
        """Read and give floats, the first reshaped to its own shape: no transposition is moved through that.

        A shape that is known drops out unless it is computed: here 0, as size minus size, is added to it.
        """
        shape, size, zero, own, same, result = (
            self._value(node, what)
            for what in ("shape", "size", "zero", "own", "same", "float")
        )
        self._read(
            node,
            [
                helper.make_node("Shape", [node.inputs[0]], [shape]),
                helper.make_node("Size", [node.inputs[0]], [size]),
                helper.make_node("Sub", [size, size], [zero]),
                helper.make_node("Add", [shape, zero], [own]),
                helper.make_node("Reshape", [node.inputs[0], own], [same]),
                helper.make_node("Max", [same], [result]),
            ],
        )
        proto = self.rewriter.edit(node)
        proto.output[0] = self._value(node, "result")
        self.rewriter.insert_after(
            node, helper.make_node("Max", [proto.output[0]], [node.outputs[0]])
        )

    def _read(self, node: Node, before: Sequence[onnx.NodeProto]) -> None:
        self.rewriter.insert_before(node, *before)
        self.rewriter.edit(node).input[0] = before[-1].output[0]

    def _value(self, node: Node, what: str) -> str:
        return self.rewriter.names.new(f"{node.name or node.outputs[0]}/{what}")

    def _tensor(self, node: Node, what: str, values: Array) -> str:
        return self.rewriter.add_initializer(
            f"{node.name or node.outputs[0]}/{what}", values
        )

    def _without(self, node: Node, attribute: str) -> None:
        proto = self.rewriter.edit(node)
        kept = [each for each in proto.attribute if each.name != attribute]
        del proto.attribute[:]
        proto.attribute.extend(kept)

"""Other weights in the same graph: collected one by one, then made into a new graph at once."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from prunegraph.graph import linear
from prunegraph.graph.linear import LinearLayer
from prunegraph.graph.model import Graph, Node
from prunegraph.operators import info, is_gemm, is_matmul
from prunegraph.rewriting.rewriter import Rewriter

Array = np.ndarray


class Revision:
    """New values for weights of a graph, and new biases for its layers. The graph is not touched.

    `weights` are new values by name. A weight that is a graph output as well keeps its value there.
    """

    def __init__(self, graph: Graph):
        self.graph = graph
        self.weights: dict[str, Array] = {}
        self._rewriter = Rewriter(graph)
        self._given: dict[tuple[int, int], str] = {}
        self._intercepts: dict[int, Array] = {}
        self._extra: list[str] = []

    @property
    def protos(self) -> dict[int, onnx.NodeProto]:
        """Nodes that have got another input, by index."""
        return {
            index: self._rewriter.edit(self.graph.nodes[index]) for index, _ in self._given
        }

    def value(self, name: str) -> Array:
        """A weight as it is now, in double precision."""
        now = (
            self.weights[name] if name in self.weights else self.graph.weights[name].read()
        )
        return now.astype(np.float64)

    def set(self, name: str, values: Array) -> None:
        """Replace a weight; values are cast to its type. Raises KeyError."""
        self.weights[name] = values.astype(self.graph.weights[name].dtype)

    def matrix(self, node: Node) -> Array:
        """A layer's weight as [groups, inputs, outputs], times its factor; the caller's own."""
        matrix = linear.to_matrix(node, self.value(node.inputs[1]))
        matrix *= LinearLayer(self.graph, node).alpha
        return matrix

    def set_matrix(self, node: Node, matrix: Array) -> None:
        """Replace a layer's weight by a matrix [groups, inputs, outputs]."""
        shape = self.graph.weights[node.inputs[1]].shape
        alpha = LinearLayer(self.graph, node).alpha
        if alpha != 1:
            matrix = matrix / alpha
        self.set(node.inputs[1], linear.from_matrix(node, matrix, shape))

    def intercept(self, node: Node) -> Array:
        """Say what a layer adds to each output [outputs]: zeros where that is nothing, or no constant vector.

        What was set last counts.
        """
        if node.index in self._intercepts:
            return self._intercepts[node.index]
        layer = LinearLayer(self.graph, node)
        return layer.vector(self.value(layer.bias) if layer.has_vector else None)

    def set_intercept(self, node: Node, values: Array) -> None:
        """Let a layer add `values` [outputs]: by its bias, the BatchNormalization or Add behind it, or a new bias.

        A bias that is a constant matrix is added besides. See `can_intercept`.
        """
        self._intercepts[node.index] = values
        layer, normal = (
            LinearLayer(self.graph, node),
            linear.batch_normalization(self.graph, node),
        )
        behind = linear.add_behind(self.graph, node) if is_matmul(node) else None
        if layer.bias not in self.graph.weights and normal is not None:
            mean = self.graph.weights[normal.inputs[3]]
            self.set(mean.name, mean.read().astype(np.float64) - values)
        elif behind is not None:
            self._set_behind(*behind, values)
        elif (
            layer.has_vector
            and self._owns(layer.bias)
            and self.graph.weights[layer.bias].size == layer.outputs
        ):
            shape = self.graph.weights[layer.bias].shape
            self.set(layer.bias, (values / layer.beta).reshape(shape))
        elif layer.rest:
            self._new_bias(
                node,
                self.graph.weights[layer.rest].read().astype(np.float64) * layer.beta
                + values,
            )
        else:
            self._new_bias(node, values)

    def can_intercept(self, node: Node) -> bool:
        """Tell whether `set_intercept` has a place to write to.

        A MatMul has none of its own, and one that is taken by a computed bias is none.
        """
        if linear.batch_normalization(self.graph, node) is not None:
            return True
        if is_matmul(node):
            return linear.add_behind(self.graph, node) is not None
        rest = LinearLayer(self.graph, node).rest
        return info(node).is_linear and (not rest or rest in self.graph.weights)

    def add_behind(self, node: Node, values: Array) -> None:
        """Let an Add behind a layer add `values`, which are broadcast with its output."""
        name = self._rewriter.names.new(f"{node.name}/absorbed")
        self.weights[name] = values.astype(self.graph.weights[node.inputs[1]].dtype)
        self._extra.append(name)
        value = node.outputs[0]
        plain = self._rewriter.take_over(value, f"{value}/plain")
        self._rewriter.insert_after(
            node, helper.make_node("Add", [plain, name], [value], name=name)
        )

    def set_operand(self, node: Node, slot: int, values: Array) -> None:
        """Let a node read a constant in place of a computed value; of the type that `values` have."""
        self.weights[self._fresh_input(node, slot, f"{node.name}/constant")] = values

    def _owns(self, name: str) -> bool:
        return len(self.graph.consumers[name]) == 1 and name not in self.graph.outputs

    def _set_behind(self, add: Node, slot: int, values: Array) -> None:
        """Let the Add behind a MatMul add `values` more than it did."""
        weight = self.graph.weights[add.inputs[slot]]
        shape = (*weight.shape[:-1], len(values))
        total = weight.read().astype(np.float64) + values.reshape(shape)
        if self._owns(weight.name) and weight.shape == shape:
            self.set(weight.name, total)
        else:
            self._new_input(add, slot, f"{add.name}/bias", total)

    def _new_bias(self, node: Node, values: Array) -> None:
        """Give a layer another bias, with the factor 1."""
        proto = self._new_input(node, 2, f"{node.name}/bias", values)
        for attribute in [each for each in proto.attribute if each.name == "beta"]:
            proto.attribute.remove(attribute)
        if is_gemm(node) and node.version < 7 and "broadcast" not in node.attributes:
            proto.attribute.append(helper.make_attribute("broadcast", 1))

    def _new_input(
        self, node: Node, slot: int, wanted: str, values: Array
    ) -> onnx.NodeProto:
        """Let a node read new values at a slot; its new form."""
        name = self._fresh_input(node, slot, wanted)
        like = (
            self.graph.weights.get(node.input(slot)) or self.graph.weights[node.inputs[1]]
        )
        self.weights[name] = values.astype(like.dtype)
        return self._rewriter.edit(node)

    def _fresh_input(self, node: Node, slot: int, wanted: str) -> str:
        """The name of the new values that a node reads at a slot."""
        key = node.index, slot
        if key not in self._given:
            self._given[key] = self._rewriter.names.new(wanted)
            self._rewriter.set_input(node, slot, self._given[key])
            self._extra.append(self._given[key])
        return self._given[key]

    def apply(self, *, spent: bool = False) -> Graph:
        """A new graph with the new weights.

        Args:
            spent: whether the arrays are given up on the way: no weight is held twice, and nothing is left to revise.
        """
        weights = self.weights if spent else dict(self.weights)
        if not weights:
            return self.graph
        extra = [(name, weights.pop(name)) for name in self._extra]
        for name in list(weights):
            self._rewriter.set_weight(name, weights.pop(name))
        for name, values in extra:
            self._rewriter.add_tensor(numpy_helper.from_array(values, name))
        return self._rewriter.finish()

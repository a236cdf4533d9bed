"""Other weights in the same graph: collected one by one, then made into a new graph at once."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from prunegraph.graph import linear
from prunegraph.graph.model import Graph, Node
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
        self._biases: dict[int, str] = {}
        self._intercepts: dict[int, Array] = {}
        self._extra: list[str] = []

    @property
    def protos(self) -> dict[int, onnx.NodeProto]:
        """Nodes that read a new bias, by index."""
        return {index: self._rewriter.edit(self.graph.nodes[index]) for index in self._biases}

    def value(self, name: str) -> Array:
        """A weight as it is now, in double precision."""
        now = self.weights[name] if name in self.weights else self.graph.weights[name].read()
        return now.astype(np.float64)

    def set(self, name: str, values: Array) -> None:
        """Replace a weight; values are cast to its type. Raises KeyError."""
        self.weights[name] = values.astype(self.graph.weights[name].dtype)

    def matrix(self, node: Node) -> Array:
        """A layer's weight as [groups, inputs, outputs]."""
        return linear.to_matrix(node, self.value(node.inputs[1])) * node.attributes.get("alpha", 1.0)

    def set_matrix(self, node: Node, matrix: Array) -> None:
        """Replace a layer's weight by a matrix [groups, inputs, outputs]."""
        shape = self.graph.weights[node.inputs[1]].shape
        self.set(node.inputs[1], linear.from_matrix(node, matrix / node.attributes.get("alpha", 1.0), shape))

    def intercept(self, node: Node) -> Array:
        """What a layer adds to its product: its bias [outputs], zeros without one, or what was set last."""
        if node.index in self._intercepts:
            return self._intercepts[node.index]
        outputs = self.matrix(node).shape[0] * self.matrix(node).shape[2]
        bias = node.input(2)
        if bias not in self.graph.weights:
            return np.zeros(outputs)
        return np.broadcast_to(self.value(bias) * node.attributes.get("beta", 1.0), (outputs,))

    def set_intercept(self, node: Node, values: Array) -> None:
        """Let a layer add `values` [outputs]: by its bias, the BatchNormalization or Add behind it, or a new bias."""
        self._intercepts[node.index] = values
        bias, normal = node.input(2), linear.batch_normalization(self.graph, node)
        behind = linear.bias_behind(self.graph, node)
        if not bias and normal is not None:
            mean = self.graph.weights[normal.inputs[3]]
            self.set(mean.name, mean.read().astype(np.float64) - values)
        elif node.op == "MatMul" and behind is not None:
            self.set(behind, self.graph.weights[behind].read().astype(np.float64) + values)
        elif bias in self.graph.weights and self._owns(node, bias, values.shape):
            self.set(bias, values / node.attributes.get("beta", 1.0))
        else:
            self._new_bias(node, values / node.attributes.get("beta", 1.0))

    def can_intercept(self, node: Node) -> bool:
        """Whether `set_intercept` has a place to write to; a MatMul has none of its own."""
        if node.op in ("Conv", "Gemm") or linear.batch_normalization(self.graph, node) is not None:
            return True
        return linear.bias_behind(self.graph, node) is not None

    def add_behind(self, node: Node, values: Array) -> None:
        """Let an Add behind a layer add `values`, which are broadcast with its output."""
        name = self._rewriter.names.new(f"{node.name}/absorbed")
        self.weights[name] = values.astype(self.graph.weights[node.inputs[1]].dtype)
        self._extra.append(name)
        value = node.outputs[0]
        plain = self._rewriter.take_over(value, f"{value}/plain")
        self._rewriter.insert_after(node, helper.make_node("Add", [plain, name], [value], name=name))

    def _owns(self, node: Node, bias: str, shape: tuple[int, ...]) -> bool:
        return len(self.graph.consumers[bias]) == 1 and self.graph.weights[bias].shape == shape

    def _new_bias(self, node: Node, values: Array) -> None:
        if node.index not in self._biases:
            name = self._rewriter.names.new(f"{node.name}/bias")
            self._rewriter.set_input(node, 2, name)
            self._biases[node.index] = name
            self._extra.append(name)
        self.weights[self._biases[node.index]] = values.astype(self.graph.weights[node.inputs[1]].dtype)

    def apply(self) -> Graph:
        """A new graph with the new weights."""
        if not self.weights:
            return self.graph
        for name, values in self.weights.items():
            if name not in self._extra:
                self._rewriter.set_weight(name, values)
        for name in self._extra:
            self._rewriter.add_tensor(numpy_helper.from_array(self.weights[name], name))
        return self._rewriter.finish(swept=False)

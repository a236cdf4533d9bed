"""Other weights in the same graph: collected one by one, then made into a new graph at once."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import helper, numpy_helper

from prunegraph.graph import linear
from prunegraph.graph.external import without_weights
from prunegraph.graph.model import Graph, Node
from prunegraph.graph.names import Names
from prunegraph.rewriting.weights import tensor_like

Array = np.ndarray


class Revision:
    """New values for weights of a graph, and new biases for its layers. The graph is not touched.

    `weights` are new values by name, `protos` nodes that have got another input, by index.
    """

    def __init__(self, graph: Graph):
        self.graph = graph
        self.weights: dict[str, Array] = {}
        self.protos: dict[int, onnx.NodeProto] = {}
        self._extra: list[str] = []
        self._names = Names(graph)
        self._intercepts: dict[int, Array] = {}
        self._added: dict[str, str] = {}

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
        name = self._names.new(f"{node.name}/absorbed")
        self.weights[name] = values.astype(self.graph.weights[node.inputs[1]].dtype)
        self._extra.append(name)
        self._added[node.outputs[0]] = name

    def _owns(self, node: Node, bias: str, shape: tuple[int, ...]) -> bool:
        return len(self.graph.consumers[bias]) == 1 and self.graph.weights[bias].shape == shape

    def _new_bias(self, node: Node, values: Array) -> None:
        if node.index not in self.protos:
            proto = onnx.NodeProto()
            proto.CopyFrom(node.proto)
            del proto.input[2:]
            proto.input.append(self._names.new(f"{node.name}/bias"))
            self.protos[node.index] = proto
            self._extra.append(proto.input[2])
        name = self.protos[node.index].input[2]
        self.weights[name] = values.astype(self.graph.weights[node.inputs[1]].dtype)

    def apply(self) -> Graph:
        """A new graph with the new weights."""
        if not self.weights:
            return self.graph
        model = without_weights(self.graph.model)
        by_outputs = {tuple(self.graph.nodes[index].outputs): proto for index, proto in self.protos.items()}
        for proto in model.graph.node:
            if tuple(proto.output) in by_outputs:
                proto.CopyFrom(by_outputs[tuple(proto.output)])
            elif proto.op_type == "Constant" and proto.output[0] in self.weights:
                tensor = self._tensor(proto.output[0])
                del proto.attribute[:]
                proto.attribute.append(helper.make_attribute("value", tensor))
        for output, name in self._added.items():
            self._insert_add(model.graph, output, name)
        for tensor in self._initializers():
            model.graph.initializer.append(tensor)
        return Graph(model, folder=self.graph.folder, source=self.graph.source, keeps=self.graph)

    def _insert_add(self, graph: onnx.GraphProto, output: str, values: str) -> None:
        """Put an Add behind the node that makes a value; the value is the Add's from now on."""
        index, made = next((i, proto) for i, proto in enumerate(graph.node) if output in proto.output)
        plain = self._names.new(f"{output}/plain")
        made.output[list(made.output).index(output)] = plain
        graph.node.insert(index + 1, helper.make_node("Add", [plain, values], [output], name=values))

    def _initializers(self) -> Iterator[onnx.TensorProto]:
        for tensor in self.graph.model.graph.initializer:
            yield self._tensor(tensor.name) if tensor.name in self.weights else tensor
        for name in self._extra:
            yield numpy_helper.from_array(self.weights[name], name)

    def _tensor(self, name: str) -> onnx.TensorProto:
        return tensor_like(self.graph.weights[name], np.ascontiguousarray(self.weights[name]), name)

"""Other weights in the same graph: collected one by one, then made into a new graph at once."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import helper, numpy_helper

from prunegraph.graph import linear
from prunegraph.graph.external import without_weights
from prunegraph.graph.linear import LinearLayer
from prunegraph.graph.model import Graph, Node
from prunegraph.graph.names import Names
from prunegraph.rewriting.sweep import sweep
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
        """A layer's weight as [groups, inputs, outputs], times its factor."""
        return linear.to_matrix(node, self.value(node.inputs[1])) * LinearLayer(self.graph, node).alpha

    def set_matrix(self, node: Node, matrix: Array) -> None:
        """Replace a layer's weight by a matrix [groups, inputs, outputs]."""
        shape = self.graph.weights[node.inputs[1]].shape
        self.set(node.inputs[1], linear.from_matrix(node, matrix / LinearLayer(self.graph, node).alpha, shape))

    def intercept(self, node: Node) -> Array:
        """What a layer adds to each output [outputs]: zeros where that is nothing, or no constant vector.

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
        layer, normal = LinearLayer(self.graph, node), linear.batch_normalization(self.graph, node)
        behind = linear.add_behind(self.graph, node) if node.op == "MatMul" else None
        if layer.bias not in self.graph.weights and normal is not None:
            mean = self.graph.weights[normal.inputs[3]]
            self.set(mean.name, mean.read().astype(np.float64) - values)
        elif behind is not None:
            self._set_behind(*behind, values)
        elif layer.has_vector and self._owns(layer.bias) and self.graph.weights[layer.bias].size == layer.outputs:
            shape = self.graph.weights[layer.bias].shape
            self.set(layer.bias, (values / layer.beta).reshape(shape))
        elif layer.rest:
            self._new_bias(node, self.graph.weights[layer.rest].read().astype(np.float64) * layer.beta + values)
        else:
            self._new_bias(node, values)

    def can_intercept(self, node: Node) -> bool:
        """Whether `set_intercept` has a place to write to.

        A MatMul has none of its own, and one that is taken by a computed bias is none.
        """
        if linear.batch_normalization(self.graph, node) is not None:
            return True
        if node.op == "MatMul":
            return linear.add_behind(self.graph, node) is not None
        rest = LinearLayer(self.graph, node).rest
        return node.op in ("Conv", "Gemm") and (not rest or rest in self.graph.weights)

    def add_behind(self, node: Node, values: Array) -> None:
        """Let an Add behind a layer add `values`, which are broadcast with its output."""
        name = self._names.new(f"{node.name}/absorbed")
        self.weights[name] = values.astype(self.graph.weights[node.inputs[1]].dtype)
        self._extra.append(name)
        self._added[node.outputs[0]] = name

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
        if node.op == "Gemm" and node.version < 7 and "broadcast" not in node.attributes:
            proto.attribute.append(helper.make_attribute("broadcast", 1))

    def _new_input(self, node: Node, slot: int, wanted: str, values: Array) -> onnx.NodeProto:
        """Let a node read new values at a slot; its new form."""
        if node.index not in self.protos:
            proto = onnx.NodeProto()
            proto.CopyFrom(node.proto)
            while len(proto.input) <= slot:
                proto.input.append("")
            proto.input[slot] = self._names.new(wanted)
            self.protos[node.index] = proto
            self._extra.append(proto.input[slot])
        proto = self.protos[node.index]
        like = self.graph.weights.get(node.input(slot)) or self.graph.weights[node.inputs[1]]
        self.weights[proto.input[slot]] = values.astype(like.dtype)
        return proto

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
        sweep(model.graph, self.graph.model.graph)
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

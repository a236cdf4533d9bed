"""Gemm nodes in one form, `x W + b`, so that what replaces them need not know of the others.

The factors go into weight and bias, an input that is transposed gets a Transpose, and a bias that is a matrix or
computed in the graph an Add of its own. What has a factor of 0 goes.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from prunegraph.graph.linear import LinearLayer
from prunegraph.graph.model import Graph, Node
from prunegraph.operators import is_gemm
from prunegraph.rewriting.rewriter import Rewriter

Array = np.ndarray


def plain_gemms(graph: Graph) -> Graph:
    """The same function with every Gemm of a constant float32 weight as `x W + b`, b one value for each output.

    The values they make keep their names; the graph itself where there is nothing to do.
    """
    writer = _GemmWriter(graph)
    for node in graph.nodes:
        if _is_odd(graph, node):
            writer.replace(LinearLayer(graph, node))
    return graph if writer.rewriter.is_idle else writer.rewriter.finish()


def _is_odd(graph: Graph, node: Node) -> bool:
    """Tell whether a Gemm has another form, and can have the plain one."""
    layer = LinearLayer(graph, node)
    weight = layer.weight
    if (
        not is_gemm(node)
        or node.domain
        or node.subgraph is not None
        or weight is None
        or node.version < 7
    ):
        return False
    if weight.tensor.data_type != onnx.TensorProto.FLOAT or len(weight.shape) != 2:
        return False
    bias = graph.weights.get(layer.bias)
    plain = not layer.bias or (
        layer.has_vector
        and layer.beta == 1
        and bias is not None
        and bias.size == layer.outputs
    )
    return layer.is_transposed or layer.alpha != 1 or layer.beta != 1 or not plain


class _GemmWriter:
    def __init__(self, graph: Graph):
        self.graph, self.rewriter = graph, Rewriter(graph)
        self.names = self.rewriter.names

    def replace(self, layer: LinearLayer) -> None:
        """Put the plain form in a Gemm's place."""
        node, output = layer.node, []
        proto = onnx.NodeProto()
        proto.CopyFrom(node.proto)
        del proto.attribute[:]
        if node.attributes.get("transB"):
            proto.attribute.append(helper.make_attribute("transB", 1))
        if layer.is_transposed:
            turned = self.names.new(f"{node.name}/transposed")
            output.append(
                helper.make_node(
                    "Transpose", [proto.input[0]], [turned], name=turned, perm=[1, 0]
                )
            )
            proto.input[0] = turned
        if layer.alpha != 1:
            proto.input[1] = self._tensor(f"{node.name}/weight", layer.weighted())
        output.append(proto)
        del proto.input[2:]
        if layer.rest:
            proto.output[0] = self.names.new(f"{node.name}/product")
            output += self._added(layer, proto.output[0])
        if layer.has_vector or node.version < 11:  # there, a Gemm has to have a bias
            proto.input.append(self._tensor(f"{node.name}/bias", layer.vector()))
        self.rewriter.replace(node, output)

    def _added(self, layer: LinearLayer, product: str) -> list[onnx.NodeProto]:
        """The sum of a product and a bias that is no constant vector."""
        node, rest, output = layer.node, layer.rest, []
        if rest in self.graph.weights and layer.beta != 1:
            rest = self._tensor(
                f"{node.name}/bias",
                self.graph.weights[rest].read().astype(np.float64) * layer.beta,
            )
        elif layer.beta != 1:
            rest = self.names.new(f"{node.name}/scaled")
            factor = self._tensor(f"{node.name}/beta", np.asarray(layer.beta))
            output.append(helper.make_node("Mul", [layer.rest, factor], [rest], name=rest))
        name = self.names.new(f"{node.name}/sum")
        return [
            *output,
            helper.make_node("Add", [product, rest], list(node.outputs), name=name),
        ]

    def _tensor(self, wanted: str, values: Array) -> str:
        cast = np.ascontiguousarray(values, np.float32).reshape(values.shape)
        return self.rewriter.add_initializer(wanted, cast)

"""BatchNormalization folded into the layer before it: the same function with one node less (exact but for rounding).

`W' = W f`, `b' = (b - mean) f + shift` with `f = scale / sqrt(variance + epsilon)`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import numpy_helper

from prunegraph.graph import linear
from prunegraph.graph.external import without_weights
from prunegraph.graph.model import Graph, Node
from prunegraph.rewriting.sweep import sweep
from prunegraph.rewriting.weights import tensor_like

Array = np.ndarray

#: Axis of a weight that makes the outputs, by operator; of a transposed convolution only without groups.
OUTPUTS = {"Conv": 0, "ConvTranspose": 1, "Gemm": 1}


def fold(graph: Graph) -> Graph:
    """The graph without the BatchNormalization nodes that are the only readers of a layer.

    Weights that others read too stay as they are for those. Normalisations behind anything else stay.
    """
    model = without_weights(graph.model)
    protos = {tuple(proto.output): proto for proto in model.graph.node}
    tensors: dict[str, onnx.TensorProto] = {}
    for layer, normal in _pairs(graph):
        proto = protos[tuple(layer.outputs)]
        for slot, values in _folded(graph, layer, normal):
            tensors.update([_place(graph, layer, proto, slot, values, tensors)])
        proto.output[0] = normal.outputs[0]
        protos[tuple(normal.outputs)].ClearField("output")
    if not tensors:
        return graph
    left = [proto for proto in model.graph.node if proto.output]
    copies = [onnx.NodeProto.FromString(proto.SerializeToString()) for proto in left]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    for tensor in graph.model.graph.initializer:
        model.graph.initializer.append(tensors.pop(tensor.name, tensor))
    model.graph.initializer.extend(tensors.values())
    sweep(model.graph, graph.model.graph)
    return Graph(model, folder=graph.folder, source=graph.source, keeps=graph)


def _pairs(graph: Graph) -> Iterator[tuple[Node, Node]]:
    """Layers with a BatchNormalization of known statistics as their only reader."""
    for node in graph.nodes:
        weight = graph.weights.get(node.input(1))
        if node.op not in OUTPUTS or node.domain or node.body is not None or weight is None or not weight.is_float:
            continue
        if node.op == "ConvTranspose" and node.attributes.get("group", 1) != 1:
            continue
        if node.input(2) and node.input(2) not in graph.weights:
            continue
        readers = graph.consumers.get(node.outputs[0], ())
        if len(readers) != 1 or node.outputs[0] in graph.outputs:
            continue
        reader = graph.nodes[readers[0][0]]
        if _is_foldable(graph, reader) and readers[0][1] == 0:
            yield node, reader


def _is_foldable(graph: Graph, node: Node) -> bool:
    if node.op != "BatchNormalization" or node.body is not None or node.attributes.get("training_mode", 0):
        return False
    # Before operator set 7 its outputs depend on `is_test`; further outputs are of training.
    if node.version < 7 or any(node.outputs[1:]) or node.attributes.get("spatial", 1) != 1:
        return False
    return all(graph.weight_behind(value) in graph.weights for value in node.inputs[1:])


def _folded(graph: Graph, layer: Node, normal: Node) -> Iterator[tuple[int, Array]]:
    """New weight and bias of a layer, by input slot."""
    factor, mean, shift = linear.normalisation(graph, normal)
    weight = graph.weights[layer.inputs[1]].read().astype(np.float64)
    axis = 0 if layer.op == "Gemm" and layer.attributes.get("transB") else OUTPUTS[layer.op]
    yield 1, weight * factor.reshape([-1 if each == axis else 1 for each in range(weight.ndim)])
    bias = graph.weights[layer.inputs[2]].read().astype(np.float64) if layer.input(2) else np.zeros(len(factor))
    beta = layer.attributes.get("beta", 1.0) if layer.op == "Gemm" else 1.0
    folded = (bias * beta - mean) * factor + shift
    # A beta of 0 leaves no place for a bias.
    yield 2, folded / beta if beta else folded


def _place(
    graph: Graph, layer: Node, proto: onnx.NodeProto, slot: int, values: Array, taken: dict[str, onnx.TensorProto]
) -> tuple[str, onnx.TensorProto]:
    """A weight's new tensor: under its old name where the layer is its only reader, else under a new one."""
    old = graph.weights.get(layer.input(slot))
    role = "weight" if slot == 1 else "bias"
    like = old or graph.weights[layer.inputs[1]]
    alone = old is not None and len(graph.consumers[old.name]) == 1 and old.name not in graph.outputs
    if alone and old is not None and old.holder is None and old.shape == values.shape:
        name = old.name
    else:
        name = f"{layer.name}/{role}"
        while name in graph.weights or name in graph.producer or name in graph.inputs or name in taken:
            name += "_"
        while len(proto.input) <= slot:
            proto.input.append("")
        proto.input[slot] = name
    cast = np.ascontiguousarray(values.astype(like.dtype))
    tensor = tensor_like(old, cast, name) if old is not None else numpy_helper.from_array(cast, name)
    return name, tensor

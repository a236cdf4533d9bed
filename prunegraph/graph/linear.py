"""Layers that are a matrix product: their weights as a matrix, and the BatchNormalization behind.

A convolution is a matrix product of input patches with its filters; a linear layer of the
last axis. Matrices are [groups, inputs, outputs]; only grouped convolutions have more
than one group.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from prunegraph.graph.model import Graph, Node

Array = np.ndarray

#: Operators whose weights can be refitted and whose inputs have Gram matrices.
LINEAR = ("Conv", "Gemm", "MatMul")


def is_linear(graph: Graph, node: Node) -> bool:
    """Whether a node multiplies one input with a float weight of its own that nothing else reads; not in a body."""
    weight = graph.weights.get(node.input(1))
    if node.op not in LINEAR or node.domain or node.body is not None or node.attributes.get("transA"):
        return False
    if weight is None or not weight.is_float:
        return False
    rank_fits = len(weight.shape) >= 3 if node.op == "Conv" else len(weight.shape) == 2
    return rank_fits and len(graph.consumers[weight.name]) == 1 and weight.name not in graph.outputs


def groups(node: Node) -> int:
    """Groups of a convolution; 1 for all others."""
    return int(node.attributes.get("group", 1)) if node.op == "Conv" else 1


def to_matrix(node: Node, weight: Array) -> Array:
    """A layer's weight as [groups, inputs, outputs]."""
    if node.op == "Conv":
        return weight.reshape(groups(node), weight.shape[0] // groups(node), -1).swapaxes(1, 2)
    return (weight.T if node.attributes.get("transB") else weight)[None]


def from_matrix(node: Node, matrix: Array, shape: Sequence[int]) -> Array:
    """The inverse of `to_matrix`."""
    if node.op == "Conv":
        return matrix.swapaxes(1, 2).reshape(shape)
    return (matrix[0].T if node.attributes.get("transB") else matrix[0]).reshape(shape)


def matrix_size(node: Node, shape: Sequence[int]) -> int:
    """Inputs of a layer's matrix (per group), from its weight's shape."""
    if node.op == "Conv":
        return math.prod(shape[1:])
    return shape[1] if node.attributes.get("transB") else shape[0]


def batch_normalization(graph: Graph, node: Node) -> Node | None:
    """The BatchNormalization that is the only reader of a layer, if its mean is its own."""
    readers = graph.consumers.get(node.outputs[0], ())
    if len(readers) != 1 or node.outputs[0] in graph.outputs:
        return None
    reader = graph.nodes[readers[0][0]]
    if reader.op != "BatchNormalization" or reader.attributes.get("training_mode", 0):
        return None
    mean = reader.inputs[3]
    known = all(graph.weight_behind(value) for value in reader.inputs[1:])
    return reader if known and mean in graph.weights and len(graph.consumers[mean]) == 1 else None


def bias_behind(graph: Graph, node: Node) -> str | None:
    """The weight vector that an Add, the only reader of a layer, adds to its outputs, if it is its own."""
    readers = graph.consumers.get(node.outputs[0], ())
    if len(readers) != 1 or node.outputs[0] in graph.outputs or graph.nodes[readers[0][0]].op != "Add":
        return None
    other = next((value for value in graph.nodes[readers[0][0]].inputs if value != node.outputs[0]), "")
    weight, main = graph.weights.get(other), graph.weights.get(node.input(1))
    if weight is None or main is None or len(graph.consumers[other]) != 1 or other in graph.outputs:
        return None
    return other if weight.is_float and weight.shape == (main.shape[-1],) else None


def normalisation(graph: Graph, node: Node) -> tuple[Array, Array, Array]:
    """Factor, mean and shift [channels] of a BatchNormalization: y = (x - mean) * factor + shift."""
    scale, shift, mean, variance = (
        graph.weights[str(graph.weight_behind(value))].read().astype(np.float64) for value in node.inputs[1:]
    )
    return scale / np.sqrt(variance + node.attributes.get("epsilon", 1e-5)), mean, shift


def scaled_matrix(graph: Graph, node: Node) -> Array:
    """A layer's matrix [groups, inputs, outputs], in the scale of what comes after its BatchNormalization."""
    matrix = to_matrix(node, graph.weights[node.inputs[1]].read().astype(np.float64))
    normal = batch_normalization(graph, node)
    if normal is None:
        return matrix
    return matrix * normalisation(graph, normal)[0].reshape(groups(node), 1, -1)

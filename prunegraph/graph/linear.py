"""Layers that are a matrix product: their weights as a matrix, and the BatchNormalization behind.

A convolution is a matrix product of input patches with its filters; a linear layer of the
last axis. Matrices are [groups, inputs, outputs]; only grouped convolutions have more
than one group.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx

from prunegraph.graph.constants import is_constant
from prunegraph.graph.model import Graph, Node, Weight
from prunegraph.operators import (
    info,
    is_add,
    is_batch_normalization,
    is_convolution,
    is_gemm,
    is_matmul,
)

Array = np.ndarray


@dataclass(frozen=True)
class LinearLayer:
    """A Conv, Gemm or MatMul as `alpha x W + beta C`: what its parts are, and what may be done to them.

    Only a Gemm has other factors than 1. Questions that start with "no" are answered by a reason why something may
    not be done to the layer, or by "" where it may.
    """

    graph: Graph = field(repr=False)
    node: Node

    @property
    def weight(self) -> Weight | None:
        """The constant that it multiplies its input with, if that is its second input."""
        return self.graph.weights.get(self.node.input(1))

    @property
    def alpha(self) -> float:
        """Factor of the product."""
        return float(self.node.attributes.get("alpha", 1.0)) if is_gemm(self.node) else 1.0

    @property
    def beta(self) -> float:
        """Factor of the bias."""
        return float(self.node.attributes.get("beta", 1.0)) if is_gemm(self.node) else 1.0

    @property
    def is_transposed(self) -> bool:
        """Tell whether its input has the channels along axis 0."""
        return is_gemm(self.node) and bool(self.node.attributes.get("transA"))

    @property
    def outputs(self) -> int:
        """How many channels it makes."""
        return self.graph.weights[self.node.inputs[1]].shape[output_axis(self.node)]

    def weighted(self) -> Array:
        """Its weight times the factor of the product, in double precision."""
        return (
            self.graph.weights[self.node.inputs[1]].read().astype(np.float64) * self.alpha
        )

    @property
    def bias(self) -> str:
        """The name of what it adds to its product; "" where that is nothing, as with a factor of 0."""
        return self.node.input(2) if not is_matmul(self.node) and self.beta else ""

    @property
    def has_vector(self) -> bool:
        """Tell whether its bias is a constant with one value for each output, or one for all of them."""
        weight = self.graph.weights.get(self.bias)
        return weight is not None and is_vector(weight.shape, self.outputs)

    @property
    def rest(self) -> str:
        """The bias where it is no constant vector: a matrix, or computed in the graph."""
        return "" if self.has_vector else self.bias

    def vector(self, values: Array | None = None) -> Array:
        """Say what it adds to each of its outputs [outputs], factor included; zeros where that is no constant vector.

        `values` are the bias as it is now.
        """
        if not self.has_vector:
            return np.zeros(self.outputs)
        values = self.graph.weights[self.bias].read() if values is None else values
        return np.broadcast_to(
            values.astype(np.float64).reshape(-1) * self.beta, (self.outputs,)
        )

    # -- what may be done to it -------------------------------------------------------------

    def no_product(self) -> str:
        """Why it is not the product of an input with a float matrix."""
        node, weight = self.node, self.weight
        if not info(node).is_linear or node.domain:
            return f"{node.op} is no convolution or matrix product"
        if node.subgraph is not None:
            return "it is in the subgraph of an If, Loop or Scan"
        if weight is None:
            return "its weight is its first operand, or computed in the graph"
        if is_constant(self.graph, node.inputs[0]):
            return "its input is a constant"
        if not weight.is_float:
            return "its weight is not in floating point"
        if weight.size == 0 or (
            len(weight.shape) < 3 if is_convolution(node) else len(weight.shape) != 2
        ):
            return f"its weight has shape {list(weight.shape)}"
        return ""

    def no_refit(self) -> str:
        """Why its weight may not be replaced by another one."""
        if reason := self.no_product():
            return reason
        name = self.node.inputs[1]
        if len(self.graph.consumers[name]) > 1 or name in self.graph.outputs:
            return "its weight has other readers"
        if self.alpha == 0:
            return "its product is multiplied by 0"
        return (
            ""
            if is_finite(self.graph, name)
            else "its weight has infinite values or such that are no number"
        )

    def no_integers(self) -> str:
        """Why it cannot run in integers."""
        if reason := self.no_product():
            return reason
        weight = self.graph.weights[self.node.inputs[1]]
        if weight.tensor.data_type != onnx.TensorProto.FLOAT:
            return f"its weight is {weight.dtype}, not float32"
        if self.is_transposed:
            return "its input is transposed"
        if self.rest:
            return "its bias is not a constant vector"
        finite = all(
            is_finite(self.graph, name) for name in (weight.name, self.bias) if name
        )
        return (
            ""
            if finite
            else "its weight or bias has infinite values or such that are no number"
        )

    def no_parts(self) -> str:
        """Why it cannot be written as a chain of smaller layers."""
        if not info(self.node).is_linear or self.node.domain:
            return f"{self.node.op} is not decomposed"
        weight = self.weight
        if weight is not None and self.node.subgraph is None and groups(self.node) > 1:
            return (
                "depthwise convolution" if weight.shape[1] == 1 else "grouped convolution"
            )
        if (
            self.is_transposed and self.node.version < 11
        ):  # a Gemm without bias is not to be had
            return "its input is transposed"
        return self.no_refit()

    def no_bits(self) -> str:
        """Why its weight cannot be binary."""
        if reason := self.no_refit():
            return reason
        weight = self.graph.weights[self.node.inputs[1]]
        if weight.tensor.data_type != onnx.TensorProto.FLOAT:
            return f"its weights are of type {weight.dtype}"
        if groups(self.node) > 1:
            return "a grouped convolution"
        if self.is_transposed:
            return "its input is transposed"
        if self.alpha != 1.0 or self.beta not in (0.0, 1.0):
            return "a Gemm that scales its product or its bias"
        bias = self.graph.weights.get(self.bias)
        fits = not self.bias or (bias is not None and bias.size == self.outputs)
        return "" if fits else "its bias is not a constant with a value for each filter"


def is_vector(shape: Sequence[int], outputs: int) -> bool:
    """Tell whether an operand of that shape adds one value to each output, or one to all."""
    return all(size == 1 for size in shape[:-1]) and (
        not shape or shape[-1] in (1, outputs)
    )


def is_finite(graph: Graph, name: str) -> bool:
    """Tell whether all values of a weight are numbers."""
    key, weight = ("finite", name), graph.weights[name]
    if key not in graph.cache:
        graph.cache[key] = not weight.is_float or bool(np.isfinite(weight.read()).all())
    known: bool = graph.cache[key]
    return known


def is_linear(graph: Graph, node: Node) -> bool:
    """Whether a node multiplies one input with a float weight of its own that nothing else reads; not in a subgraph."""
    return not LinearLayer(graph, node).no_refit()


def output_axis(node: Node) -> int:
    """The axis of a layer's weight that makes its outputs."""
    return 0 if is_convolution(node) or node.attributes.get("transB") else 1


def groups(node: Node) -> int:
    """Groups of a convolution; 1 for all others."""
    return int(node.attributes.get("group", 1)) if is_convolution(node) else 1


def to_matrix(node: Node, weight: Array) -> Array:
    """A layer's weight as [groups, inputs, outputs]."""
    if is_convolution(node):
        return weight.reshape(groups(node), weight.shape[0] // groups(node), -1).swapaxes(
            1, 2
        )
    return (weight.T if node.attributes.get("transB") else weight)[None]


def from_matrix(node: Node, matrix: Array, shape: Sequence[int]) -> Array:
    """The inverse of `to_matrix`."""
    if is_convolution(node):
        return matrix.swapaxes(1, 2).reshape(shape)
    return (matrix[0].T if node.attributes.get("transB") else matrix[0]).reshape(shape)


def matrix_size(node: Node, shape: Sequence[int]) -> int:
    """Inputs of a layer's matrix (per group), from its weight's shape."""
    if is_convolution(node):
        return math.prod(shape[1:])
    return shape[1] if node.attributes.get("transB") else shape[0]


def batch_normalization(graph: Graph, node: Node) -> Node | None:
    """The BatchNormalization that is the only reader of a layer, if its mean is its own."""
    readers = graph.consumers.get(node.outputs[0], ())
    if len(readers) != 1 or node.outputs[0] in graph.outputs:
        return None
    reader = graph.nodes[readers[0][0]]
    if not is_batch_normalization(reader) or reader.attributes.get("training_mode", 0):
        return None
    mean = reader.inputs[3]
    known = all(graph.weight_behind(value) for value in reader.inputs[1:])
    return (
        reader
        if known and mean in graph.weights and len(graph.consumers[mean]) == 1
        else None
    )


def add_behind(graph: Graph, node: Node) -> tuple[Node, int] | None:
    """The Add that alone reads a matrix product and adds a constant to each output, with that constant's slot."""
    readers = graph.consumers.get(node.outputs[0], ())
    if (
        len(readers) != 1
        or node.outputs[0] in graph.outputs
        or not is_add(graph.nodes[readers[0][0]])
    ):
        return None
    add, slot = graph.nodes[readers[0][0]], 1 - readers[0][1]
    weight, main = graph.weights.get(add.input(slot)), graph.weights.get(node.input(1))
    # Before operator set 7 an attribute says which axes are meant.
    if weight is None or main is None or add.domain or "axis" in add.attributes:
        return None
    return (
        (add, slot) if weight.is_float and is_vector(weight.shape, main.shape[-1]) else None
    )


def bias_behind(graph: Graph, node: Node) -> str | None:
    """The weight that an Add, the only reader of a matrix product, adds to its outputs, if it is its own."""
    behind = add_behind(graph, node)
    name = behind[0].inputs[behind[1]] if behind is not None else ""
    return (
        name
        if name and len(graph.consumers[name]) == 1 and name not in graph.outputs
        else None
    )


def normalisation(graph: Graph, node: Node) -> tuple[Array, Array, Array]:
    """Factor, mean and shift [channels] of a BatchNormalization: y = (x - mean) * factor + shift."""
    scale, shift, mean, variance = (
        graph.weights[str(graph.weight_behind(value))].read().astype(np.float64)
        for value in node.inputs[1:]
    )
    return scale / np.sqrt(variance + node.attributes.get("epsilon", 1e-5)), mean, shift


def scaled_matrix(graph: Graph, node: Node, dtype: type = np.float64) -> Array:
    """A layer's matrix [groups, inputs, outputs], in the scale of what comes after its BatchNormalization."""
    values, alpha = graph.weights[node.inputs[1]].read(), LinearLayer(graph, node).alpha
    matrix = to_matrix(node, values.astype(dtype, copy=False))
    if alpha != 1:
        matrix = matrix * dtype(alpha)
    normal = batch_normalization(graph, node)
    if normal is None:
        return matrix
    factor: Array = normalisation(graph, normal)[0].astype(dtype)
    return matrix * factor.reshape(groups(node), 1, -1)

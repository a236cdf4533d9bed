"""What scales and shifts a layer's outputs, folded into the layer: the same function with one node less.

`W' = W f`, `b' = b f + s`: for a BatchNormalization `f = scale / sqrt(variance + epsilon)` and `s = shift - mean f`; a
Mul or Add with a constant for each channel has `f` or `s` alone. Exact but for rounding.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np

from prunegraph.graph import linear
from prunegraph.graph.model import Graph, Node
from prunegraph.operators import (
    info,
    is_add,
    is_batch_normalization,
    is_gemm,
    is_multiply,
    is_transposed_convolution,
)
from prunegraph.rewriting.rewriter import Rewriter

Array = np.ndarray

#: Factor and shift of each output.
Affine = tuple[Array, Array]


def fold(graph: Graph, keep: Collection[str] = ()) -> Graph:
    """The graph without BatchNormalization, Mul and Add of constants that are the only readers of a layer.

    Weights that others read too stay as they are for those. What stands behind anything else stays, and so do
    nodes whose first output is in `keep`.
    """
    while (folded := _fold(graph, keep)) is not graph:
        graph = folded
    return graph


def _fold(graph: Graph, keep: Collection[str]) -> Graph:
    """One node folded into each layer that has one behind it; the graph itself where none has."""
    rewriter = Rewriter(graph)
    for layer, after, affine in _pairs(graph, keep):
        pieces = [
            (slot, _cast(graph, layer, values))
            for slot, values in _folded(graph, layer, affine)
        ]
        if not all(np.isfinite(values).all() for _, values in pieces):
            continue  # a factor takes half precision beyond its range
        for slot, values in pieces:
            place(rewriter, layer, slot, values)
        proto = rewriter.edit(layer)
        for attribute in [each for each in proto.attribute if each.name == "beta"]:
            proto.attribute.remove(attribute)
        proto.output[0] = after.outputs[0]
        rewriter.replace(after, [])
    return graph if rewriter.is_idle else rewriter.finish()


def _pairs(graph: Graph, keep: Collection[str]) -> Iterator[tuple[Node, Node, Affine]]:
    """Layers with something affine as their only reader."""
    for node in graph.nodes:
        if not takes_affine(graph, node):
            continue
        readers = graph.consumers.get(node.outputs[0], ())
        if len(readers) != 1 or node.outputs[0] in graph.outputs:
            continue
        reader = graph.nodes[readers[0][0]]
        if reader.outputs[0] in keep:
            continue
        affine = _affine(graph, node, reader, readers[0][1])
        if affine is not None:
            yield node, reader, affine


def takes_affine(graph: Graph, node: Node) -> bool:
    """Tell whether a node is a layer that can take a factor and a shift of its outputs into its weights."""
    weight = graph.weights.get(node.input(1))
    if (
        not info(node).folds
        or node.domain
        or node.subgraph is not None
        or weight is None
        or not weight.is_float
    ):
        return False
    if is_transposed_convolution(node) and node.attributes.get("group", 1) != 1:
        return False
    # A bias that is a matrix differs from sample to sample; a Gemm without one may not be had.
    return not linear.LinearLayer(graph, node).rest and not (
        is_gemm(node) and node.version < 7
    )


def _affine(graph: Graph, layer: Node, node: Node, slot: int) -> Affine | None:
    """Factor and shift [channels] with which a node changes a layer's outputs; None where it does anything else."""
    if slot == 0 and _is_foldable(graph, node):
        factor, mean, shift = linear.normalisation(graph, node)
        return factor, shift - mean * factor
    if (
        not (is_add(node) or is_multiply(node))
        or node.domain
        or node.subgraph is not None
        or node.version < 7
    ):
        return None
    constant, weight = (
        graph.weights.get(node.inputs[1 - slot]),
        graph.weights[layer.inputs[1]],
    )
    if constant is None or not constant.is_float:
        return None
    rank, channels = len(weight.shape), weight.shape[linear.output_axis(layer)]
    shape = (1,) * (rank - len(constant.shape)) + constant.shape
    if len(shape) != rank or any(size != 1 for axis, size in enumerate(shape) if axis != 1):
        return None
    if shape[1] not in (1, channels):
        return None
    values = np.broadcast_to(constant.read().astype(np.float64).reshape(-1), (channels,))
    return (
        (values, np.zeros(channels)) if is_multiply(node) else (np.ones(channels), values)
    )


def _is_foldable(graph: Graph, node: Node) -> bool:
    if (
        not is_batch_normalization(node)
        or node.subgraph is not None
        or node.attributes.get("training_mode", 0)
    ):
        return False
    # Before operator set 7 its outputs depend on `is_test`; further outputs are of training.
    if node.version < 7 or any(node.outputs[1:]) or node.attributes.get("spatial", 1) != 1:
        return False
    return all(graph.weight_behind(value) in graph.weights for value in node.inputs[1:])


def _folded(graph: Graph, layer: Node, affine: Affine) -> Iterator[tuple[int, Array]]:
    """New weight and bias of a layer, by input slot; the factor of the bias is in it."""
    factor, shift = affine
    weight = graph.weights[layer.inputs[1]].read().astype(np.float64)
    axis = linear.output_axis(layer)
    yield (
        1,
        weight * factor.reshape([-1 if each == axis else 1 for each in range(weight.ndim)]),
    )
    yield 2, linear.LinearLayer(graph, layer).vector() * factor + shift


def _cast(graph: Graph, layer: Node, values: Array) -> Array:
    """Values in the type of a layer's weight."""
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(values.astype(graph.weights[layer.inputs[1]].dtype))


def place(rewriter: Rewriter, layer: Node, slot: int, values: Array) -> None:
    """Set a layer's weight: under its old name where the layer is its only reader, else under a new one."""
    graph = rewriter.graph
    old = graph.weights.get(layer.input(slot))
    role = "weight" if slot == 1 else "bias"
    alone = (
        old is not None
        and len(graph.consumers[old.name]) == 1
        and old.name not in graph.outputs
    )
    if alone and old is not None and old.holder is None and old.shape == values.shape:
        rewriter.set_weight(old.name, values)
    else:
        rewriter.set_input(
            layer, slot, rewriter.add_initializer(f"{layer.name}/{role}", values, old)
        )

"""Scales of a normalisation's outputs, folded into the layers that read them: the same function with one node less.

`(x s) W = x (s W)`: a Mul with a constant for each channel goes where nothing but layers reads it. Exact but for
rounding.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from prunegraph.graph.linear import LinearLayer, output_axis
from prunegraph.graph.model import Graph, Node
from prunegraph.graph.shapes import shape_info
from prunegraph.operators import info, is_convolution, is_multiply
from prunegraph.rewriting.fold import place
from prunegraph.rewriting.rewriter import Rewriter

Array = np.ndarray


def fold_scales(graph: Graph, keep: Collection[str] = ()) -> Graph:
    """The graph without scales of channels that only layers read.

    A weight that others read too stays as it is for those. Nodes whose first output is in `keep` stay.
    """
    rewriter = Rewriter(graph)
    for node in graph.nodes:
        scaled = _scaled(graph, node)
        if scaled is None or node.outputs[0] in keep:
            continue
        value, scale = scaled
        readers = _readers(graph, node, len(scale))
        weights = [(layer, _weight(graph, layer, scale)) for layer in readers]
        if not readers or not all(np.isfinite(each).all() for _, each in weights):
            continue  # a scale takes half precision beyond its range
        for layer, each in weights:
            place(rewriter, layer, 1, each)
        for index, slot in graph.consumers[node.outputs[0]]:
            rewriter.set_input(graph.nodes[index], slot, value)
        rewriter.replace(node, [])
    return graph if rewriter.is_idle else rewriter.finish()


def _scaled(graph: Graph, node: Node) -> tuple[str, Array] | None:
    """What a Mul scales, and the scale [channels] along its last axis; None where it does anything else."""
    if (
        not is_multiply(node)
        or node.domain
        or node.subgraph is not None
        or node.version < 7
    ):
        return None
    for slot, name in enumerate(node.inputs):
        scale, value = graph.weights.get(name), node.inputs[1 - slot]
        shape = shape_info(graph).shapes.get(value)
        if scale is None or not scale.is_float or value in graph.weights or not shape:
            continue
        if (scale.size,) == scale.shape[-1:] == shape[-1:] and len(scale.shape) <= len(
            shape
        ):
            return value, scale.read().astype(np.float64).reshape(-1)
    return None


def _readers(graph: Graph, node: Node, channels: int) -> list[Node]:
    """The layers that contract a node's last axis; none where anything but these and its shape is read."""
    output, result = node.outputs[0], []
    if output in graph.outputs:
        return []
    for index, slot in graph.consumers.get(output, ()):
        reader = graph.nodes[index]
        if output in reader.captured or reader.subgraph is not None:
            return []
        if slot in info(reader).unread and not reader.domain:
            continue
        layer = LinearLayer(graph, reader)
        if slot != 0 or layer.no_product() or layer.is_transposed or is_convolution(reader):
            return []
        shape = graph.weights[reader.inputs[1]].shape
        if len(shape) != 2 or shape[1 - output_axis(reader)] != channels:
            return []
        result.append(reader)
    return result


def _weight(graph: Graph, layer: Node, scale: Array) -> Array:
    """A layer's weight, its inputs scaled, in its own type."""
    weight = graph.weights[layer.inputs[1]]
    turned = scale if output_axis(layer) == 0 else scale[:, None]
    with np.errstate(over="ignore"):
        return np.ascontiguousarray((weight.read() * turned).astype(weight.dtype))

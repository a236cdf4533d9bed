"""Parameters that a graph computes from constants, as constants: exporters write biases as an Expand of a number."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import helper, numpy_helper

from prunegraph.graph.constants import computed_constants, data_inputs
from prunegraph.graph.model import Graph, Node
from prunegraph.graph.shapes import shape_info
from prunegraph.operators import info, is_batch_normalization, is_constant
from prunegraph.rewriting.rewriter import Rewriter
from prunegraph.runtime.piece import run_piece


def settle(graph: Graph) -> Graph:
    """The graph with constants for what layers and BatchNormalization nodes read besides their data."""
    constant = computed_constants(graph)
    wanted = {
        value: None
        for node in graph.nodes
        if (info(node).is_linear or is_batch_normalization(node)) and node.subgraph is None
        for value in node.inputs[1:]
        if value in constant and _is_single(graph, value)
    }
    if not wanted:
        return graph
    protos = [_plain(graph, node) for node in _above(graph, set(wanted))]
    values = run_piece(graph, protos, {}, list(wanted))
    rewriter = Rewriter(graph)
    for name, array in values.items():
        rewriter.replace(graph.nodes[graph.producer[name]], [])
        rewriter.add_tensor(numpy_helper.from_array(np.ascontiguousarray(array), name))
    return rewriter.finish()


def _plain(graph: Graph, node: Node) -> onnx.NodeProto:
    """The node, a CastLike as the Cast that it is."""
    if data_inputs(graph, node) == node.inputs:
        return node.proto
    output = node.outputs[0]
    return conversion(node.inputs[0], output, shape_info(graph).types[output])


def conversion(value: str, output: str, kind: int, name: str = "") -> onnx.NodeProto:
    """A node that makes `output` of a value, in another type of ONNX."""
    return helper.make_node("Cast", [value], [output], name=name, to=kind)


def _is_single(graph: Graph, value: str) -> bool:
    """Tell whether a value is the only one its node makes, and no output of the graph."""
    node = graph.nodes[graph.producer[value]]
    return len([v for v in node.outputs if v]) == 1 and value not in graph.outputs


def _above(graph: Graph, values: set[str]) -> Iterator[Node]:
    """The nodes that values are computed by, in order."""
    needed = set(values)
    for node in reversed(graph.nodes):
        if needed & set(node.outputs) and not is_constant(node):
            needed.update(data_inputs(graph, node))
    return (
        node for node in graph.nodes if needed & set(node.outputs) and not is_constant(node)
    )

"""Rectifiers whose outputs stay real-valued, with two shifts and a slope for each channel: y = PReLU(x - a) - b.

They stand where a shortcut or a layer in full precision reads a rectifier: before a quantizer, shifts and slopes would
be part of its thresholds, which the normalisation there has already. At first they are plain rectifiers, all weights
being 0.
Source: Liu, Shen, Savvides, Cheng 2020 (ReActNet, RPReLU).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator

import numpy as np
import onnx
from onnx import helper

from prunegraph.graph.bounds import bounds
from prunegraph.graph.model import Graph, Node
from prunegraph.graph.shapes import shape_info
from prunegraph.rewriting.rewriter import Rewriter

#: The operators before and behind the bend, and that of it.
SHIFT, BEND = "Sub", "PRelu"


def real_rectifiers(
    graph: Graph, layers: Collection[int], quantized: Collection[int]
) -> list[Node]:
    """Plain rectifiers behind layers that become binary, but those that become quantizers; all by index."""
    touched: set[str] = set()
    result = []
    shapes = shape_info(graph).shapes
    for node in graph.nodes:
        if node.index in layers or touched.intersection(node.inputs):
            touched.update(node.outputs)
            channels = shapes.get(node.inputs[0], ())[1:2]
            known = len(channels) == 1 and isinstance(channels[0], int)
            plain = bounds(graph, node) == (0, math.inf)
            if plain and known and node.index not in quantized:
                result.append(node)
    return result


def shifted(rewriter: Rewriter, node: Node) -> list[onnx.NodeProto]:
    """Nodes that take a rectifier's place; their weights are 0."""
    shape = shape_info(rewriter.graph).shapes[node.inputs[0]]
    zeros = np.zeros((shape[1], *[1] * (len(shape) - 2)), np.float32)
    shift, slope, drop = (
        rewriter.add_initializer(f"{node.name}/{role}", zeros)
        for role in ("shift", "slope", "drop")
    )
    names = rewriter.names
    moved, bent = names.new(f"{node.name}/shifted"), names.new(f"{node.name}/bent")
    return [
        helper.make_node(SHIFT, [node.inputs[0], shift], [moved], name=moved),
        helper.make_node(BEND, [moved, slope], [bent], name=bent),
        helper.make_node(SHIFT, [bent, drop], [node.outputs[0]], name=node.name),
    ]


def weights_of_shifted(graph: Graph) -> Iterator[str]:
    """Names of shifts and slopes of all such rectifiers of a graph."""
    for node in graph.nodes:
        before = graph.producer.get(node.inputs[0]) if node.op == BEND else None
        readers = graph.consumers.get(node.outputs[0], ()) if node.outputs else ()
        if before is None or len(readers) != 1:
            continue
        first, last = graph.nodes[before], graph.nodes[readers[0][0]]
        names = [first.input(1), node.input(1), last.input(1)]
        alike = first.op == SHIFT == last.op
        if alike and all(name in graph.weights for name in names):
            yield from names

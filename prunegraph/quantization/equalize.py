"""Cross-layer equalization: channels between two layers scaled so that both weights have the same range there.

For conv - ReLU - conv with ranges r1 of the first's output channels and r2 of the second's inputs:
s = sqrt(r1 r2) / r2, W1 <- W1 / s, b1 <- b1 / s, W2 <- W2 s. The function stays the same; it matters where a weight or
an activation has one scale for several channels. Source: ALGORITHMS 6.4; Nagel et al. 2019.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from prunegraph.graph import linear
from prunegraph.graph.model import Graph, Node
from prunegraph.operators import is_convolution, is_matmul
from prunegraph.rewriting.reweight import Revision

Array = np.ndarray

#: Sweeps over all pairs at most, and the largest change of a scale at which they end.
SWEEPS = 20
STABLE = 1e-3

#: A channel's scale is at most this factor off, up or down.
MOST = 1e3


@dataclass(frozen=True)
class _Pair:
    """Two layers with nothing but a ReLU between them."""

    first: Node
    second: Node


def equalize(graph: Graph) -> Graph:
    """The same function with equalized weights; `graph` is not touched. Its BatchNormalization should be folded."""
    pairs = [
        _Pair(node, after)
        for node in graph.layers
        if (after := _after(graph, node)) is not None
    ]
    revision = Revision(graph)
    for _ in range(SWEEPS):
        if max((_step(revision, pair) for pair in pairs), default=0.0) < STABLE:
            break
    return revision.apply()


def _after(graph: Graph, node: Node) -> Node | None:
    """The layer that alone reads a layer's output, maybe through a ReLU."""
    if not _is_plain(graph, node):
        return None
    value, reader = node.outputs[0], _only_reader(graph, node.outputs[0])
    if reader is not None and reader.op == "Relu":
        value, reader = reader.outputs[0], _only_reader(graph, reader.outputs[0])
    fits = reader is not None and _is_plain(graph, reader) and reader.inputs[0] == value
    return (
        reader
        if fits and reader is not None and is_convolution(reader) == is_convolution(node)
        else None
    )


def _is_plain(graph: Graph, node: Node) -> bool:
    layer = linear.LinearLayer(graph, node)
    if is_matmul(node) or layer.no_refit() or layer.is_transposed or layer.rest:
        return False
    return not layer.bias or len(graph.consumers[layer.bias]) == 1


def _only_reader(graph: Graph, value: str) -> Node | None:
    readers = graph.consumers.get(value, ())
    return (
        graph.nodes[readers[0][0]]
        if len(readers) == 1 and value not in graph.outputs
        else None
    )


def _step(revision: Revision, pair: _Pair) -> float:
    """Equalize a pair; the largest change of a scale, as a share of it."""
    one, two = revision.matrix(pair.first), revision.matrix(pair.second)
    channels = one.shape[0] * one.shape[2]
    inputs = np.abs(two).max(axis=2).reshape(channels, -1).max(axis=1)
    outputs = np.abs(one).max(axis=1).reshape(-1)
    usable = (inputs > 0) & (outputs > 0)
    scale = np.ones(channels)
    scale[usable] = np.clip(np.sqrt(outputs[usable] / inputs[usable]), 1 / MOST, MOST)
    revision.set_matrix(pair.first, one / scale.reshape(one.shape[0], 1, -1))
    if linear.LinearLayer(revision.graph, pair.first).bias:
        revision.set_intercept(pair.first, revision.intercept(pair.first) / scale)
    rows = np.repeat(scale, two.shape[0] * two.shape[1] // channels).reshape(two.shape[:2])
    revision.set_matrix(pair.second, two * rows[:, :, None])
    return float(np.abs(scale - 1).max())

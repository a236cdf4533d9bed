"""What a cut means for the values of a graph."""

from __future__ import annotations

import numpy as np

from prunegraph.coupling.survivors import Survivors
from prunegraph.graph.model import Graph, Node
from prunegraph.operators import is_convolution

Array = np.ndarray


def changed(survivors: Survivors, pruned: Graph) -> set[str]:
    """Values of the smaller graph that are not what they were: cut, new (in decomposed layers), or made from these."""
    known = survivors.coupling.graph.producer
    result = {
        name
        for name in survivors.coupling.labels
        if any(kept is not None for kept in survivors.value(name))
    }
    result.update(branch.output for branch in survivors.branches)
    for node in pruned.nodes:
        is_new = any(value and value not in known for value in node.outputs)
        if is_new or any(value in result for value in (*node.inputs, *node.captured)):
            result.update(node.outputs)
    return result


def original_of(survivors: Survivors, node: Node) -> Node | None:
    """The node of the original that makes the same values; None for one that the cut has put in."""
    graph = survivors.coupling.graph
    index = graph.producer.get(node.outputs[0])
    return (
        graph.nodes[index]
        if index is not None and graph.nodes[index].op == node.op
        else None
    )


def channel_axis(node: Node, shape: tuple[int, ...]) -> int:
    """The axis of a linear layer's input or output that its weight contracts or makes."""
    return 1 if is_convolution(node) else len(shape) - 1


def taken(values: Array, kept: list[Array | None]) -> Array:
    """A value with only the indices that stay."""
    for axis, indices in enumerate(kept):
        if indices is not None and values.shape[axis] > 1:
            values = np.take(values, indices, axis)
    return values

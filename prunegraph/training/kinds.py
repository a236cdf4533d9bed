"""What the outputs of a network are: what a student has to learn of each.

Scores of classes are learnt as a distribution over the axis of the classes, which is the axis on which the filters of
the last layers lie. All else (boxes, maps, embeddings, a mixture of several things on one axis) is learnt as values:
wherever it is in doubt, since equal values are right for scores too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from prunegraph.graph.model import FLOAT_TYPES, Graph, Node
from prunegraph.graph.shape_info import ShapeInfo
from prunegraph.graph.shapes import shape_info
from prunegraph.operators import (
    info,
    is_cast,
    is_concat,
    is_dropout,
    is_identity,
    is_reshape,
    is_resize,
    is_transpose,
    passes,
)

Kind = Literal["scores", "values", "left out"]

#: A map of scores is at least so large, relative to the input; what is coarser is taken for the map of a detector.
COARSEST = 4


@dataclass(frozen=True)
class Output:
    """An output: its kind, the number of its axes, the axis of the classes, whether it holds probabilities."""

    name: str
    kind: Kind
    rank: int = 0
    axis: int = 0
    probabilities: bool = False

    def of_kind(self, kind: Kind) -> Output:
        """The same output, taken for another kind; classes are then on the usual axis."""
        if kind == "scores" and self.kind != "scores":
            return replace(self, kind=kind, axis=2 if self.rank == 3 else 1)
        return replace(self, kind=kind)

    def class_axis(self, rank: int) -> int:
        """The axis of the classes in a tensor, which may have one axis more, for feeds, in front."""
        return self.axis + max(rank - self.rank, 0)


def outputs_of_graph(graph: Graph) -> tuple[Output, ...]:
    """Say what every output is, in the graph's order.

    The first one may hold scores of classes, as in all of the project's metrics; another one does if it ends in a
    Softmax, or has the shape of a first one that does (auxiliary heads).
    """
    known = shape_info(graph)
    outputs: list[Output] = []
    for name in graph.outputs:
        like = (
            known.shapes.get(graph.outputs[0])
            if outputs and outputs[0].kind == "scores"
            else None
        )
        outputs.append(
            _output(graph, known, name, not outputs or known.shapes.get(name) == like)
        )
    return tuple(outputs)


def _output(graph: Graph, known: ShapeInfo, name: str, plausible: bool) -> Output:
    shape = known.shapes.get(name)
    if known.types.get(name, 1) not in FLOAT_TYPES:
        return Output(name, "left out")
    if shape is None:
        return Output(name, "values")
    node = _maker(graph, name)
    if node is not None and node.op in ("Softmax", "LogSoftmax") and not node.domain:
        axis = int(node.attributes.get("axis", -1 if node.version >= 13 else 1)) % max(
            len(shape), 1
        )
        return Output(name, "scores", len(shape), axis, node.op == "Softmax")
    place = (
        _filters(graph, known, name) if plausible and name not in graph.consumers else None
    )
    if place is None or shape[place] < 2 or not _is_fine(graph, known, shape, place):
        return Output(name, "values", len(shape))
    return Output(name, "scores", len(shape), place)


def _maker(graph: Graph, value: str) -> Node | None:
    """The node that makes a value; names that only pass it on are followed."""
    while value in graph.producer:
        node = graph.nodes[graph.producer[value]]
        if not (is_identity(node) or is_dropout(node) or is_cast(node)):
            return node
        value = node.inputs[0]
    return None


def _is_fine(graph: Graph, known: ShapeInfo, shape: Sequence[int], axis: int) -> bool:
    """Tell whether scores are for samples, for positions, or for pixels of a map that is not too coarse."""
    spatial = shape[axis + 1 :]
    if math.prod(spatial) == 1:
        return True
    sizes = next(
        (
            known.shapes[name]
            for name in graph.inputs
            if len(known.shapes[name]) == len(shape)
        ),
        None,
    )
    return sizes is None or all(
        COARSEST * a >= b for a, b in zip(spatial, sizes[axis + 1 :], strict=True)
    )


def _filters(graph: Graph, known: ShapeInfo, value: str) -> int | None:
    """The axis of a value on which filters of the layer that made it lie, whole; None where that is not known."""
    if value not in graph.producer or value not in known.shapes:
        return None
    node = graph.nodes[graph.producer[value]]
    operator = info(node)
    if (
        operator.channel_axis is not None
        and not operator.is_integer
        and node.channels.weights
    ):
        return operator.channel_axis % len(known.shapes[value])
    sources = _data(graph, node, len(known.shapes[value]))
    axes = {source: _filters(graph, known, source) for source in sources}
    places = {
        _moved(node, axis, known.shapes[source], known.shapes[value])
        if axis is not None
        else None
        for source, axis in axes.items()
    }
    return places.pop() if len(places) == 1 else None


def _data(graph: Graph, node: Node, rank: int) -> list[str]:
    """Inputs that hold the data, or none: one that is computed, all that are joined, or heads that are averaged."""
    if is_reshape(node) or is_resize(node):
        return [node.inputs[0]]
    computed = [
        value
        for value in node.inputs
        if value in graph.producer and value not in graph.weights
    ]
    several = is_concat(node) or (node.op in ("Add", "Sub") and rank == 2)
    return computed if len(computed) == 1 or several else []


def _moved(
    node: Node, axis: int, before: Sequence[int], after: Sequence[int]
) -> int | None:
    """Where an axis of a node's input is in its output."""
    if passes(node, "scores"):
        return axis + len(after) - len(before)
    if (
        passes(node, "channels")
        and axis <= 1
        and (len(after) == len(before) or len(after) > axis)
    ):
        return axis if after[axis] == before[axis] else None
    if is_transpose(node):
        order = list(node.attributes.get("perm", range(len(before))[::-1]))
        return order.index(axis)
    if is_concat(node):
        return axis if int(node.attributes["axis"]) % len(after) != axis else None
    if info(node).moves == "all":
        ahead = math.prod(before[:axis])
        places = (
            k
            for k, size in enumerate(after)
            if size == before[axis] and math.prod(after[:k]) == ahead
        )
        return next(places, None)
    return None

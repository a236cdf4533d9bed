"""Residual branches: what stands between a value and the Add that brings it back, and may go as a whole.

An Add sums a stream and a branch: one operand, and what is made from it. Without the branch the sum is the stream. A
branch is found where

* one operand is, or is the sum of, something that the other one is made from (a layer on the shortcut, as where a
  stage of a ResNet halves the image, makes neither operand from the other);
* stream, branch and sum have one shape, and float values;
* the nodes that only the branch needs have a layer among them. Nothing else reads what these make; they may read more
  than the stream, as attention reads a mask.

So attention, perceptrons and whole blocks of transformers are found (normalised before or behind the sum), blocks of
residual networks with or without an activation behind the sum, and inverted residuals with what scales them inside.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field

from prunegraph.graph.model import FLOAT_TYPES, Graph, Node
from prunegraph.graph.shape_info import ShapeInfo
from prunegraph.operators import is_add, is_constant, passes

#: What the id of a branch begins with, where channels and branches are chosen together.
PREFIX = "branch:"

#: An input: the index of its node, and its number.
Reader = tuple[int, int]


@dataclass(frozen=True)
class Branch:
    """A residual branch.

    Args:
        name: of the Add that ends it.
        add: index of that node.
        slot: the operand of the Add that is the branch.
        stream: the other operand.
        output: the sum.
        nodes: indices of the nodes that only the branch needs, without the Add.
        layers: names of the layers among them, in topological order.
    """

    name: str
    add: int
    slot: int
    stream: str
    output: str
    nodes: frozenset[int] = field(repr=False)
    layers: tuple[str, ...]

    @property
    def id(self) -> str:
        """What the branch is called among groups of channels."""
        return PREFIX + self.name

    def holds(self, other: Branch) -> bool:
        """Tell whether another branch is inside this one."""
        return other.add in self.nodes


def find_branches(graph: Graph, shape_info: ShapeInfo) -> tuple[Branch, ...]:
    """All residual branches of the main graph, in topological order."""
    ancestry = _Ancestry(graph)
    branches: list[Branch] = []
    for node in graph.nodes:
        if is_add(node) and node.subgraph is None and not shape_info.is_dead(node):
            branches += _branches_at(graph, shape_info, node, ancestry)
    return tuple(branches)


def needed_only_by(graph: Graph, readers: Collection[Reader]) -> frozenset[int]:
    """Indices of the nodes whose results nothing needs but these readers, nodes by index with the input's number."""
    gone: set[int] = set()
    queue = _makers(graph, {graph.nodes[node].inputs[slot] for node, slot in readers})
    heapq.heapify(queue)
    seen = set(queue)
    while queue:
        candidate = graph.nodes[-heapq.heappop(queue)]
        if not all(
            _reads_are_within(graph, value, gone, readers)
            for value in candidate.outputs
            if value
        ):
            continue
        gone.add(candidate.index)
        for maker in _makers(graph, (*candidate.inputs, *candidate.captured)):
            if maker not in seen:
                seen.add(maker)
                heapq.heappush(queue, maker)
    return frozenset(gone)


def _makers(graph: Graph, values: Iterable[str]) -> list[int]:
    """Negated indices of the nodes that make values: the last comes first in a heap."""
    return [-graph.producer[value] for value in values if value in graph.producer]


def _reads_are_within(
    graph: Graph, value: str, nodes: set[int], readers: Collection[Reader]
) -> bool:
    """Tell whether a value is read by these nodes and readers alone."""
    return value not in graph.outputs and all(
        read in readers or read[0] in nodes for read in graph.consumers.get(value, ())
    )


def _branches_at(
    graph: Graph, shape_info: ShapeInfo, add: Node, ancestry: _Ancestry
) -> Iterator[Branch]:
    """The branches that end in an Add: one, or none."""
    shapes, types = shape_info.shapes, shape_info.types
    first, second = add.inputs
    output = add.outputs[0]
    if (
        first == second
        or not shapes.get(output)
        or not shapes.get(first) == shapes.get(second) == shapes[output]
        or types.get(output) not in FLOAT_TYPES
    ):
        return
    for slot, stream in ((1, first), (0, second)):
        branch = add.inputs[slot]
        if branch not in graph.producer or graph.weight_behind(stream) is not None:
            continue
        if not any(ancestry.leads(v, branch) for v in _summands(graph, stream)):
            continue
        nodes = needed_only_by(graph, {(add.index, slot)})
        layers = tuple(layer.name for layer in graph.layers if layer.index in nodes)
        if layers:
            yield Branch(add.name, add.index, slot, stream, output, nodes, layers)


def _summands(graph: Graph, value: str) -> Iterator[str]:
    """A value and, where it is a sum, what it is the sum of; through operators that only carry it."""
    queue, seen = [value], {value}
    while queue:
        value = queue.pop()
        yield value
        node = graph.nodes[graph.producer[value]] if value in graph.producer else None
        if node is None or is_constant(node):
            continue
        if is_add(node):
            parts = node.inputs
        elif passes(node, "weights") or passes(node, "codes"):
            parts = node.inputs[:1]
        else:
            parts = ()
        for part in parts:
            if part and part not in seen and part not in graph.weights:
                seen.add(part)
                queue.append(part)


class _Ancestry:
    """What every value is made from: for each node the set of the nodes and inputs above it, as bits of a number."""

    def __init__(self, graph: Graph):
        self._graph = graph
        count = len(graph.nodes)
        self._inputs = {name: count + i for i, name in enumerate(graph.inputs)}
        self._above: list[int] = []
        for node in graph.nodes:
            bits = 1 << node.index
            for value in (*node.inputs, *node.captured):
                bits |= self._bits(value)
            self._above.append(bits)

    def _bits(self, value: str) -> int:
        if value in self._graph.producer:
            return self._above[self._graph.producer[value]]
        return 1 << self._inputs[value] if value in self._inputs else 0

    def leads(self, value: str, other: str) -> bool:
        """Tell whether one value is made from another."""
        if value in self._graph.producer:
            return bool(self._bits(other) >> self._graph.producer[value] & 1)
        return value in self._inputs and bool(self._bits(other) >> self._inputs[value] & 1)

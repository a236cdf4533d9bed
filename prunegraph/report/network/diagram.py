"""What is drawn of a graph: layers, the nodes that join values of several of them, inputs and outputs.

All else (activations, normalisations, reshapes) passes values on, and is part of the edges.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from prunegraph.graph import control
from prunegraph.graph.model import Graph, Node
from prunegraph.operators import info, measures

Role = Literal["layer", "join", "input", "output"]


@dataclass(frozen=True)
class Vertex:
    """A layer, a join, or an input or output of the graph; `name` is that of the node or the value."""

    name: str
    role: Role
    op: str = ""


@dataclass(frozen=True)
class Diagram:
    """Vertices in topological order, and edges between their indices."""

    vertices: tuple[Vertex, ...]
    edges: tuple[tuple[int, int], ...]


def diagram(graph: Graph) -> Diagram:
    """What is drawn of a graph."""
    builder = _Builder(graph)
    for node in graph.nodes:
        builder.add(node)
    for output in graph.outputs:
        builder.finish(output)
    return _needed(builder.vertices, builder.edges)


class _Builder:
    """Vertices and edges, node by node; `sources` are the vertices whose values are in a value."""

    def __init__(self, graph: Graph):
        self.vertices: list[Vertex] = []
        self.edges: list[tuple[int, int]] = []
        self._layers = {node.index for node in graph.layers}
        self._sources: dict[str, frozenset[int]] = {}
        for name in graph.inputs:
            self._sources[name] = frozenset({self._vertex(Vertex(name, "input"), ())})

    def add(self, node: Node) -> None:
        """A node: a vertex, or nothing but a way for values."""
        if node.domain == control.DOMAIN:
            self._pass_on(node)
            return
        sources = self._read(_data(node))
        if node.index in self._layers:
            own = Vertex(node.name, "layer", node.op)
        elif len(sources) > 1:
            own = Vertex(node.name, "join", node.op)
        else:
            self._give(node, sources)
            return
        self._give(node, frozenset({self._vertex(own, sources)}))

    def finish(self, output: str) -> None:
        """An output of the graph."""
        self._vertex(Vertex(output, "output"), self._sources.get(output, frozenset()))

    def _pass_on(self, node: Node) -> None:
        """Values in and out of a subgraph, one by one where as many go in as come out."""
        if len(node.inputs) == len(node.outputs):
            for value, result in zip(node.inputs, node.outputs, strict=True):
                self._sources[result] = self._sources.get(value, frozenset())
        else:
            self._give(node, self._read((*node.inputs, *node.captured)))

    def _read(self, values: Iterable[str]) -> frozenset[int]:
        return frozenset().union(*(self._sources.get(v, ()) for v in values))

    def _give(self, node: Node, sources: frozenset[int]) -> None:
        self._sources.update(dict.fromkeys(filter(None, node.outputs), sources))

    def _vertex(self, vertex: Vertex, sources: Iterable[int]) -> int:
        index = len(self.vertices)
        self.vertices.append(vertex)
        self.edges += [(source, index) for source in sorted(sources)]
        return index


def _data(node: Node) -> Iterator[str]:
    """Values that a node reads as data; sizes and places are none, and what is measured has none in it."""
    if measures(node):
        return
    # The inputs of a node with subgraphs are what these hand back.
    numbers = info(node).numbers if not node.subgraphs else ()
    yield from (v for slot, v in enumerate(node.inputs) if v and slot not in numbers)
    yield from node.captured


def _needed(vertices: list[Vertex], edges: list[tuple[int, int]]) -> Diagram:
    """Leave joins out that no layer and no output has anything of, and inputs that nothing reads."""
    readers: dict[int, list[int]] = {}
    for source, target in edges:
        readers.setdefault(source, []).append(target)
    kept: set[int] = set()
    for index in reversed(range(len(vertices))):
        if vertices[index].role in ("layer", "output") or any(
            reader in kept for reader in readers.get(index, ())
        ):
            kept.add(index)
    number = {old: new for new, old in enumerate(sorted(kept))}
    return Diagram(
        tuple(vertices[index] for index in sorted(kept)),
        tuple((number[a], number[b]) for a, b in edges if a in kept and b in kept),
    )

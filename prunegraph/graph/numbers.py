"""Which values are read as numbers: sizes, scales, bounds, positions.

Whether a few floats are shape arithmetic or data is a matter of who reads them, not of how many
they are: four scales of a Resize are, sixteen biases of a layer are not.
"""

from __future__ import annotations

from prunegraph.graph.evaluate import is_arithmetic
from prunegraph.graph.model import Graph, Node
from prunegraph.operators import info

#: Domains whose operators are known; what an operator of another one does with its inputs, nobody here can say.
KNOWN_DOMAINS = frozenset({"", "com.microsoft"})


def read_as_numbers(graph: Graph) -> frozenset[str]:
    """Values that some operator reads as numbers, and those that they are computed from (cached on the graph)."""
    if "numbers" not in graph.cache:
        graph.cache["numbers"] = frozenset(_find(graph))
    result: frozenset[str] = graph.cache["numbers"]
    return result


def _find(graph: Graph) -> set[str]:
    queue = [value for node in graph.nodes for value in _operands(node)]
    result: set[str] = set()
    while queue:
        value = queue.pop()
        if not value or value in result:
            continue
        result.add(value)
        if value in graph.producer:
            queue += _sources(graph.nodes[graph.producer[value]], value)
    return result


def _operands(node: Node) -> tuple[str, ...]:
    """Values that a node reads as numbers."""
    if node.domain == "":
        return tuple(node.input(slot) for slot in info(node).numbers)
    return (
        ()
        if node.domain in KNOWN_DOMAINS or node.subgraphs or node.enter >= 0
        else node.inputs
    )


def _sources(node: Node, value: str) -> tuple[str, ...]:
    """Say what a value is computed from, if by arithmetic or handed on by a branch."""
    if node.op == "If" and node.subgraphs:
        slot = node.outputs.index(value)
        return tuple(subgraph.outputs[slot] for subgraph in node.subgraphs)
    return node.inputs if is_arithmetic(node) else ()

"""Values that a graph computes from constants alone: the same whatever the inputs are."""

from __future__ import annotations

from prunegraph.graph.model import Graph, Node
from prunegraph.graph.shapes import shape_info
from prunegraph.operators import info


def computed_constants(graph: Graph) -> frozenset[str]:
    """Values that nodes of the main graph make from constants alone; weights are not among them."""
    known: frozenset[str] | None = graph.cache.get("computed constants")
    if known is None:
        known = graph.cache["computed constants"] = frozenset(_computed(graph))
    return known


def is_constant(graph: Graph, value: str) -> bool:
    """Tell whether a value is a weight, or computed from weights alone."""
    return (
        value in graph.weights
        or value in graph.sparse
        or value in computed_constants(graph)
    )


def data_inputs(graph: Graph, node: Node) -> tuple[str, ...]:
    """Say what a node's value depends on: of the second input of a CastLike only its type matters."""
    known = 1 in info(node).unread and node.outputs[0] in shape_info(graph).types
    return node.inputs[:1] if known else node.inputs


def _computed(graph: Graph) -> set[str]:
    values: set[str] = set()
    for node in graph.nodes:
        plain = (
            node.subgraph is None
            and not node.captured
            and not node.subgraphs
            and not info(node).is_random
        )
        if not plain or not node.inputs:
            continue
        if all(
            not v or v in graph.weights or v in values for v in data_inputs(graph, node)
        ):
            values.update(v for v in node.outputs if v)
    return values

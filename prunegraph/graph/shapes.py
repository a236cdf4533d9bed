"""Inference of a graph's values at the smallest sizes that fit.

Symbolic sizes are made concrete (batch 1, other axes a common image size), so that every
later stage works on plain numbers. Declared shapes of inner values and outputs are
ignored: files in the wild declare wrong ones.
"""

from __future__ import annotations

from prunegraph.graph.control import Subgraph
from prunegraph.graph.flow import is_control
from prunegraph.graph.inference import shape_info_at
from prunegraph.graph.model import Graph, Node
from prunegraph.graph.shape_info import ShapeInfo
from prunegraph.graph.sizes import candidate_sizes
from prunegraph.graph.varying import dead_branches


def shape_info(graph: Graph) -> ShapeInfo:
    """Infer all values at the smallest sizes that fit (cached on the graph)."""
    if "shape info" not in graph.cache:
        best = _best(graph, frozenset())
        # What a dead branch does not blur may show that another one is dead.
        while graph.subgraphs and (dead := dead_branches(best)) != best.dead:
            best = _best(graph, dead)
        graph.cache["shape info"] = best
    result: ShapeInfo = graph.cache["shape info"]
    return result


def _best(graph: Graph, dead: frozenset[Subgraph]) -> ShapeInfo:
    """Infer at the first sizes at which all shapes are known, else at those that tell most."""
    best: ShapeInfo | None = None
    for sizes in candidate_sizes(graph):
        info = shape_info_at(graph, sizes, dead=dead)
        if best is None or len(info.shapes) > len(best.shapes):
            best = info
        unknown = [
            v for v in graph.producer.keys() - info.shapes.keys() if graph.is_read(v)
        ]
        if all(
            _is_left_open(graph.nodes[graph.producer[output]], info) for output in unknown
        ):
            break
    assert best is not None
    return best


def _is_left_open(node: Node, info: ShapeInfo) -> bool:
    """Tell whether other sizes would not tell more about a node."""
    return node.op == "If" or is_control(node) or info.is_dead(node)

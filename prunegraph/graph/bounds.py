"""What an activation lets through."""

from __future__ import annotations

import math

from prunegraph.graph.model import Graph, Node
from prunegraph.graph.shapes import shape_info
from prunegraph.operators import info


def bounds(graph: Graph, node: Node) -> tuple[float, float] | None:
    """The least and the most that a Relu or Clip lets through; None for other nodes, or bounds that are computed."""
    fixed = info(node).bounds
    if node.domain or not (fixed or node.op == "Clip"):
        return None
    if fixed:
        return fixed
    if node.version < 11:
        return float(node.attributes.get("min", -math.inf)), float(
            node.attributes.get("max", math.inf)
        )
    limits = [-math.inf, math.inf]
    for slot in (1, 2):
        if node.input(slot):
            constant = shape_info(graph).constant(node.input(slot))
            if constant is None or constant.size != 1:
                return None
            limits[slot - 1] = float(constant.reshape(()))
    return limits[0], limits[1]

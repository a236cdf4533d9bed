"""Scales of BatchNormalization.

The score of a channel is |gamma|, each vector divided by its own mean and averaged over the
group's BatchNormalization nodes. A group without any is kept whole. Source: Liu et al. 2017
(network slimming), source 000.
"""

from __future__ import annotations

import numpy as np

from prunegraph.coupling.groups import Group, Member
from prunegraph.errors import BudgetError
from prunegraph.graph.model import Graph
from prunegraph.selection.criteria.base import Array, Context, criterion


def is_scale(graph: Graph, weight: str) -> bool:
    """Whether a weight is the scale of a BatchNormalization, maybe behind an Identity."""
    for node, slot in graph.consumers.get(weight, ()):
        reader = graph.nodes[node]
        if reader.op == "BatchNormalization" and slot == 1:
            return True
        if reader.op == "Identity" and is_scale(graph, reader.outputs[0]):
            return True
    return False


def scales(group: Group, graph: Graph) -> list[Member]:
    """Members that are scales of BatchNormalization nodes."""
    return [m for m in group.members if m.role == "param" and is_scale(graph, m.weight)]


@criterion("bn_scale")
def bn_scale(group: Group, context: Context) -> Array:
    """Absolute scale of the group's BatchNormalization nodes, relative to each one's mean."""
    if not any(node.op == "BatchNormalization" for node in context.graph.nodes):
        raise BudgetError(
            f"algorithm 'bn_scale' needs BatchNormalization nodes and {context.graph.source} has none; use 'l2'"
        )
    members = scales(group, context.graph)
    if not members:
        return np.full(group.channels, np.inf)
    total = np.zeros(group.channels)
    for member in members:
        values = np.abs(member.values().astype(np.float64)).mean(axis=1)
        total += values / (values.mean() or 1.0)
    return total / len(members)

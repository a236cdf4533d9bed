"""Weights times activations.

The score of a channel is `sum over readers, sum over weights, |w| * ||x||`, with x the channel as a reader gets it
(its root mean square over all samples and positions) and w the reader's weights for it, in the
scale behind its BatchNormalization. A group that no layer reads is scored by `l2`. Source: Sun et al. 2024.
"""

from __future__ import annotations

import numpy as np

from prunegraph.coupling.groups import Group, Member
from prunegraph.coupling.places import ChannelAxis
from prunegraph.graph import linear
from prunegraph.graph.model import Graph
from prunegraph.runtime.statistics import ChannelMoments
from prunegraph.selection.criteria.base import Array, Context, criterion
from prunegraph.selection.criteria.magnitude import l2
from prunegraph.selection.criteria.members import by_channel
from prunegraph.selection.criteria.parts import parts
from prunegraph.selection.criteria.values import moments


@criterion("wanda")
def wanda(group: Group, context: Context) -> Array:
    """Absolute weights that read a channel, times the norm of what they read (needs data)."""
    result = {
        place.value: (place, seen) for place, seen in moments(group, context, "wanda")
    }
    scores = [
        _weights(member, index, context.graph) * _norm(*result[value])
        for member in group.members
        for index in (member.use.layers if member.role == "in" else ())
        for value in context.graph.nodes[index].inputs
        if value in result
    ]
    return np.sum(scores, axis=0) if scores else l2(group, context)


def _norm(place: ChannelAxis, seen: ChannelMoments) -> Array:
    return np.sqrt(place.by_channel(seen.energy))


def _weights(member: Member, index: int, graph: Graph) -> Array:
    """Sum of absolute weights by channel."""
    node = graph.nodes[index]
    if not linear.is_linear(graph, node) or node.input(1) != member.weight:
        return np.abs(by_channel(member)).sum(axis=1)
    matrices = np.abs(linear.scaled_matrix(graph, node))
    result = np.zeros(member.channels)
    for i, channels, rows in parts(node, member, graph, len(matrices)):
        result[channels] += matrices[i].sum(axis=1)[rows].sum(axis=1)
    return result

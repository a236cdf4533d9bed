"""Which members of a group a criterion counts."""

from __future__ import annotations

from typing import Literal

import numpy as np

from prunegraph.coupling.groups import Group, Member
from prunegraph.graph import linear
from prunegraph.graph.model import Graph

Array = np.ndarray

#: Weights of layers that make the channels, of layers that consume them, or of both.
Members = Literal["all", "producer", "consumer"]

ROLES = {"all": ("in", "out"), "producer": ("out",), "consumer": ("in",)}


def counted(group: Group, which: Members = "all") -> list[Member]:
    """Layers' weights among a group's members: biases and normalisation parameters do not count.

    A group without such a member (channels that nothing contracts) counts layers on the other side,
    and without any layer whatever there is.
    """
    layers = [
        m
        for m in group.members
        if m.role in ("in", "out") and len(m.graph.weights[m.weight].shape) > 1
    ]
    return [m for m in layers if m.role in ROLES[which]] or layers or list(group.members)


def by_channel(member: Member) -> Array:
    """A member's values by channel [channels, elements], in at least single precision."""
    values = member.values()
    return values if values.dtype == np.float64 else values.astype(np.float32, copy=False)


def folded(member: Member, graph: Graph) -> Array:
    """A producing layer's values by channel [channels, elements], in the scale behind its BatchNormalization.

    Weights in front of a BatchNormalization have a scale without meaning. Where the layer has none
    that is its own, the values are as they are.
    """
    values = by_channel(member).astype(np.float64)
    nodes = [graph.nodes[index] for index in member.use.layers]
    normal = (
        linear.batch_normalization(graph, nodes[0])
        if member.role == "out" and len(nodes) == 1
        else None
    )
    if normal is None:
        return values
    factor = linear.normalisation(graph, normal)[0]
    size = graph.weights[member.weight].shape[member.axis]
    # A grouped transposed convolution has one index for a channel of every group.
    factor = np.sqrt(np.square(factor).reshape(-1, size).mean(axis=0))
    parts = (
        values.reshape(member.channels, member.per_channel, -1)
        * factor[member.positions][:, :, None]
    )
    return parts.reshape(member.channels, -1)

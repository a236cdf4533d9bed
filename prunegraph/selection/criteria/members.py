"""Which members of a group a criterion counts."""

from __future__ import annotations

from typing import Literal

import numpy as np

from prunegraph.coupling.groups import Group, Member
from prunegraph.errors import DataError
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


def whole_slices(group: Group, which: Members = "all") -> list[Member]:
    """Counted members whose channels are whole slices of the weight: all that gradients are known of.

    Raises:
        DataError: there are none, since each block of every weight has channels of its own.
    """
    result = [m for m in counted(group, which) if m.over is None]
    if not result:
        raise DataError(
            f"gradients say nothing of group {group.id!r}, whose blocks have channels of their own in every weight "
            "that counts: choose the same channels in all blocks (--blocks alike)"
        )
    return result


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
    if member.over is not None:
        # Each group of a transposed convolution has channels of its own.
        block = (
            member.rows[:, :1]
            * (len(factor) // size)
            // graph.weights[member.weight].shape[member.over]
        )
        return values * factor[block * size + member.positions]
    # A grouped transposed convolution has one index for a channel of every group.
    factor = np.sqrt(np.square(factor).reshape(-1, size).mean(axis=0))
    parts = (
        values.reshape(member.channels, member.per_channel, -1)
        * factor[member.positions][:, :, None]
    )
    return parts.reshape(member.channels, -1)

"""Values of a group's channels on data: what criteria that look at activations have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from prunegraph.coupling.groups import Group
from prunegraph.coupling.places import ChannelAxis, makers, readers
from prunegraph.graph.model import FLOAT_TYPES
from prunegraph.runtime.statistics import Accumulator, ChannelMoments
from prunegraph.selection.criteria.base import Array, Context

A = TypeVar("A", bound=Accumulator)


def is_float(place: ChannelAxis, context: Context) -> bool:
    """Tell whether a value holds floating-point numbers."""
    return context.coupling.shape_info.types.get(place.value) in FLOAT_TYPES


def read(group: Group, context: Context) -> list[ChannelAxis]:
    """Where the layers that consume a group read it: behind normalisation and activation.

    A group that no layer reads (queries and keys, which meet each other) is looked at where it is made.
    """
    result = readers(context.coupling)[group.id] or makers(context.coupling)[group.id]
    return [place for place in result if is_float(place, context)]


def moments(
    group: Group, context: Context, who: str
) -> list[tuple[ChannelAxis, ChannelMoments]]:
    """Moments along the axes on which the group is read; one pass gathers those of all groups."""
    statistics = context.need_statistics(who)
    every = [place for other in context.coupling.groups for place in read(other, context)]
    statistics.moments([(place.value, place.axis) for place in every])
    mine = read(group, context)
    return list(
        zip(mine, statistics.moments([(p.value, p.axis) for p in mine]), strict=True)
    )


def gathered(
    group: Group, context: Context, who: str, make: Callable[[ChannelAxis], A]
) -> Sequence[A]:
    """Say what accumulators saw of the group where it is read; one pass feeds those of all groups."""
    statistics = context.need_statistics(who)
    every = [place for other in context.coupling.groups for place in read(other, context)]
    # Places depend on what is pruned in attention.
    name = f"{who} {context.coupling.attention or ''}".strip()
    fed = statistics.collected(name, lambda: [make(place) for place in every])
    return [one for one, place in zip(fed, every, strict=True) if place.group is group]


def maps(x: Array, place: ChannelAxis) -> Array:
    """A value as [samples, channels, per_channel, everything else], in double precision.

    Samples are those of axis 0; where channels lie there, the batch is one sample.
    """
    x = x.astype(np.float64)
    if place.axis == 0:
        x = x[None]
    x = np.moveaxis(x, max(place.axis, 1), 1)
    return x.reshape(*x.shape[:2], -1)[:, place.positions]

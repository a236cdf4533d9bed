"""Places of a group's channels: axes of values, and positions on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from prunegraph.coupling.coupling import Coupling
from prunegraph.coupling.groups import Group
from prunegraph.labels.labels import Listed, Span, Uniform

Array = np.ndarray


@dataclass(frozen=True)
class ChannelAxis:
    """An axis of a value that a group's channels lie on."""

    value: str
    axis: int
    group: Group = field(repr=False)
    root: Span | Listed = field(repr=False)

    @cached_property
    def positions(self) -> Array:
        """Row c holds the indices on the axis that belong to channel c [channels, per_channel]."""
        if isinstance(self.root, Span):
            return np.arange(self.group.channels)[:, None]
        assert self.group.numbers is not None
        sorting = np.argsort(self.group.numbers)
        values = np.searchsorted(self.group.numbers, self.root.ids, sorter=sorting)
        channel = sorting[np.minimum(values, len(sorting) - 1)]
        mine = np.flatnonzero(self.group.numbers[channel] == self.root.ids)
        return mine[np.argsort(channel[mine], kind="stable")].reshape(
            self.group.channels, -1
        )

    def by_channel(self, values: Array) -> Array:
        """Numbers of every index of the axis, averaged over each channel's positions [channels]."""
        return np.asarray(values)[self.positions].mean(axis=1)


def places(coupling: Coupling) -> dict[str, list[ChannelAxis]]:
    """All places of every group by its id, in the order in which the graph makes the values."""
    return _cached(coupling, "places", _find)


def makers(coupling: Coupling) -> dict[str, list[ChannelAxis]]:
    """Of every group, the outputs of the layers that make its channels: before normalisation and activation."""
    return _cached(coupling, "makers", lambda result: _of_layers(result, "out"))


def readers(coupling: Coupling) -> dict[str, list[ChannelAxis]]:
    """Of every group, the inputs of the layers that consume its channels: behind normalisation and activation."""
    return _cached(coupling, "readers", lambda result: _of_layers(result, "in"))


def _cached(
    coupling: Coupling, what: str, make: Callable[[Coupling], dict[str, list[ChannelAxis]]]
) -> dict[str, list[ChannelAxis]]:
    key = (what, coupling.attention, coupling.blocks, coupling.dropped)
    if key not in coupling.graph.cache:
        coupling.graph.cache[key] = make(coupling)
    result: dict[str, list[ChannelAxis]] = coupling.graph.cache[key]
    return result


def _of_layers(coupling: Coupling, role: str) -> dict[str, list[ChannelAxis]]:
    result = {}
    for group in coupling.groups:
        nodes = {
            n for member in group.members if member.role == role for n in member.use.layers
        }
        layers = [coupling.graph.nodes[n] for n in nodes]
        values = {
            value
            for layer in layers
            for value in (layer.outputs if role == "out" else layer.inputs)
        }
        result[group.id] = [
            place for place in places(coupling)[group.id] if place.value in values
        ]
    return result


def _find(coupling: Coupling) -> dict[str, list[ChannelAxis]]:
    result: dict[str, list[ChannelAxis]] = {group.id: [] for group in coupling.groups}
    runs = {group.first: group for group in coupling.groups if group.numbers is None}
    group_of = np.full(coupling.channels.count, -1)
    for index, group in enumerate(coupling.groups):
        if group.numbers is not None:
            group_of[group.numbers] = index
    known: dict[tuple[int, int], list[Group]] = {}
    for value, axes in coupling.labels.items():
        if value not in coupling.graph.producer:
            continue  # an element of a sequence
        for axis, labels in enumerate(axes):
            root = coupling.channels.root(labels)
            if isinstance(root, Uniform) or labels.size < 2:
                continue
            if root.key not in known:
                if isinstance(root, Span):
                    known[root.key] = [runs[root.first]] if root.first in runs else []
                else:
                    here = np.unique(group_of[root.ids])
                    known[root.key] = [coupling.groups[index] for index in here[here >= 0]]
            for group in known[root.key]:
                result[group.id].append(ChannelAxis(value, axis, group, root))
    return result

"""Groups: channels with the same members, the units an algorithm chooses from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from prunegraph.coupling.uses import Use
from prunegraph.graph.model import Graph
from prunegraph.labels.labels import Reason
from prunegraph.ops.cost import node_macs

if TYPE_CHECKING:
    from prunegraph.coupling.analysis import Coupling

Array = np.ndarray

#: Why nothing of a layer is offered that no value pins.
ONE_CHANNEL = "its channels live or die together, and one has to stay"


@dataclass(frozen=True)
class Member:
    """An axis of a weight that a group's channels run along.

    `positions` is an integer array [channels, per_channel]: row c holds the indices on the
    axis that go when channel c goes. `role` is "out" where a layer makes the channels, "in"
    where it consumes them, "param" for scales, biases and the like.
    """

    weight: str
    axis: int
    role: str
    layer: str | None
    use: Use = field(repr=False)
    first: int | None = field(repr=False)
    table: Array | None = field(repr=False)
    channels: int = field(repr=False)
    graph: Graph = field(repr=False)

    @cached_property
    def positions(self) -> Array:
        if self.table is not None:
            return self.table
        assert self.first is not None
        return np.arange(self.first, self.first + self.channels)[:, None]

    @property
    def per_channel(self) -> int:
        """Indices of the axis that belong to one channel."""
        return 1 if self.table is None else int(self.table.shape[1])

    @property
    def main_layers(self) -> list[int]:
        """Nodes that contract with this weight; those of which it is the bias are none."""
        graph = self.graph
        return [
            node
            for node in self.use.layers
            if graph.main_weight(graph.nodes[node]) == self.weight
        ]

    def to_json(self) -> dict[str, Any]:
        """The member as JSON; `first` stands for positions [[first], [first + 1], ...]."""
        column = self.positions[:, 0]
        run = self.per_channel == 1 and bool((np.diff(column) == 1).all())
        where = {"first": int(column[0])} if run else {"positions": self.positions.tolist()}
        return {
            "weight": self.weight,
            "axis": self.axis,
            "role": self.role,
            "per_channel": self.per_channel,
            **where,
        }

    def values(self) -> Array:
        """The weight's values by channel: [channels, elements of one channel]."""
        data = np.moveaxis(self.graph.weights[self.weight].read(), self.axis, 0)
        if self.table is None and self.first == 0 and self.channels == data.shape[0]:
            return np.ascontiguousarray(data).reshape(self.channels, -1)
        return data[self.positions].reshape(self.channels, -1)


@dataclass(frozen=True)
class Group:
    """Channels that an algorithm may remove one by one.

    `channels` counts them; `layers` are the layers that make them. `params` and `macs` are
    what all of the group's channels together hold and cost at full width. `exact` is False
    where a normalisation's statistics change with the width.
    """

    id: str
    channels: int
    layers: tuple[str, ...]
    members: tuple[Member, ...] = field(repr=False)
    params: int
    macs: int
    exact: bool
    numbers: Array | None = field(repr=False)
    first: int = field(repr=False)

    def channel_numbers(self, indices: Sequence[int] | Array) -> Array:
        """Numbers of channels among all channels of the coupling."""
        index = np.asarray(indices, np.int64)
        return index + self.first if self.numbers is None else self.numbers[index]

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "channels": self.channels,
            "layers": list(self.layers),
            "members": [member.to_json() for member in self.members],
            "macs": self.macs,
            "params": self.params,
            "exact": self.exact,
        }


@dataclass(frozen=True)
class Fixed:
    """A layer with output channels that cannot be pruned: how many, why, and the node that causes it."""

    layer: str
    reason: str
    because: str
    channels: int
    of: int

    def to_json(self) -> dict[str, Any]:
        return {
            "layer": self.layer,
            "reason": self.reason,
            "because": self.because,
            "channels": self.channels,
            "of": self.of,
        }


@dataclass
class _Axis:
    """An axis of a weight use, with the channel number of every index."""

    use: Use
    axis: int
    run: int | None
    numbers: Array | None

    @property
    def size(self) -> int:
        return self.use.labels[self.axis].size


def find_groups(coupling: Coupling) -> tuple[Group, ...]:
    """All groups, in the order in which the graph makes their channels."""
    axes = list(_axes(coupling))
    groups = [*_run_groups(coupling, axes), *_component_groups(coupling, axes)]
    # One channel has to stay: where there is only one, there is nothing to choose from.
    groups = [(rank, parts) for rank, parts in groups if parts.channels > 1]
    groups.sort(key=lambda item: item[0])
    inexact = _inexact_channels(coupling)
    layers = {node for use in coupling.uses for node in use.layers}
    macs = {
        node: node_macs(coupling.graph.nodes[node], coupling.shape_info.shapes)
        for node in layers
    }
    return tuple(
        _make(coupling, f"g{i}", parts, inexact, macs)
        for i, (_, parts) in enumerate(groups)
    )


@dataclass
class _Parts:
    """What a group is made of before it has a name."""

    channels: int
    first: int
    numbers: Array | None
    members: list[tuple[_Axis, int | None, Array | None]]


Ranked = tuple[tuple[int, int], _Parts]


def _axes(coupling: Coupling) -> Iterator[_Axis]:
    for use in coupling.uses:
        for axis, labels in enumerate(use.labels):
            if labels.size > 1 and not coupling.channels.all_pinned(labels):
                root = coupling.channels.root(labels)
                yield _Axis(use, axis, root.first if root.ids is None else None, root.ids)


def _rank(use: Use, axis: int) -> int:
    """Position of a use in the graph; makers come before all others."""
    if not use.layers:
        return max(use.node, 0) + 2_000_000
    return min(use.layers) + (0 if use.roles.get(axis) == "out" else 1_000_000)


def _run_groups(coupling: Coupling, axes: list[_Axis]) -> Iterator[Ranked]:
    """Groups whose channels are one untouched block of labels."""
    runs: dict[int, list[_Axis]] = {}
    for axis in axes:
        if axis.run is not None:
            runs.setdefault(axis.run, []).append(axis)
    for first, members in runs.items():
        rank = min(_rank(a.use, a.axis) for a in members)
        yield (
            (rank, 0),
            _Parts(members[0].size, first, None, [(a, 0, None) for a in members]),
        )


def _component_groups(coupling: Coupling, axes: list[_Axis]) -> Iterator[Ranked]:
    """Groups among expanded channels: those with the same number of indices on the same axes."""
    expanded = [(axis, axis.numbers) for axis in axes if axis.numbers is not None]
    count = coupling.channels.count
    if not expanded or not count:
        return
    signature, order, ranks = _signatures(coupling, expanded)
    free = np.flatnonzero((signature != 0) & ~coupling.channels.pinned_components)
    _, groups = np.unique(signature[free], return_inverse=True)
    sorting = np.lexsort((order[free], groups))
    free, groups = free[sorting], groups[sorting]
    starts = np.searchsorted(groups, np.arange(groups[-1] + 1 if len(groups) else 0))
    place_of = np.full(count, -1)
    place_of[free] = np.arange(len(free))
    sizes = np.bincount(groups)
    members: list[list[tuple[_Axis, int | None, Array | None]]] = [[] for _ in sizes]
    for axis, numbers in expanded:
        place = place_of[numbers]
        sorting = np.argsort(place, kind="stable")[np.count_nonzero(place < 0) :]
        group = groups[place[sorting]]
        bounds = [0, *(np.flatnonzero(group[1:] != group[:-1]) + 1).tolist(), len(group)]
        for first, last in pairwise(bounds if len(group) else ()):
            which = group[first]
            members[which].append(
                (axis, None, sorting[first:last].reshape(sizes[which], -1))
            )
    for which, numbers in enumerate(np.split(free, starts[1:])):
        if len(numbers):
            rank = int(ranks[numbers[0]]), int(order[numbers[0]])
            yield rank, _Parts(len(numbers), 0, numbers, members[which])


def _signatures(
    coupling: Coupling, axes: list[tuple[_Axis, Array]]
) -> tuple[Array, Array, Array]:
    """For every channel: a number that is equal for equal members, its place, and its maker's rank."""
    parts = _value_axes(coupling)
    random = np.random.default_rng(0).integers(1, 2**63, len(axes) + len(parts), np.uint64)
    count = coupling.channels.count
    signature = np.zeros(count, np.uint64)
    order, ranks = np.full(count, np.iinfo(np.int64).max), np.zeros(count, np.int64)
    rank = np.asarray([_rank(axis.use, axis.axis) for axis, _ in axes])
    # What is written last stays: the first place on the axis of the first maker.
    sorting = np.argsort(-rank, kind="stable")
    numbers = [axes[i][1][::-1] for i in sorting]
    lengths = [len(each) for each in numbers]
    every = np.concatenate(numbers)
    np.add.at(signature, every, np.repeat(random[sorting], lengths))
    order[every] = np.concatenate([np.arange(length)[::-1] for length in lengths])
    ranks[every] = np.repeat(rank[sorting], lengths)
    has_member = signature != 0
    repeats = np.asarray([repeat for _, repeat in parts], np.uint64)
    for (part, _), number in zip(parts, random[len(axes) :] * repeats, strict=True):
        np.add.at(signature, part, number)
    signature[~has_member] = 0
    return signature, order, ranks


def _value_axes(coupling: Coupling) -> list[tuple[Array, int]]:
    """Channel numbers of all axes of values that are expanded, each once, with how often each repeats.

    Channels on different values are never in one group: a group keeps a channel, so no
    value, however small a part of an axis it was sliced from, can become empty.
    """
    result = {}
    for axis in {
        id(axis): axis for labels in coupling.labels.values() for axis in labels
    }.values():
        if axis.size > 1 and not coupling.channels.all_pinned(axis):
            root = coupling.channels.compact(axis)
            if root.ids is not None:
                result[root.key] = root.ids, root.repeat
    return list(result.values())


def _make(
    coupling: Coupling, name: str, parts: _Parts, inexact: set[int], macs: Mapping[int, int]
) -> Group:
    """A group from its parts, the channels that are `inexact`, and the `macs` of layers by node."""
    graph = coupling.graph
    members = []
    for axis, first, table in parts.members:
        layer = graph.nodes[axis.use.layers[0]].name if axis.use.layers else None
        role = axis.use.roles.get(axis.axis, "param")
        members.append(
            Member(
                axis.use.weight,
                axis.axis,
                role,
                layer,
                axis.use,
                first,
                table,
                parts.channels,
                graph,
            )
        )
    makers = dict.fromkeys(
        graph.nodes[node].name for m in members if m.role == "out" for node in m.use.layers
    )
    return Group(
        id=name,
        channels=parts.channels,
        layers=tuple(makers),
        members=tuple(members),
        params=_params(members),
        macs=_macs(members, macs),
        exact=inexact.isdisjoint(
            [parts.first] if parts.numbers is None else parts.numbers.tolist()
        ),
        numbers=parts.numbers,
        first=parts.first,
    )


def _params(members: list[Member]) -> int:
    total = 0
    for member in members:
        weight = member.graph.weights[member.weight]
        total += (
            weight.size // weight.shape[member.axis] * member.channels * member.per_channel
        )
    return total


def _macs(members: list[Member], macs: Mapping[int, int]) -> int:
    """Cost of all that reads or makes the channels: each layer's share along each axis of its main weight."""
    total = 0
    for member in members:
        share = (
            member.channels
            * member.per_channel
            / member.graph.weights[member.weight].shape[member.axis]
        )
        total += round(sum(macs[node] for node in member.main_layers) * share)
    return total


def _inexact_channels(coupling: Coupling) -> set[int]:
    """Channels over which a mean or a normalisation is taken."""
    result: set[int] = set()
    for reduction in coupling.reductions:
        if reduction.kind == "sum":
            continue
        labels = coupling.labels_at(reduction)
        for axis in reduction.axes:
            if not coupling.channels.all_pinned(labels[axis]):
                root = coupling.channels.compact(labels[axis])
                result.update([root.first] if root.ids is None else root.ids.tolist())
    return result


def find_fixed(coupling: Coupling) -> tuple[Fixed, ...]:
    """Layers with output channels that are pinned, or that all are one channel."""
    result: dict[str, Fixed] = {}
    offered: dict[tuple[int, int], int] = {}
    for member in (member for group in coupling.groups for member in group.members):
        key = id(member.use), member.axis
        offered[key] = offered.get(key, 0) + member.channels * member.per_channel
    for use in coupling.uses:
        for axis, role in use.roles.items():
            if role != "out":
                continue
            labels = use.labels[axis]
            mask = coupling.channels.pinned(labels)
            pinned = (
                int(np.count_nonzero(mask))
                if isinstance(mask, np.ndarray)
                else labels.size * mask
            )
            single = labels.size - pinned - offered.get((id(use), axis), 0)
            if not pinned and (not single or labels.size == 1):
                continue
            for node in use.layers:
                layer = coupling.graph.nodes[node].name
                reason = (
                    coupling.channels.reason(labels)
                    if pinned
                    else Reason(ONE_CHANNEL, layer)
                )
                count = pinned + single if labels.size > 1 else pinned
                result.setdefault(
                    layer, Fixed(layer, reason.text, reason.because, count, labels.size)
                )
    return tuple(
        sorted(result.values(), key=lambda fixed: coupling.graph.node(fixed.layer).index)
    )

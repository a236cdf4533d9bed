"""Find groups (channels with the same members) and fixed layers in a labelled graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from prunegraph.coupling.coupling import Labelling
from prunegraph.coupling.groups import Fixed, Group, Member
from prunegraph.coupling.uses import Use
from prunegraph.labels.labels import Listed, Span
from prunegraph.labels.reasons import Kind, Reason
from prunegraph.ops.cost import node_macs

Array = np.ndarray

#: Why nothing of a layer is offered that no value pins.
ONE_CHANNEL = "its channels live or die together, and one has to stay"


@dataclass
class _UsedAxis:
    """An axis of a weight use, with the channel number of every index.

    With `over`, an axis on which each block of that axis has its own: numbers are of [`over`, axis], flat.
    """

    use: Use
    axis: int
    run: int | None
    numbers: Array | None
    over: int | None = None

    @property
    def size(self) -> int:
        return self.use.labels[self.axis].size


def find_groups(labelling: Labelling) -> tuple[Group, ...]:
    """All groups, in the order in which the graph makes their channels."""
    axes = list(_axes(labelling))
    groups = [*_run_groups(labelling, axes), *_component_groups(labelling, axes)]
    # One channel has to stay: where there is only one, there is nothing to choose from.
    groups = [(rank, parts) for rank, parts in groups if parts.channels > 1]
    groups.sort(key=lambda item: item[0])
    inexact = _inexact_channels(labelling)
    layers = {node for use in labelling.uses for node in use.layers}
    macs = {
        node: node_macs(labelling.graph.nodes[node], labelling.shape_info.shapes)
        for node in layers
    }
    return tuple(
        _make(labelling, f"g{i}", parts, inexact, macs)
        for i, (_, parts) in enumerate(groups)
    )


@dataclass
class _Parts:
    """The parts of a group before it has a name."""

    channels: int
    first: int
    numbers: Array | None
    members: list[tuple[_UsedAxis, int | None, Array | None]]


Ranked = tuple[tuple[int, int], _Parts]


def _axes(labelling: Labelling) -> Iterator[_UsedAxis]:
    for use in labelling.uses:
        for axis, labels in enumerate(use.labels):
            if labels.size < 2:
                continue
            own = labelling.own_channels(use.labels, axis)
            if own is not None:
                yield _UsedAxis(use, axis, None, own.numbers.reshape(-1), own.over)
            elif not labelling.channels.all_pinned(labels):
                root = labelling.channels.root(labels)
                if isinstance(root, Listed):
                    yield _UsedAxis(use, axis, None, root.ids)
                    yield from _covering(labelling, use, axis, root.ids)
                elif isinstance(root, Span):
                    yield _UsedAxis(use, axis, root.first, None)


def _covering(
    labelling: Labelling, use: Use, axis: int, numbers: Array
) -> Iterator[_UsedAxis]:
    """The same axis with the channels that take its own with them: whole blocks."""
    for covering in _covers(labelling, numbers):
        yield _UsedAxis(use, axis, None, covering)


def _covers(labelling: Labelling, numbers: Array) -> Iterator[Array]:
    """Channels that take some others with them, one for each of these; `count` where none does."""
    count = labelling.channels.count
    for whole, elements in labelling.channels.covers:
        cover = np.full(count + 1, count)
        cover[elements] = whole[:, None]
        covering = cover[np.minimum(numbers, count)]
        if (covering < count).any():
            yield covering


def _rank(use: Use, axis: int) -> int:
    """Position of a use in the graph; makers come before all others."""
    if not use.layers:
        return max(use.node, 0) + 2_000_000
    return min(use.layers) + (0 if use.roles.get(axis) == "out" else 1_000_000)


def _run_groups(labelling: Labelling, axes: list[_UsedAxis]) -> Iterator[Ranked]:
    """Groups whose channels are one untouched block of labels."""
    runs: dict[int, list[_UsedAxis]] = {}
    for axis in axes:
        if axis.run is not None:
            runs.setdefault(axis.run, []).append(axis)
    for first, members in runs.items():
        rank = min(_rank(a.use, a.axis) for a in members)
        yield (
            (rank, 0),
            _Parts(members[0].size, first, None, [(a, 0, None) for a in members]),
        )


def _component_groups(labelling: Labelling, axes: list[_UsedAxis]) -> Iterator[Ranked]:
    """Groups among expanded channels: those with the same number of indices on the same axes."""
    expanded = [(axis, axis.numbers) for axis in axes if axis.numbers is not None]
    count = labelling.channels.count
    if not expanded or not count:
        return
    signature, order, ranks = _signatures(labelling, expanded)
    free = np.flatnonzero((signature[:count] != 0) & ~labelling.channels.pinned_components)
    _, groups = np.unique(signature[free], return_inverse=True)
    sorting = np.lexsort((order[free], groups))
    free, groups = free[sorting], groups[sorting]
    starts = np.searchsorted(groups, np.arange(groups[-1] + 1 if len(groups) else 0))
    place_of = np.full(count + 1, -1)
    place_of[free] = np.arange(len(free))
    sizes = np.bincount(groups)
    members: list[list[tuple[_UsedAxis, int | None, Array | None]]] = [[] for _ in sizes]
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
    labelling: Labelling, axes: list[tuple[_UsedAxis, Array]]
) -> tuple[Array, Array, Array]:
    """For every channel: a number that is equal for equal members, its place, and its maker's rank."""
    parts = _value_axes(labelling)
    random = np.random.default_rng(0).integers(1, 2**63, len(axes) + len(parts), np.uint64)
    count = labelling.channels.count
    signature = np.zeros(count + 1, np.uint64)
    order = np.full(count + 1, np.iinfo(np.int64).max)
    ranks = np.zeros(count + 1, np.int64)
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


def _value_axes(labelling: Labelling) -> list[tuple[Array, int]]:
    """Channel numbers of all axes of values that are expanded, each once, with how often each repeats.

    Channels on different values are never in one group: a group keeps a channel, so no
    value, however small a part of an axis it was sliced from, can become empty.
    """
    result = {}
    for axis in {
        id(axis): axis for labels in labelling.labels.values() for axis in labels
    }.values():
        if axis.size > 1 and not labelling.channels.all_pinned(axis):
            root = labelling.channels.compact(axis)
            if isinstance(root, Listed):
                result[root.key] = root.ids, root.repeat
    covers = [
        (covering, repeat)
        for numbers, repeat in result.values()
        for covering in _covers(labelling, numbers)
    ]
    return [*result.values(), *covers]


def _make(
    labelling: Labelling,
    name: str,
    parts: _Parts,
    inexact: set[int],
    macs: Mapping[int, int],
) -> Group:
    """A group from its parts, the channels that are `inexact`, and the `macs` of layers by node."""
    graph = labelling.graph
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
                axis.over,
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
        total += round(member.graph.weights[member.weight].size * member.share)
    return total


def _macs(members: list[Member], macs: Mapping[int, int]) -> int:
    """Cost of all that reads or makes the channels: each layer's share along each axis of its main weight."""
    total = 0
    for member in members:
        total += round(sum(macs[node] for node in member.main_layers) * member.share)
    return total


def _inexact_channels(labelling: Labelling) -> set[int]:
    """Channels over which a mean or a normalisation is taken."""
    result: set[int] = set()
    for reduction in labelling.reductions:
        if reduction.kind == "sum":
            continue
        labels = labelling.labels_at(reduction)
        for axis in reduction.axes:
            if not labelling.channels.all_pinned(labels[axis]):
                root = labelling.channels.compact(labels[axis])
                own = labelling.own_channels(labels, axis)
                if own is not None:
                    result.update(own.numbers.reshape(-1).tolist())
                elif isinstance(root, Listed):
                    result.update(root.ids.tolist())
                elif isinstance(root, Span):
                    result.add(root.first)
    return result


def find_fixed(labelling: Labelling, groups: Sequence[Group]) -> tuple[Fixed, ...]:
    """Layers with output channels that are pinned, or that all are one channel."""
    result: dict[str, Fixed] = {}
    offered: dict[tuple[int, int], int] = {}
    for member in (member for group in groups for member in group.members):
        key = id(member.use), member.axis
        offered[key] = offered.get(key, 0) + round(
            member.share * labelling.axis_labels(member.use.labels, member.axis).size
        )
    for use in labelling.uses:
        for axis, role in use.roles.items():
            if role != "out":
                continue
            labels = labelling.axis_labels(use.labels, axis)
            mask = labelling.channels.pinned(labels)
            pinned = (
                int(np.count_nonzero(mask))
                if isinstance(mask, np.ndarray)
                else labels.size * mask
            )
            # Channels that can go alone or in a whole block are offered twice.
            single = max(labels.size - pinned - offered.get((id(use), axis), 0), 0)
            if not pinned and (not single or labels.size == 1):
                continue
            for node in use.layers:
                layer = labelling.graph.nodes[node].name
                reason = (
                    labelling.channels.reason(labels)
                    if pinned
                    else Reason(ONE_CHANNEL, layer, Kind.ONE_CHANNEL)
                )
                count = pinned + single if labels.size > 1 else pinned
                result.setdefault(
                    layer,
                    Fixed(
                        layer, reason.text, reason.because, reason.kind, count, labels.size
                    ),
                )
    return tuple(
        sorted(result.values(), key=lambda fixed: labelling.graph.node(fixed.layer).index)
    )

"""Channels of a group by the blocks they are in: from each of these cells equally many have to go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from prunegraph.coupling.coupling import Labelling
from prunegraph.coupling.groups import Group
from prunegraph.labels.blocks import Blocks

Array = np.ndarray


def find_uneven(labelling: Labelling, groups: Sequence[Group]) -> list[Blocks]:
    """Blocks that cannot lose equally many channels: a group has more in one of them than in another."""
    result: dict[int, Blocks] = {}
    for group in groups:
        counts = _counts(labelling, group)
        if counts and _cells(list(counts.values())) is None:
            result.update({id(blocks): blocks for blocks in counts})
    return list(result.values())


def find_mixed(labelling: Labelling) -> set[int]:
    """First labels of the outer factors whose blocks cannot go as a whole: others would lose a part of theirs."""
    channels = labelling.channels
    tables = {blocks: channels.block_numbers(blocks) for blocks in channels.blocks}
    result = set()
    for blocks, table in tables.items():
        if channels.all_pinned(blocks.factor):
            continue
        is_apart = np.unique(table).size == table.size and all(
            other is blocks
            or not np.isin(table, numbers).any()
            or (
                other.outer.first == blocks.outer.first
                and np.array_equal(np.sort(table, axis=1), np.sort(numbers, axis=1))
            )
            for other, numbers in tables.items()
        )
        if not is_apart:
            result.add(blocks.outer.first)
    return result


def with_cells(labelling: Labelling, groups: Sequence[Group]) -> tuple[Group, ...]:
    """Groups that know their cells, where blocks choose channels of their own and no blocks are uneven."""
    result = []
    for group in groups:
        counts = _counts(labelling, group)
        cells = _cells(list(counts.values())) if counts else None
        result.append(
            group if cells is None or len(cells) == 1 else replace(group, cells=cells)
        )
    return tuple(result)


def _counts(labelling: Labelling, group: Group) -> dict[Blocks, Array]:
    """How many elements of each block each channel of a group is [channels, blocks]; only where there are any."""
    result = {}
    numbers = group.channel_numbers(np.arange(group.channels))
    place = np.full(labelling.channels.count + 1, -1)
    inside = numbers < labelling.channels.count
    place[numbers[inside]] = np.flatnonzero(inside)
    for blocks in labelling.channels.blocks:
        table = labelling.channels.block_numbers(blocks)
        channel = place[np.minimum(table, labelling.channels.count)]
        block, _ = np.nonzero(channel >= 0)
        if len(block):
            counts = np.zeros((group.channels, blocks.count), np.int64)
            np.add.at(counts, (channel[channel >= 0], block), 1)
            result[blocks] = counts
    return result


def _cells(counts: Sequence[Array]) -> Array | None:
    """Channels of each cell [cells, channels of one]; None where equally many of each leave blocks uneven.

    A cell is what has equally many elements in the same blocks, of all pairs of factors.
    """
    kinds, cell = np.unique(np.hstack(counts), axis=0, return_inverse=True)
    sizes = np.bincount(cell)
    if (sizes != sizes[0]).any():
        return None
    start = 0
    for each in counts:
        total = kinds[:, start : start + each.shape[1]].sum(axis=0)
        if (total != total[0]).any():
            return None
        start += each.shape[1]
    cells = np.argsort(cell, kind="stable").reshape(len(sizes), -1)
    return cells[np.argsort(cells[:, 0])]

"""Parts of a layer that reads channels: the groups of a convolution, each with channels of its own or with all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from prunegraph.coupling.groups import Group, Member
from prunegraph.graph.model import Graph, Node
from prunegraph.operators import is_convolution
from prunegraph.selection.criteria.base import Array


def parts(
    node: Node, member: Member, graph: Graph, count: int
) -> Iterator[tuple[int, Array, Array]]:
    """Matrices of a layer that read a member's channels.

    Args:
        node: the layer.
        member: the axis of its weight along which it reads them.
        graph: the model.
        count: of the layer's matrices, one a group of a convolution.

    Yields:
        The number of the matrix, the channels that it reads [some], and the rows of each [some, rows].
    """
    rows = input_rows(node, member, graph)
    for which in range(count):
        if member.over is None:
            yield which, np.arange(member.channels), rows
            continue
        size = graph.weights[member.weight].shape[member.over] // count
        mine = np.flatnonzero(member.rows[:, 0] // size == which)
        if len(mine):
            yield which, mine, rows[mine]


def rows_of(
    node: Node, member: Member, graph: Graph, count: int, channels: Array
) -> list[Array]:
    """Rows that belong to some channels, in each of a layer's `count` matrices."""
    result = [np.zeros(0, np.int64)] * count
    for which, mine, rows in parts(node, member, graph, count):
        result[which] = rows[np.isin(mine, channels)].reshape(-1)
    return result


def input_rows(node: Node, member: Member, graph: Graph) -> Array:
    """Rows of a layer's matrix that belong to each channel of a member [channels, rows]."""
    shape = graph.weights[member.weight].shape
    each = int(np.prod(shape[2:], dtype=np.int64)) if is_convolution(node) else 1
    rows = member.positions[:, :, None] * each + np.arange(each)
    return rows.reshape(member.channels, -1)


class Reader(Protocol):
    """What removing channels costs one matrix that reads them."""

    def costs(self, channels: Array) -> Array:
        """Error of removing each of some channels by itself."""

    def remove(self, gone: Array, alive: Array) -> None:
        """Remove channels, and let those that are alive make up for it."""


class PartReader:
    """A reader of some of a group's channels, asked about all of them.

    Args:
        reader: it numbers the channels that it reads.
        channels: these channels.
        count: of all channels.
    """

    def __init__(self, reader: Reader, channels: Array, count: int):
        self.reader = reader
        self.place = np.full(count, -1)
        self.place[channels] = np.arange(len(channels))

    def costs(self, channels: Array) -> Array:
        """Error of removing each of some channels by itself: none for those that are not read."""
        place = self.place[channels]
        result = np.zeros(len(channels))
        result[place >= 0] = self.reader.costs(place[place >= 0])
        return result

    def remove(self, gone: Array, alive: Array) -> None:
        """Remove channels, and let those that are alive make up for it."""
        mine, others = self.place[gone], self.place[alive]
        if (mine >= 0).any() and (others >= 0).any():
            self.reader.remove(mine[mine >= 0], others[others >= 0])


def cheapest(
    costs: Array, group: Group, channels: Sequence[int] | Array, count: int
) -> Array:
    """Which channels go next, the cheapest first: about `count`, equally many from each of the group's cells.

    Args:
        costs: of the channels that are left.
        group: theirs.
        channels: which these are.
        count: how many go at once, more where there are more cells.

    Returns:
        Places among `channels`.
    """
    order = np.argsort(costs, kind="stable")
    if group.cells is None:
        return order[:count]
    cell = np.empty(group.channels, np.int64)
    cell[group.cells] = np.arange(len(group.cells))[:, None]
    each = max(1, count // len(group.cells))
    mine = cell[np.asarray(channels)[order]]
    # The rank of each channel in its cell.
    by_cell = np.argsort(mine, kind="stable")
    rank = np.empty(len(mine), np.int64)
    starts = np.searchsorted(mine[by_cell], mine[by_cell])
    rank[by_cell] = np.arange(len(mine)) - starts
    return order[rank < each]

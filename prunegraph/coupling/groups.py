"""The outcome of an analysis: groups of channels, the units an algorithm chooses from, and layers that are fixed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from prunegraph.coupling.uses import Use
from prunegraph.graph.model import Graph
from prunegraph.labels.reasons import Kind

Array = np.ndarray


@dataclass(frozen=True)
class Member:
    """An axis of a weight that a group's channels run along.

    `positions` is an integer array [channels, per_channel]: row c holds the indices on the
    axis that go when channel c goes. `role` is "out" where a layer makes the channels, "in"
    where it consumes them, "param" for scales, biases and the like. With `over`, each block of indices of that
    other axis has channels of its own along `axis`: a channel's part of it are its `rows`.
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
    over: int | None = None

    @cached_property
    def positions(self) -> Array:
        if self.over is not None:
            assert self.table is not None
            return self.table[:, :1] % self._size
        if self.table is not None:
            return self.table
        assert self.first is not None
        return np.arange(self.first, self.first + self.channels)[:, None]

    @property
    def _size(self) -> int:
        return int(self.graph.weights[self.weight].shape[self.axis])

    @property
    def rows(self) -> Array:
        """Indices of the axis `over` that belong to each channel [channels, rows]. Raises ValueError without one."""
        if self.over is None or self.table is None:
            raise ValueError("all indices of the other axes belong to each channel")
        return self.table // self._size

    @property
    def per_channel(self) -> int:
        """Indices of the axis that belong to one channel."""
        return (
            1 if self.table is None or self.over is not None else int(self.table.shape[1])
        )

    @property
    def share(self) -> float:
        """Part of the weight that belongs to the channels."""
        if self.over is None:
            return self.channels * self.per_channel / self._size
        assert self.table is not None
        rows = self.graph.weights[self.weight].shape[self.over]
        return float(self.table.size / (rows * self._size))

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
            **(
                {} if self.over is None else {"over": self.over, "rows": self.rows.tolist()}
            ),
        }

    def values(self) -> Array:
        """The weight's values by channel: [channels, elements of one channel]."""
        if self.over is not None:
            axes = self.axis, self.over
            data = np.moveaxis(self.graph.weights[self.weight].read(), axes, (0, 1))
            return data[self.positions, self.rows].reshape(self.channels, -1)
        data = np.moveaxis(self.graph.weights[self.weight].read(), self.axis, 0)
        if self.table is None and self.first == 0 and self.channels == data.shape[0]:
            return np.ascontiguousarray(data).reshape(self.channels, -1)
        return data[self.positions].reshape(self.channels, -1)


@dataclass(frozen=True)
class Group:
    """Channels that an algorithm may remove one by one.

    `channels` counts them; `layers` are the layers that make them. `params` and `macs` are
    what all of the group's channels together hold and cost at full width. `exact` is False
    where a normalisation's statistics change with the width. `cells` are channels [cells, channels of one] of which
    equally many have to go from each: every head, every group of a convolution has its own. None where any may go.
    `least` is how many channels stay: as many experts as a router takes.
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
    cells: Array | None = field(repr=False, default=None)
    least: int = 1

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
            **({} if self.cells is None else {"cells": self.cells.tolist()}),
            **({} if self.least == 1 else {"least": self.least}),
        }


@dataclass(frozen=True)
class Fixed:
    """A layer with output channels that cannot be pruned: how many, why, and the node that causes it.

    `reason` is for people, `kind` for programs.
    """

    layer: str
    reason: str
    because: str
    kind: Kind
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

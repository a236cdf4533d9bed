"""What the walk notes of channels: what is one channel, what has to be mixed together, where weights meet them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from prunegraph.graph.model import Node
from prunegraph.rotation.carried import Carried

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class Touch:
    """Axes of a weight that channels run along.

    `ids` and `rows` are those of `Carried`, flat over the `axes`. A weight that `reads` takes the channels in, any
    other one makes them, or is added to them. `node` is the layer, `value` what it reads.
    """

    weight: str
    axes: tuple[int, ...]
    ids: Array
    rows: Array
    reads: bool
    node: Node
    value: str = ""


@dataclass(frozen=True, eq=False)
class Reading:
    """A value as a layer or a contraction reads it: `ids` and `rows` of `Carried`, flat over the `axes`.

    `partner` is what a contraction multiplies it with, by channel.
    """

    value: str
    axes: tuple[int, ...]
    ids: Array
    rows: Array
    node: Node
    partner: str = ""


@dataclass
class Notes:
    """All that is noted on a walk. Channels are numbered from 1 on.

    Attributes:
        same: pairs of arrays of channels that are one.
        dual: pairs of arrays of channels that are multiplied and summed: the matrix of one side is undone by the other.
        rows: channels and rows of elements; channels may be mixed that are in the same rows, wherever they are.
        fixed: channels that nothing may mix.
        values: channels in every value that has any.
    """

    channels: int = 0
    last_row: int = 0
    same: list[tuple[Array, Array]] = field(default_factory=list)
    dual: list[tuple[Array, Array]] = field(default_factory=list)
    rows: list[tuple[Array, Array]] = field(default_factory=list)
    fixed: list[Array] = field(default_factory=list)
    values: dict[str, Array] = field(default_factory=dict)
    touches: list[Touch] = field(default_factory=list)
    readings: list[Reading] = field(default_factory=list)

    def fresh(self, count: int) -> Array:
        """Numbers of new channels."""
        self.channels += count
        return np.arange(self.channels - count + 1, self.channels + 1)

    def new_rows(self, numbers: Array) -> Array:
        """Rows that nothing else has, numbered from 0 on so far."""
        start = self.last_row + 1
        self.last_row += int(numbers.max(initial=-1)) + 1
        return numbers + start

    def note_rows(self, carried: Carried) -> None:
        """Note that the elements of each row are treated alike, and those of different rows are not."""
        ids, rows = carried.flat()
        self.rows.append((ids[ids > 0], rows[ids > 0]))

    def fix(self, *carried: Carried | None) -> None:
        """Note that nothing may mix these channels."""
        self.fixed += [each.ids.reshape(-1) for each in carried if each is not None]

    def tie(self, first: Array, second: Array) -> None:
        """Note that two arrays hold the same channels, element by element; where one has none, the other is fixed."""
        first, second = (each.reshape(-1) for each in np.broadcast_arrays(first, second))
        both = (first > 0) & (second > 0)
        self.same.append((first[both], second[both]))
        self.fixed.append(np.where(both, 0, first + second))

    def tie_dual(self, first: Array, second: Array) -> None:
        """Note that channels of two arrays are multiplied and summed, element by element."""
        first, second = (each.reshape(-1) for each in np.broadcast_arrays(first, second))
        both = (first > 0) & (second > 0)
        self.dual.append((first[both], second[both]))
        self.fixed.append(np.where(both, 0, first + second))

    def touch(
        self,
        weight: str,
        axes: Sequence[int],
        carried: Carried,
        node: Node,
        value: str = "",
    ) -> None:
        """Note a weight that makes channels or, with the value that it reads, takes them in."""
        ids, rows = carried.flat()
        self.touches.append(Touch(weight, tuple(axes), ids, rows, bool(value), node, value))

    def read(self, value: str, carried: Carried, node: Node, partner: str = "") -> None:
        """Note where a value is read."""
        ids, rows = carried.flat()
        self.readings.append(Reading(value, carried.axes, ids, rows, node, partner))

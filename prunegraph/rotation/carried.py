"""Where the channels that layers make are in a value: numbers of channels in the value's own shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Array = np.ndarray

#: Values with more elements than this are not followed through data movement.
MAX_ELEMENTS = 2**24


@dataclass(frozen=True)
class Carried:
    """Channels in a value.

    Both arrays have the rank of the value, and size 1 along axes on which the channels do not depend. `ids` numbers the
    channel of an element, 0 where there is none. Elements with the same number in `rows` are one vector: where one
    matrix mixes channels, it mixes the elements of each row.
    """

    ids: Array
    rows: Array

    @classmethod
    def along(cls, ids: Array, axis: int, rank: int, row: int) -> Carried:
        """Channels along one axis of a value, all in one row."""
        shape = [-1 if each == axis % rank else 1 for each in range(rank)]
        return cls(ids.reshape(shape), np.full(len(ids), row, np.int64).reshape(shape))

    @property
    def axes(self) -> tuple[int, ...]:
        """Axes on which the channels depend."""
        return tuple(axis for axis, size in enumerate(self.ids.shape) if size > 1)

    def varies(self, axis: int) -> bool:
        """Tell whether the channels depend on an axis."""
        return bool(self.ids.shape[axis] > 1)

    def expanded(self, shape: Sequence[int]) -> Carried:
        """The same with those sizes along all axes."""
        return Carried(np.broadcast_to(self.ids, shape), np.broadcast_to(self.rows, shape))

    def collapsed(self) -> Carried:
        """The same with size 1 along axes on which nothing depends."""
        ids, rows = self.ids, self.rows
        for axis, size in enumerate(ids.shape):
            if size > 1:
                first = [each.take([0], axis) for each in (ids, rows)]
                if (ids == first[0]).all() and (rows == first[1]).all():
                    ids, rows = first
        return Carried(ids, rows)

    def flat(self) -> tuple[Array, Array]:
        """Channels and rows of all elements, in order."""
        return self.ids.reshape(-1), self.rows.reshape(-1)


def aligned(carried: Carried, rank: int) -> Carried:
    """The same with that many axes: further ones stand in front, as broadcasting has it."""
    shape = (1,) * (rank - carried.ids.ndim) + carried.ids.shape
    return Carried(carried.ids.reshape(shape), carried.rows.reshape(shape))


def pairs(first: Array, second: Array) -> Array:
    """Number pairs of elements of two arrays that broadcast: equal numbers for equal pairs, from 0 on."""
    first, second = np.broadcast_arrays(first, second)
    stacked = np.stack([first.reshape(-1), second.reshape(-1)], axis=1)
    _, numbers = np.unique(stacked, axis=0, return_inverse=True)
    return numbers.reshape(first.shape)

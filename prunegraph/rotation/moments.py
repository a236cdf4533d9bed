"""Second moments of the channels of spaces, where they are read, gathered from data in one pass."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from prunegraph.rotation.spaces import Space, ValuePart
from prunegraph.runtime.row_mask import counted
from prunegraph.runtime.statistics import ROWS, Statistics

Array = np.ndarray


class ValueMoments:
    """Accumulates sums of the channels of a value, and of their products, for several spaces.

    Args:
        parts: where the value holds the channels, each with the same value and axes.
        values: the name of the value, and maybe that of a mask: where that is 0, the value does not count.
        per_sample: places that are looked at of each sample at most.
    """

    def __init__(
        self, parts: Sequence[ValuePart], values: tuple[str, ...], per_sample: int
    ):
        self.values: tuple[str, ...] = values
        self.axes, self.per_sample = parts[0].axes, per_sample
        self.columns = [part.columns for part in parts]
        self.count = 0
        self.sums: list[Array] = [np.zeros(each.shape) for each in self.columns]
        self.products: list[Array] = [
            np.zeros((*each.shape, each.shape[1])) for each in self.columns
        ]

    def add(self, batch: int, *arrays: Array) -> None:
        value = arrays[0]
        samples = value.shape[0] if value.ndim > len(self.axes) else 1
        size = int(np.prod([value.shape[axis] for axis in self.axes]))
        rest = range(value.ndim - len(self.axes), value.ndim)
        moved = np.moveaxis(value, self.axes, rest)
        # Behind it are the channels: what is in front may be the mask's axes, also where heads stood between.
        counts = counted(arrays[1], moved) if len(arrays) > 1 else None
        if counts is not None and counts.ndim <= value.ndim - len(self.axes):
            moved = moved[counts]
        rows = moved.reshape(-1, size)
        most = self.per_sample * samples
        if len(rows) > most:
            random = np.random.default_rng(batch)
            rows = rows[np.sort(random.choice(len(rows), most, replace=False))]
        rows = rows.astype(np.float32, copy=False)
        self.count += len(rows)
        for columns, total, products in zip(
            self.columns, self.sums, self.products, strict=True
        ):
            # Vectors by places: one product for all places of a vector.
            vectors = rows[:, columns].swapaxes(0, 1)
            total += vectors.sum(axis=1, dtype=np.float64)
            products += vectors.swapaxes(1, 2) @ vectors

    def second(self, index: int) -> Array:
        """Means of the products of a space's channels [vectors, channels, channels]."""
        return self.products[index] / max(self.count, 1)

    def covariance(self, index: int) -> Array:
        """The same of centred channels."""
        mean = self.sums[index] / max(self.count, 1)
        return self.second(index) - mean[:, :, None] * mean[:, None, :]


class SpaceMoments:
    """Moments of all spaces where they are read.

    Args:
        spaces: of a graph.
        statistics: of the same graph; its data are run once.
    """

    def __init__(self, spaces: Iterable[Space], statistics: Statistics):
        parts: dict[tuple[str, tuple[int, ...]], list[ValuePart]] = {}
        self._index: dict[int, tuple[tuple[str, tuple[int, ...]], int]] = {}
        for space in spaces:
            for part in space.values:
                same = parts.setdefault((part.value, part.axes), [])
                self._index[id(part)] = (part.value, part.axes), len(same)
                same.append(part)
        mask = (statistics.mask.input,) if statistics.mask is not None else ()
        per_sample = max(ROWS // statistics.data.samples, 16)
        self._moments = {
            key: ValueMoments(each, (key[0], *mask), per_sample)
            for key, each in parts.items()
        }
        if self._moments:
            statistics.collect(list(self._moments.values()), "moments of rotated channels")

    def second(self, part: ValuePart) -> Array:
        """Means of products of channels [vectors, channels, channels]."""
        key, index = self._index[id(part)]
        return self._moments[key].second(index)

    def covariance(self, part: ValuePart) -> Array:
        """Covariance of channels [vectors, channels, channels]."""
        key, index = self._index[id(part)]
        return self._moments[key].covariance(index)

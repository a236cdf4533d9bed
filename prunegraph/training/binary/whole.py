"""Binary weights as whole numbers: signs, times sizes of groups of inputs; and the scale of each filter.

What a layer computes with is scale * size * sign. With one scale for a filter all sizes are 1; with more, they are
whole numbers up to `LEVELS`, so that a file has a bit for each weight and a byte for each group, and layers still
multiply 8-bit integers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from prunegraph.training.binary.operators import LEVELS, group_scales

Array = np.ndarray


@dataclass(frozen=True)
class WholeWeight:
    """A layer's binary weights.

    `positive` has their shape, filters on `axis`; `sizes` are whole numbers [filters, groups] of inputs that follow
    each other, `gain` the scales [filters].
    """

    positive: Array
    axis: int
    sizes: Array
    gain: Array

    @classmethod
    def of(cls, weight: Array, axis: int, scales: int = 1) -> WholeWeight:
        """The weights that `BinaryWeight` makes of trained ones; positive where those are 0."""
        if scales == 1:
            others = tuple(i for i in range(weight.ndim) if i != axis)
            gain = np.abs(weight).mean(others, dtype=np.float64)
            return cls(weight >= 0, axis, np.ones((len(gain), 1), np.int8), gain)
        sizes, gains = group_scales(torch.from_numpy(weight.copy()), axis, scales)
        whole = sizes.numpy().astype(np.int8)
        return cls(weight >= 0, axis, whole, gains.numpy().astype(np.float64))

    @property
    def has_groups(self) -> bool:
        return self.sizes.shape[1] > 1

    @property
    def largest(self) -> int:
        """No size is above it."""
        return LEVELS if self.has_groups else 1

    @property
    def layout(self) -> tuple[tuple[int, ...], Array]:
        """A shape of the weights in which groups have an axis, and sizes that broadcast with it."""
        filters, groups = self.sizes.shape
        if self.axis == 0:
            return (filters, groups, -1), self.sizes[:, :, None]
        return (groups, -1, filters), self.sizes.T[:, None]

    def values(self) -> Array:
        """Sizes times signs, in the weights' shape."""
        shape, sizes = self.layout
        signed = np.where(self.positive.reshape(shape), sizes, -sizes)
        return signed.reshape(self.positive.shape).astype(np.float64)

    def turned(self, filters: Array) -> WholeWeight:
        """The weights with other signs where `filters` is true."""
        shape = [-1 if i == self.axis else 1 for i in range(self.positive.ndim)]
        return replace(self, positive=self.positive ^ filters.reshape(shape))

    def transposed(self) -> WholeWeight:
        """A matrix with its axes exchanged."""
        return replace(self, positive=self.positive.T, axis=1 - self.axis)

"""Rank of feature maps.

The score of a channel is the numerical rank of its feature map, averaged over samples and over the values
that the group's consumers read. A map is what is left of the value for one sample and one channel, its last
axis against all others; a single number has rank 1 unless it is zero. Equal ranks are told apart by
the maps' energy. Source: Lin et al. 2020.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from prunegraph.coupling.groups import Group
from prunegraph.coupling.places import ChannelAxis
from prunegraph.selection.criteria.base import Array, Context, criterion
from prunegraph.selection.criteria.values import gathered

#: Samples that are looked at.
SAMPLES = 64


@dataclass
class _Ranks:
    """Sums over samples of the ranks and energies of the maps along one axis of a value."""

    place: ChannelAxis
    values: tuple[str, ...] = field(init=False)
    samples: int = 0
    ranks: Array | float = 0.0
    energy: Array | float = 0.0

    def __post_init__(self) -> None:
        self.values = (self.place.value,)

    def add(self, batch: int, *arrays: Array) -> None:
        x = arrays[0] if self.place.axis else arrays[0][None]
        x = x[: SAMPLES - self.samples].astype(np.float32)
        if not len(x):
            return
        axis = max(self.place.axis, 1)
        x = np.moveaxis(x, axis, 1)
        x = x.reshape(*x.shape[:2], -1, x.shape[-1] if x.ndim > 2 else 1)
        self.samples += len(x)
        self.ranks = self.ranks + np.linalg.matrix_rank(x).sum(axis=0)
        self.energy = self.energy + np.square(x).sum(axis=(0, 2, 3))

    def score(self) -> Array:
        """Mean ranks of the group's channels; energies only decide between equal ones."""
        ranks, energy = (
            self.place.by_channel(np.asarray(self.ranks)),
            self.place.by_channel(np.asarray(self.energy)),
        )
        return (
            ranks + 0.5 * energy / (energy.sum() or 1.0) / self.place.positions.shape[1]
        ) / max(self.samples, 1)


@criterion("hrank")
def hrank(group: Group, context: Context) -> Array:
    """Mean rank of a channel's feature maps (needs data)."""
    result = gathered(group, context, "hrank", _Ranks)
    return (
        np.mean([one.score() for one in result], axis=0)
        if result
        else np.full(group.channels, np.inf)
    )

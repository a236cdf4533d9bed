"""Channel independence.

With the rows of A the flattened feature maps of one sample, the score of a channel is how much the nuclear
norm falls without it, `||A||_* - ||A with the channel's rows zero||_*`, as a share of all channels' falls,
averaged over samples and over the values that the group's consumers read. Source: Sui et al. 2021.

Nuclear norms are sums of square roots of eigenvalues of A A' or A' A, whichever is smaller.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from prunegraph.coupling.groups import Group
from prunegraph.coupling.places import Place
from prunegraph.selection.criteria.base import Array, Context, criterion
from prunegraph.selection.criteria.values import gathered, maps

#: Samples that are looked at.
SAMPLES = 16

#: Bytes of matrices held at a time.
CHUNK = 2**27


@dataclass
class _Independence:
    """Sum over samples of every channel's share of independence."""

    place: Place
    values: tuple[str, ...] = field(init=False)
    samples: int = 0
    shares: Array | float = 0.0

    def __post_init__(self) -> None:
        self.values = (self.place.value,)

    def add(self, batch: int, *arrays: Array) -> None:
        left = SAMPLES - self.samples
        x = arrays[0] if self.place.axis == 0 else arrays[0][:left]
        if left <= 0:
            return
        for sample in maps(x, self.place):
            falls = independence(sample)
            self.samples += 1
            self.shares = self.shares + falls / (falls.sum() or 1.0)


def independence(a: Array) -> Array:
    """Fall of the nuclear norm without each channel of [channels, per_channel, positions]."""
    channels, each, length = a.shape
    rows = a.reshape(-1, length)
    wide = len(rows) <= length
    whole = rows @ rows.T if wide else rows.T @ rows
    norm = _nuclear(whole)
    falls = np.empty(channels)
    size = max(1, CHUNK // (8 * len(whole) ** 2))
    for start in range(0, channels, size):
        part = np.arange(start, min(start + size, channels))
        if wide:
            without = np.repeat(whole[None], len(part), axis=0)
            gone = (part[:, None] * each + np.arange(each))[:, :, None]
            index = np.arange(len(part))[:, None, None]
            without[index, gone] = 0
            without[index, :, gone] = 0
        else:
            without = whole - np.einsum("cpi,cpj->cij", a[part], a[part])
        falls[part] = norm - _nuclear(without)
    return np.maximum(falls, 0)


def _nuclear(gram: Array) -> Array:
    """Sum of the square roots of eigenvalues; what rounding leaves of zeros does not count."""
    found = np.linalg.eigvalsh(gram)
    rounding = found.shape[-1] * np.finfo(np.float64).eps * found[..., -1:]
    return np.sqrt(np.where(found > rounding, found, 0)).sum(axis=-1)


@criterion("chip")
def chip(group: Group, context: Context) -> Array:
    """Fall of the nuclear norm of the feature maps without a channel (needs data)."""
    found = gathered(group, context, "chip", _Independence)
    shares = [np.asarray(one.shares) / max(one.samples, 1) for one in found]
    return np.mean(shares, axis=0) if shares else np.full(group.channels, np.inf)

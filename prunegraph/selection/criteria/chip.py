"""Channel independence.

With the rows of A the flattened feature maps of one sample, the score of a channel is how much the nuclear
norm falls without it, `||A||_* - ||A with the channel's rows zero||_*`, as a share of all channels' falls,
averaged over samples and over the values that the group's consumers read. Source: Sui et al. 2021.

Where a channel is one row, one decomposition serves all channels. With `A A' = U diag(l) U'`, and the square root as an
integral over resolvents, the fall without row c is `2/pi * integral over s > 0 of n / m`, where
`m = sum over i of U[c,i]^2 / (l_i + s^2)` and `n = sum over i of U[c,i]^2 l_i / (l_i + s^2)^2`. In log(s) the integrand
is analytic in a strip and dies off on both sides, so that the trapezoidal rule is as good as exact.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from prunegraph.coupling.groups import Group
from prunegraph.coupling.places import ChannelAxis
from prunegraph.selection.criteria.base import Array, Context, criterion
from prunegraph.selection.criteria.values import gathered, maps

#: Samples that are looked at.
SAMPLES = 32

#: Nodes of the integral: steps of log(s), as far from the largest singular value to both sides.
STEP, REACH = 0.25, 23.0

#: Shares of a row outside of the decomposition that are no more than rounding.
ROUNDING = 1e-10


@dataclass
class _Independence:
    """Sum over samples of every channel's share of independence."""

    place: ChannelAxis
    values: tuple[str, ...] = field(init=False)
    samples: int = 0
    shares: Array | float = 0.0

    def __post_init__(self) -> None:
        self.values = (self.place.value,)

    def add(self, batch: int, *arrays: Array) -> None:
        remaining = SAMPLES - self.samples
        x = arrays[0] if self.place.axis == 0 else arrays[0][:remaining]
        if remaining <= 0:
            return
        for sample in maps(x, self.place):
            falls = independence(sample)
            self.samples += 1
            self.shares = self.shares + falls / (falls.sum() or 1.0)


def independence(a: Array) -> Array:
    """Fall of the nuclear norm without each channel of [channels, per_channel, positions]."""
    if a.shape[1] == 1:
        return _of_rows(a[:, 0])
    whole = _nuclear(a)
    return np.asarray(
        [
            max(whole - _nuclear(np.delete(a, channel, axis=0)), 0.0)
            for channel in range(len(a))
        ]
    )


def _nuclear(a: Array) -> float:
    return float(np.linalg.svd(a.reshape(-1, a.shape[-1]), compute_uv=False).sum())


def _of_rows(rows: Array) -> Array:
    """Fall of the nuclear norm without each row."""
    squares, basis = _decomposed(rows)
    if squares.max() <= 0:
        return np.zeros(len(rows))
    weights = np.square(basis)
    # What the decomposition leaves out has eigenvalue 0.
    rest = 1 - weights.sum(axis=1, keepdims=True)
    rest[rest < ROUNDING] = 0
    nodes = np.sqrt(squares.max()) * np.exp(np.arange(-REACH, REACH, STEP))
    sums = squares[:, None] + np.square(nodes)
    ratio = (weights @ (squares[:, None] / sums**2)) / (
        weights @ (1 / sums) + rest / np.square(nodes)
    )
    return 2 / np.pi * STEP * (ratio @ nodes)


def _decomposed(rows: Array) -> tuple[Array, Array]:
    """Eigenvalues of A A' and their vectors; where A has more rows than columns, those that may not be zero."""
    if len(rows) <= rows.shape[1]:
        squares, basis = np.linalg.eigh(rows @ rows.T)
        return np.maximum(squares, 0), basis
    basis, values, _ = np.linalg.svd(rows, full_matrices=False)
    return np.square(values), basis


@criterion("chip")
def chip(group: Group, context: Context) -> Array:
    """Fall of the nuclear norm of the feature maps without a channel (needs data)."""
    result = gathered(group, context, "chip", _Independence)
    shares = [np.asarray(one.shares) / max(one.samples, 1) for one in result]
    return np.mean(shares, axis=0) if shares else np.full(group.channels, np.inf)

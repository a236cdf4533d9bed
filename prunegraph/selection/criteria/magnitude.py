"""Magnitude of weights.

The score of a channel is the p-norm of all weights that make it or consume it:
`(sum over members, sum over elements, |w|^p)^(1/p)`. `members` are the layers' weights of the
group: producers, consumers, or both, which is usually better. Biases and normalisation parameters
do not count. Source: Li et al. 2017, group form of Fang et al. 2023.
"""

from __future__ import annotations

import numpy as np

from prunegraph.coupling.groups import Group
from prunegraph.selection.criteria.base import Array, Context, criterion
from prunegraph.selection.criteria.members import Members, by_channel, counted


def power_sum(group: Group, power: int, members: Members) -> Array:
    """Sum over members and elements of |w|^power [channels]."""
    total = np.zeros(group.channels)
    for member in counted(group, members):
        values = by_channel(member)
        total += (
            np.einsum("ce,ce->c", values, values)
            if power == 2
            else np.abs(values).sum(axis=1)
        )
    return total


@criterion("l1")
def l1(group: Group, context: Context, *, members: Members = "all") -> Array:
    """Sum of absolute weights over producers and consumers."""
    return power_sum(group, 1, members)


@criterion("l2")
def l2(group: Group, context: Context, *, members: Members = "all") -> Array:
    """Euclidean norm of weights over producers and consumers."""
    return np.sqrt(power_sum(group, 2, members))

"""Magnitude of weights.

The score of a channel is the p-norm of all weights that make it or consume it:
`(sum over members, sum over elements, |w|^p)^(1/p)`. Members are the layers' weights of the
group, producers and consumers alike (ALGORITHMS: counting consumers is usually better);
biases and normalisation parameters do not count. Source: Li et al. 2017, group form of
Fang et al. 2023.
"""

from __future__ import annotations

import numpy as np

from prunegraph.coupling.groups import Group, Member
from prunegraph.selection.criteria.base import Array, Context, criterion


def counted(group: Group) -> list[Member]:
    """Members whose values say how much a channel matters: layers' weights, else whatever there is."""
    layers = [m for m in group.members if m.role in ("in", "out") and len(m.graph.weights[m.weight].shape) > 1]
    return layers or list(group.members)


def _norm(group: Group, power: int) -> Array:
    total = np.zeros(group.channels)
    for member in counted(group):
        values = member.values()
        if values.dtype != np.float64:
            values = values.astype(np.float32, copy=False)
        if power == 2:
            total += np.einsum("ce,ce->c", values, values)
        else:
            total += np.abs(values).sum(axis=1)
    return total ** (1 / power)


@criterion("l1")
def l1(group: Group, context: Context) -> Array:
    """Sum of absolute weights over producers and consumers."""
    return _norm(group, 1)


@criterion("l2")
def l2(group: Group, context: Context) -> Array:
    """Euclidean norm of weights over producers and consumers."""
    return _norm(group, 2)

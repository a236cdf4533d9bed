"""Filter pruning via geometric median.

The score of a channel is the sum of its distances to all others, `sum over j of ||w_c - w_j||`, with w_c all
weights that make it: a channel near the geometric median can be replaced by the others, however large
it is. Source: He et al. 2019.
"""

from __future__ import annotations

import numpy as np

from prunegraph.coupling.groups import Group
from prunegraph.selection.criteria.base import Array, Context, criterion
from prunegraph.selection.criteria.members import Members, by_channel, counted

#: Bytes of distances held at a time.
CHUNK = 2**26


@criterion("fpgm")
def fpgm(group: Group, context: Context, *, members: Members = "producer") -> Array:
    """Sum of distances to the group's other channels, by the weights that make them."""
    squares = [by_channel(member).astype(np.float64) for member in counted(group, members)]
    norms = np.sum([np.einsum("ce,ce->c", w, w) for w in squares], axis=0)
    scores = np.empty(group.channels)
    size = max(1, CHUNK // (8 * group.channels))
    for start in range(0, group.channels, size):
        part = slice(start, start + size)
        products = np.sum([w[part] @ w.T for w in squares], axis=0)
        distances = np.maximum(norms[part, None] + norms - 2 * products, 0)
        # What rounding leaves of the distance between equal channels is none.
        distances[distances < 1e-12 * (norms[part, None] + norms)] = 0
        scores[part] = np.sqrt(distances).sum(axis=1)
    return scores

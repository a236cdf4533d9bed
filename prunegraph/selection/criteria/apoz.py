"""Average percentage of zeros.

The score of a channel is the share of its activations that are not zero, averaged over the values
that the group's consumers read. Only values that a ReLU (or the like) made say anything: those that are zero
at the lowest. A group that has none (linear bottlenecks, GELU) is kept whole. Source: Hu et al. 2016.
"""

from __future__ import annotations

import numpy as np

from prunegraph.coupling.groups import Group
from prunegraph.selection.criteria.base import Array, Context, criterion
from prunegraph.selection.criteria.values import moments


@criterion("apoz")
def apoz(group: Group, context: Context) -> Array:
    """Share of activations behind a ReLU that are not zero (needs data)."""
    shares = [
        place.by_channel(1 - match.inactive_share)
        for place, match in moments(group, context, "apoz")
        if np.asarray(match.lowest)[place.positions].min() == 0
    ]
    return np.mean(shares, axis=0) if shares else np.full(group.channels, np.inf)

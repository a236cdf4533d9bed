"""First-order Taylor expansion of the loss.

The score of a channel is `mean over batches of (sum over members, sum over elements, w * dL/dw)^2`: the square of how
much the batch's loss changes, to first order, when the channel goes. The sum is inside the square, so that
elements can cancel. Needs gradients. Source: Molchanov et al. 2019.
"""

from __future__ import annotations

import numpy as np

from prunegraph.coupling.groups import Group
from prunegraph.selection.criteria.base import Array, Context, criterion
from prunegraph.selection.criteria.members import Members, whole_slices


@criterion("taylor")
def taylor(group: Group, context: Context, *, members: Members = "all") -> Array:
    """Squared first-order change of the loss without a channel (needs gradients)."""
    gradients = context.need_gradients("taylor")
    change = np.sum(
        [
            gradients.batches(m.weight, m.axis)[:, m.positions].sum(axis=2)
            for m in whole_slices(group, members)
        ],
        axis=0,
    )
    return np.square(change).mean(axis=0)

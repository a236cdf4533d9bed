"""Empirical Fisher information.

With one mask on all members of a channel, `mean over samples of (dL/dmask)^2`, where dL/dmask is the sum of
w * dL/dw over members and elements; so cross terms of coupled layers count (`kind=group`). `kind=diagonal` is
Optimal Brain Damage with squared gradients for second derivatives, `1/2 sum w^2 E[(dL/dw)^2]`.
Needs gradients. Sources: Liu et al. 2021 (group Fisher); LeCun et al. 1990.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from prunegraph.coupling.groups import Group
from prunegraph.selection.criteria.base import Array, Context, criterion
from prunegraph.selection.criteria.members import Members, whole_slices


@criterion("fisher")
def fisher(
    group: Group,
    context: Context,
    *,
    kind: Literal["group", "diagonal"] = "group",
    members: Members = "all",
) -> Array:
    """Mean squared derivative of the loss by a mask on a channel (needs gradients)."""
    gradients = context.need_gradients("fisher")
    chosen = whole_slices(group, members)
    if kind == "diagonal":
        return (
            np.sum(
                [
                    gradients.squares(m.weight, m.axis)[m.positions].sum(axis=1)
                    for m in chosen
                ],
                axis=0,
            )
            / 2
        )
    slopes = np.sum(
        [gradients.samples(m.weight, m.axis)[:, m.positions].sum(axis=2) for m in chosen],
        axis=0,
    )
    return np.square(slopes).mean(axis=0)

"""Random scores: the baseline every criterion has to beat."""

from __future__ import annotations

from prunegraph.coupling.groups import Group
from prunegraph.selection.criteria.base import Array, Context, criterion


@criterion("random")
def random(group: Group, context: Context) -> Array:
    """Uniform in [0, 1), the same for the same seed and group."""
    return context.rng(group).random(group.channels)

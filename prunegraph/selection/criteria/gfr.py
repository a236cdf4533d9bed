"""Global feature relationship: scale and relationship factor of a channel together (source 001, ALGORITHMS 2.4).

The score of a channel is `|gamma|^p * sr^q`, merged over the BatchNormalization nodes of a group as `bn_scale` merges
scales. With p = q it does not change when a part of the factor moves into the scale; q = 0 is network slimming, p = 0
goes by the gates alone. Factors come from the model's metadata (`factors`). Where they are folded already
`|gamma| = |gamma'| / sr`, and p = q = 1 is `bn_scale`. A channel whose folded factor is 0 scores 0: it is 0.
"""

from __future__ import annotations

import numpy as np

from prunegraph.coupling.groups import Group
from prunegraph.errors import BudgetError
from prunegraph.selection.criteria.base import Array, Context, criterion
from prunegraph.selection.criteria.bn_scale import Factor, merged, strengths
from prunegraph.selection.criteria.factors import check_exponents, read_factors


@criterion("gfr")
def gfr(group: Group, context: Context, *, p: float = 1.0, q: float = 1.0) -> Array:
    """Scale of BatchNormalization times the factor of a trained gate (`train --method gfr`)."""
    check_exponents("gfr", p, q)
    result = read_factors(context.graph)
    if result is None:
        raise BudgetError(
            f"algorithm 'gfr' needs factors that training leaves in the model, and {context.graph.source} has none: "
            "make them with `train --method gfr`, or use 'bn_scale'"
        )
    factors = {
        value: Factor(_power(each, q - p * result.folded))
        for value, each in result.by_value.items()
    }
    return merged(strengths(group, context, power=p, factors=factors), group, context)


def _power(factors: Array, exponent: float) -> Array:
    """A power of factors; of 0 it is 0, whatever the exponent below or above 0."""
    raised = np.ones_like(factors)
    np.power(factors, exponent, out=raised, where=factors > 0)
    return raised if exponent == 0 else np.where(factors > 0, raised, 0.0)

"""Layer-adaptive magnitude.

With a group's squared norms in rising order, u(1) <= ... <= u(n), the score of the k-th is
`u(k) / sum over j >= k of u(j)`: its share of what would be left with it. The largest has 1 and no score depends
on a layer's scale, so scores of all groups can be compared as they are (allocation `global:none`) and
no layer can vanish. Source: Lee et al. 2021.
"""

from __future__ import annotations

from prunegraph.coupling.groups import Group
from prunegraph.selection.criteria.base import Array, Context, criterion
from prunegraph.selection.criteria.magnitude import power_sum
from prunegraph.selection.criteria.members import Members
from prunegraph.selection.normalise import lamp as of_the_rest


@criterion("lamp")
def lamp(group: Group, context: Context, *, members: Members = "all") -> Array:
    """Squared norm as a share of the norms that are not smaller."""
    return of_the_rest(power_sum(group, 2, members))

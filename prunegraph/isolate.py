"""When a proof fails: find the groups that are responsible, and prune the rest.

A failing proof means that a rule is wrong for this graph, or ONNX Runtime. Nothing wrong is
ever written, but most of the model can usually still be pruned: groups are tried in halves until those
that break the result are found. They are left whole, and the rest is proved again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prunegraph.coupling.coupling import Coupling
from prunegraph.errors import ExactnessError, ModelError
from prunegraph.selection.plan import Plan, make_plan

#: Cuts and proves a plan; raises ExactnessError or ModelError if it does not hold.
Attempt = Callable[[Plan], None]


def isolate(
    coupling: Coupling, plan: Plan, attempt: Attempt, failure: ExactnessError
) -> tuple[Plan, tuple[str, ...]]:
    """The part of a plan that holds, and the groups left out of it.

    Args:
        coupling: that the plan was made for.
        plan: a plan whose proof failed.
        attempt: cuts and proves a plan.
        failure: how the proof of the whole plan failed.

    Raises:
        ExactnessError: no part of the plan holds; the message says what failed first.
    """

    def part(groups: Sequence[str]) -> Plan:
        provenance = {
            **plan.provenance,
            "left_out": [g for g in plan.removal if g not in groups],
        }
        return make_plan(coupling, {g: plan.removal[g] for g in groups}, provenance)

    def holds(groups: Sequence[str]) -> bool:
        try:
            attempt(part(groups))
        except (ExactnessError, ModelError):
            return False
        return True

    def culprits(suspects: Sequence[str], trusted: Sequence[str]) -> list[str]:
        """Groups of `suspects` that do not hold together with `trusted`."""
        if holds([*trusted, *suspects]):
            return []
        if len(suspects) == 1:
            return list(suspects)
        middle = len(suspects) // 2
        first = culprits(suspects[:middle], trusted)
        good = [g for g in suspects[:middle] if g not in first]
        return first + culprits(suspects[middle:], [*trusted, *good])

    left_out = culprits(list(plan.removal), [])
    rest = [group for group in plan.removal if group not in left_out]
    if not rest:
        raise ExactnessError(
            f"the proof fails whichever groups are pruned. {failure.blame}. {failure}",
            failure.blame,
        ) from failure
    return part(rest), tuple(left_out)

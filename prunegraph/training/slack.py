"""What a choice of channels took away beyond its bound, given back.

The last step before a bound is met can save far more than was missing: half of the channels that all residual branches
share. What went before it may then have gone for nothing. Steps come back from the last one on, each as soon as the
bounds allow it and nothing of its unit is still gone that went later; so the order of the allocation is kept.
"""

from __future__ import annotations

from collections.abc import Sequence

from prunegraph.options import base_name, bound
from prunegraph.selection.allocation import ALLOCATIONS, MEASURED
from prunegraph.selection.budget import Budget, Meter
from prunegraph.selection.plan import Plan, make_plan
from prunegraph.selection.select import Ranking
from prunegraph.selection.units import Step, collect, forced_share


def without_slack(ranking: Ranking, budget: Budget) -> Plan:
    """The plan of a ranking for a budget, with the channels that its bounds leave room for.

    Plans of a ratio, and of allocations that share a bound by measured curves, are what `Ranking.plan` gives.

    Raises BudgetError where the budget cannot be met.
    """
    plan = ranking.plan(budget)
    allocation = str(ranking.choice.allocation)
    if not budget.counted or plan.ranks or base_name(allocation) in MEASURED:
        return plan
    competing = [
        unit for unit in ranking.units if forced_share(unit, ranking.limits) is None
    ]
    ordered = bound(ALLOCATIONS, allocation)(competing, ranking.coupling)
    gone = {group: set(channels) for group, channels in plan.remove.items()}
    taken = [step for step in ordered if _is_gone(step, gone)]
    for step in _given_back(ranking, budget, plan, taken[::-1]):
        for group, channels in step.gone.items():
            gone[group] -= set(channels)
    remove = {group: sorted(channels) for group, channels in gone.items()}
    if remove == {group: list(channels) for group, channels in plan.remove.items()}:
        return plan
    return make_plan(ranking.coupling, remove, plan.provenance)


def _is_gone(step: Step, gone: dict[str, set[int]]) -> bool:
    return all(gone.get(group, set()) >= set(part) for group, part in step.gone.items())


def _given_back(
    ranking: Ranking, budget: Budget, plan: Plan, steps: Sequence[Step]
) -> list[Step]:
    """The steps that come back, of those that were taken, the last first.

    Between two steps that cannot come back, how many can is found by bisection: more channels never cost less.
    """
    meter = Meter(ranking.coupling)
    bounds = budget.bounds(meter.original)
    back: list[Step] = []

    def fits(extra: Sequence[Step]) -> bool:
        kept = collect([*back, *extra])
        removed = {
            group: sorted({*channels} - {*kept.get(group, ())})
            for group, channels in plan.remove.items()
        }
        cost = meter.measure(removed)
        return all(getattr(cost, kind) <= most for kind, most in bounds.items())

    waiting = list(steps)
    while waiting:
        low, high = 0, len(waiting)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if fits(waiting[:middle]) else (low, middle - 1)
        back += waiting[:low]
        if low == len(waiting):
            break
        blocked = waiting[low].unit
        waiting = [step for step in waiting[low + 1 :] if step.unit != blocked]
    return back

"""Allocations: in which order channels go, over all groups.

An allocation brings the steps of all units (`selection.units`: most often groups, a few channels a step) into
one order. A budget then takes the shortest prefix of the steps that meets it, and gives back what it does not need of
them (`selection.slack`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np

from prunegraph.coupling.coupling import Coupling
from prunegraph.errors import BudgetError, DataError
from prunegraph.ops.cost import Cost
from prunegraph.options import base_name, bound
from prunegraph.registry import Registry
from prunegraph.selection.budget import Budget, Meter, unmet
from prunegraph.selection.normalise import Norm, normalised
from prunegraph.selection.slack import given_back
from prunegraph.selection.structure import structures
from prunegraph.selection.units import (
    Limits,
    Step,
    Unit,
    collect,
    forced_share,
    up_to,
)

Array = np.ndarray


#: `(units, coupling) -> steps`: brings the steps of all units into the order in which they are taken; a unit's
#: steps keep theirs. Keyword-only parameters are options (`prunegraph.options`).
Allocation = Callable[..., list[Step]]
ALLOCATIONS: Registry[Allocation] = Registry("allocation")

#: Allocations that measure a curve for each unit, which `selection.knapsack` then shares the budget by.
MEASURED = ("damage", "sensitivity")

#: Allocations whose choices compete by their damage, where that can be measured and none is asked for.
COMPETING = ("damage", "damage:power=0.5", "isomorphic")

#: What a score may be divided by: nothing, or the part of a cost that a channel saves.
Per = Literal["channel", "macs", "params", "bytes"]


@ALLOCATIONS.register("uniform")
def uniform(units: Sequence[Unit], coupling: Coupling) -> list[Step]:
    """Every group loses the same share."""
    steps = [step for unit in units for step in unit.steps]
    return sorted(steps, key=lambda step: step.share)


@ALLOCATIONS.register("global")
def globally(
    units: Sequence[Unit],
    coupling: Coupling,
    *,
    norm: Norm = "mean",
    per: Per = "channel",
) -> list[Step]:
    """Lowest scores first, wherever they are, normalised in each group; `per` divides them by what a channel saves."""
    saved = _saved(units, coupling, per)
    comparable: dict[str, Array] = {}
    steps, keys = [], []
    for unit in units:
        highest = -math.inf
        for step in unit.steps:
            for group, scores in step.scores.items():
                if group not in comparable:
                    comparable[group] = normalised(scores, norm)
            # A unit's steps keep their order. One that removes no channels has no score: it comes last.
            highest = max(highest, _mean(step, comparable) / saved[unit.id])
            steps.append(step)
            keys.append(highest)
    return [steps[i] for i in sorted(range(len(steps)), key=lambda i: keys[i])]


def _mean(step: Step, scores: Mapping[str, Array]) -> float:
    """The mean score of the channels that go with a step."""
    gone = [scores[group][list(channels)] for group, channels in step.gone.items()]
    return float(np.concatenate(gone).mean()) if step.count else math.inf


def _saved(units: Sequence[Unit], coupling: Coupling, per: Per) -> dict[str, float]:
    """Say what a channel of each unit saves of the whole network's cost, while the others are as they were."""
    first = {unit.id: unit.steps[0] for unit in units if unit.steps}
    if per == "channel":
        return dict.fromkeys(first, 1.0)
    meter = Meter(coupling)
    whole, least = float(getattr(meter.original, per)), np.finfo(float).tiny
    remaining = {
        unit: float(getattr(meter.measure(step.gone), per)) for unit, step in first.items()
    }
    return {
        unit: max((whole - remaining[unit]) / whole / max(step.count, 1), least)
        for unit, step in first.items()
    }


@ALLOCATIONS.register("isomorphic")
def isomorphic(
    units: Sequence[Unit], coupling: Coupling, *, norm: Norm = "mean"
) -> list[Step]:
    """Groups of one structure are ranked together; every structure loses the same share (Fang et al. 2024)."""
    structure = structures(coupling)
    kinds = {
        unit.id: "+".join(sorted({structure[group] for group in unit.groups}))
        for unit in units
    }
    competing = {group for unit in units for group in unit.groups}
    sizes: dict[str, int] = {}
    for kind, channels in (
        *((kinds[unit.id], unit.channels) for unit in units),
        *(
            (structure[group.id], group.channels)
            for group in coupling.groups
            if group.id not in competing
        ),
    ):
        sizes[kind] = sizes.get(kind, 0) + channels
    gone = dict.fromkeys(sizes, 0)
    keys = []
    ranked = globally(units, coupling, norm=norm)
    for step in ranked:
        kind = kinds[step.unit]
        gone[kind] += step.count
        keys.append(gone[kind] / sizes[kind])
    return [ranked[i] for i in sorted(range(len(ranked)), key=lambda i: keys[i])]


@ALLOCATIONS.register("damage")
def damage(units: Sequence[Unit], coupling: Coupling, *, power: float = 1.0) -> list[Step]:
    """Least damage at the outputs, measured for every group (needs data); below 1, `power` spreads it less evenly."""
    raise DataError("allocation 'damage' needs data: give --data FILE (unlabelled inputs)")


@ALLOCATIONS.register("sensitivity")
def sensitivity(units: Sequence[Unit], coupling: Coupling) -> list[Step]:
    """Widths with the smallest sum of measured errors (needs data; see `selection.knapsack`)."""
    raise DataError(
        "allocation 'sensitivity' needs data: give --data FILE (unlabelled inputs)"
    )


def allocate(
    coupling: Coupling,
    units: Sequence[Unit],
    budget: Budget,
    limits: Limits,
    allocation: str = "uniform",
) -> dict[str, Array]:
    """What to remove so that the budget is met.

    Raises:
        BudgetError: the budget cannot be met within the limits.
        UnknownNameError: no such allocation, or it has no such option.
        OptionError: an option cannot have that value.
    """
    forced: list[Step] = []
    competing: list[Unit] = []
    for unit in units:
        share = forced_share(unit, limits)
        if share is None:
            competing.append(unit)
        else:
            forced += up_to(unit.steps, share)
    free = bound(ALLOCATIONS, allocation)(competing, coupling)
    if budget.ratio == "auto":
        return collect(forced)
    if budget.ratio is not None:
        total = sum(unit.channels for unit in competing)
        return collect([*forced, *_take_ratio(free, budget.ratio, allocation, total)])
    return collect([*forced, *_take_bound(coupling, forced, free, budget)])


def _take_ratio(
    steps: Sequence[Step], ratio: float, allocation: str, total: int
) -> list[Step]:
    """Uniform: that share of each unit. Otherwise: that share of all channels, `total`, together."""
    if base_name(allocation) == "uniform":
        return up_to(steps, ratio)
    taken, gone = [], 0
    for step in steps:
        gone += step.count
        if gone > ratio * total + 1e-9:
            break
        taken.append(step)
    return taken


def _take_bound(
    coupling: Coupling, forced: Sequence[Step], free: Sequence[Step], budget: Budget
) -> list[Step]:
    """The shortest prefix of the steps whose costs are at or below all bounds, without those it does not need."""
    if budget.latency is not None:
        raise BudgetError(
            "a latency budget is met by measuring, in prunegraph.latency; selection alone runs nothing"
        )
    meter = Meter(coupling)
    bounds = budget.bounds(meter.original)

    def remaining_of(count: int) -> Cost:
        return meter.measure(collect([*forced, *free[:count]]))

    error = unmet(budget, remaining_of(len(free)), meter.original)
    if error is not None:
        raise error
    low, high = 0, len(free)
    while low < high:
        middle = (low + high) // 2
        remaining = remaining_of(middle)
        is_met = all(getattr(remaining, kind) <= bound for kind, bound in bounds.items())
        low, high = (low, middle) if is_met else (middle + 1, high)
    return given_back(meter, forced, free[:low], bounds)

"""Widths of all units with the smallest sum of errors within a cost: a knapsack over measured sensitivities.

Each unit (`selection.units`, most often a group) has options (how many of its channels go), each with
an error, measured or read off a measured curve. Where costs add up, a dynamic programme over the Pareto front of (cost,
error) is exact. MACs of coupled layers do not add up (a layer costs its inputs times its outputs), so
costs are made additive around the present choice, solved exactly, measured for real, and
that is repeated until the choice stays. Source: ALGORITHMS 6.2; the iteration is HALP's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import numpy as np

from prunegraph.coupling.coupling import Coupling
from prunegraph.errors import BudgetError
from prunegraph.selection.budget import Budget, Meter, unmet
from prunegraph.selection.pieces import Clock, Pieces
from prunegraph.selection.units import (
    Limits,
    Removal,
    Step,
    Unit,
    collect,
    forced_share,
    up_to,
)

Array = np.ndarray

#: Error by the share of a group's channels that is gone.
Curve = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Option:
    """How far a unit goes: the steps that are taken."""

    steps: tuple[Step, ...]

    @property
    def removal(self) -> dict[str, Array]:
        """What goes then."""
        return collect(self.steps)

    @property
    def count(self) -> int:
        """Channels that go."""
        return sum(step.count for step in self.steps)


@dataclass(frozen=True)
class TimeBound:
    """A bound on the sum of what layers take.

    Args:
        clock: times layers.
        whole: milliseconds of all of them before anything is removed.
        most: milliseconds that may be left.
    """

    clock: Clock
    whole: float
    most: float


#: What a choice of options costs in all.
Measure = Callable[[Sequence[int]], float]

#: Options of one unit at most; more are thinned out evenly.
OPTIONS = 64

#: Points of a Pareto front at most. Fewer points keep their exact cost, so a bound is met all the same.
RESOLUTION = 2048

#: Bins of costs in which points are looked at before they are sorted.
BINS = 4096

#: Times that coupled costs are made additive again.
ROUNDS = 12

#: Relative slack for rounding.
ROUNDING = 1e-12


def choose(
    costs: Sequence[Array],
    errors: Sequence[Array],
    bound: float,
    resolution: int = RESOLUTION,
) -> list[int] | None:
    """One option of each group, so that the costs add up to at most `bound` and the errors to as little as possible.

    Args:
        costs: costs of the options, for each group; any sign.
        errors: errors of the same options.
        bound: what the costs may add up to.
        resolution: points of the Pareto front that are kept; exact as long as it does not have more.

    Returns:
        An option for each group; None if the cheapest ones cost too much.
    """
    limit = bound + ROUNDING * (abs(bound) + sum(float(abs(c).max()) for c in costs))
    # What the groups that are still to come cost at least.
    rest = np.append(np.cumsum([c.min() for c in costs][::-1])[::-1], 0.0)
    cost, error = np.zeros(1), np.zeros(1)
    steps: list[tuple[Array, int]] = []
    for index, (more, worse) in enumerate(zip(costs, errors, strict=True)):
        points = len(cost)
        # One option after the other: each is a run of rising cost, which is what a merging sort is quick at.
        cost, error = (
            np.add.outer(a, b).ravel() for a, b in ((more, cost), (worse, error))
        )
        kept = _front(cost, error, limit - rest[index + 1], resolution)
        if not len(kept):
            return None
        cost, error = cost[kept], error[kept]
        steps.append((kept, points))
    at = int(error.argmin())
    result = []
    for kept, points in reversed(steps):
        option, at = divmod(int(kept[at]), points)
        result.append(option)
    return result[::-1]


def _front(cost: Array, error: Array, limit: float, resolution: int) -> Array:
    """Indices of points within the limit for which no cheaper one is as good, by rising cost."""
    within = _promising(cost, error, np.flatnonzero(cost <= limit))
    order = within[np.argsort(cost[within], kind="stable")]
    best = np.minimum.accumulate(error[order])
    order = order[np.append(True, error[order][1:] < best[:-1])[: len(order)]]
    if len(order) <= resolution:
        return order
    low, high = cost[order[0]], cost[order[-1]]
    bins = ((cost[order] - low) / (high - low) * (resolution - 2)).astype(np.int64)
    last = np.append(bins[1:] != bins[:-1], True)
    last[0] = True
    return order[last]


def _promising(cost: Array, error: Array, points: Array) -> Array:
    """Points without most of those for which a cheaper one is as good: to sort takes longer than to look at them.

    A point of a bin of costs is cheaper than all points of the bins behind it.
    """
    if len(points) <= 2 * BINS:
        return points
    costs, errors = cost[points], error[points]
    low = costs.min()
    width = (costs.max() - low) / BINS
    if not width > 0:
        return points
    bins = np.minimum((costs - low) / width, BINS).astype(np.int64)
    # The least error of the bins before each.
    least = np.full(BINS + 2, np.inf)
    np.minimum.at(least, bins + 1, errors)
    np.minimum.accumulate(least, out=least)
    return points[(errors < least[bins]) | (bins == 0)]


def choose_coupled(
    measure: Measure,
    errors: Sequence[Array],
    bound: float,
    starts: Sequence[list[int]] = (),
) -> list[int] | None:
    """The same for costs that do not add up.

    Args:
        measure: what a choice costs in all. More of a higher option never costs more.
        errors: errors of the options of each group; the first option is free of error, the last the cheapest.
        bound: what may be spent.
        starts: choices to begin from, besides nothing at all and the same share everywhere.

    Returns:
        An option for each group that is measured to be within the bound; None if there is none.
        Exact for costs that add up, otherwise a choice that no further round has improved.
    """
    allowed = bound + ROUNDING * abs(bound)
    known = cache(measure)

    def once(result: Sequence[int]) -> float:
        return known(tuple(result))

    even = _even(once, errors, allowed)
    if even is None:
        return None
    results = [
        even,
        *(
            _settle(once, errors, allowed, start)
            for start in ([0] * len(errors), even, *starts)
        ),
    ]
    best = min(
        (match for match in results if match is not None),
        key=lambda result: _sum(errors, result),
    )
    return _give_back(once, errors, allowed, best)


def _even(measure: Measure, errors: Sequence[Array], bound: float) -> list[int] | None:
    """The same share of the options everywhere, as little as the bound asks for."""

    def at(tick: int) -> list[int]:
        return [-(-tick * (len(each) - 1) // OPTIONS) for each in errors]

    return next(
        (at(tick) for tick in range(OPTIONS + 1) if measure(at(tick)) <= bound), None
    )


def _settle(
    measure: Measure, errors: Sequence[Array], bound: float, start: list[int]
) -> list[int] | None:
    """Solve with costs made additive around the last solution, until it stays."""
    now, best, slack = start, None, 0.0
    seen: list[list[int]] = []
    for _ in range(ROUNDS):
        base = measure(now)
        costs = [
            _alternatives(measure, now, index, len(each)) - base
            for index, each in enumerate(errors)
        ]
        result = choose(costs, errors, bound - slack - base)
        if result is None:
            break
        real = measure(result)
        if real <= bound and (best is None or _sum(errors, result) < _sum(errors, best)):
            best = result
        if result in seen:
            if real <= bound:
                break
            # It goes round in circles outside the bound: ask for more than is needed.
            slack += real - bound
        seen.append(result)
        now = result
    return best


def _give_back(
    measure: Measure, errors: Sequence[Array], bound: float, match: list[int]
) -> list[int]:
    """Lower options where the bound has room, the worst errors first: also what went for nothing comes back."""
    for index in sorted(range(len(match)), key=lambda i: -errors[i][match[i]]):
        lower = (
            [*match[:index], option, *match[index + 1 :]] for option in range(match[index])
        )
        match = next((each for each in lower if measure(each) <= bound), match)
    return match


def _alternatives(measure: Measure, now: list[int], index: int, count: int) -> Array:
    """Say what a choice costs with another option of one group."""
    return np.asarray(
        [measure([*now[:index], option, *now[index + 1 :]]) for option in range(count)],
        np.float64,
    )


def _sum(errors: Sequence[Array], result: Sequence[int]) -> float:
    return float(sum(each[option] for each, option in zip(errors, result, strict=True)))


def error_at(curve: Curve, shares: Array) -> Array:
    """Errors at shares of a group's channels: between measured points straight, never falling, 0 at 0.

    Beyond the last point it rises as in the last stretch, or as on average if that is steeper.
    """
    points = sorted((share, error) for share, error in curve if share > 0)
    x = np.asarray([0.0, *(share for share, _ in points)])
    y = np.maximum.accumulate([0.0, *(error for _, error in points)])
    values = np.interp(shares, x, y)
    if len(x) < 2:
        return values
    last = (y[-1] - y[-2]) / (x[-1] - x[-2]) if x[-1] > x[-2] else 0.0
    return values + np.maximum(shares - x[-1], 0) * max(last, y[-1] / x[-1])


class Beside(Protocol):
    """What competes with channels and is none: each of it with options, of which the first is to leave it as it is."""

    @property
    def errors(self) -> Sequence[Array]:
        """Errors of the options of each; those of the first are 0."""

    def saving(
        self, kind: str, options: Mapping[str, Sequence[Removal]]
    ) -> Callable[[Mapping[str, int], Sequence[int]], float]:
        """What some options save of a cost, beside what units of channels have chosen of their own options."""


def allocate(
    coupling: Coupling,
    units: Sequence[Unit],
    budget: Budget,
    limits: Limits,
    curves: Mapping[str, Curve],
    starts: Sequence[Collection[str]] = (),
    time: TimeBound | None = None,
) -> dict[str, Array]:
    """What to remove so that the budget is met and the sum of the units' errors is small.

    Args:
        coupling: what can be pruned.
        units: what competes, and in which order its channels go.
        budget: a bound, or the share of all channels that goes at least, as far as the limits allow.
        limits: what has to be respected.
        curves: measured errors of each unit, by its id.
        starts: ids of units that go whole where a search begins, for several more searches.
        time: what a bound on latency, which is predicted, comes to; None leaves the latency to others.

    Raises:
        BudgetError: the budget cannot be met within the limits.
    """
    return allocate_beside(
        coupling, units, budget, limits, curves, starts=starts, time=time
    )[0]


def allocate_beside(
    coupling: Coupling,
    units: Sequence[Unit],
    budget: Budget,
    limits: Limits,
    curves: Mapping[str, Curve],
    beside: Beside | None = None,
    starts: Sequence[Collection[str]] = (),
    time: TimeBound | None = None,
) -> tuple[dict[str, Array], list[int]]:
    """The same where something competes with channels: what to remove, and an option for each of the others.

    `beside` is for bounds, not for a ratio, which counts channels. Raises as `allocate` does.
    """
    choices: dict[str, list[Option]] = {}
    free = []
    for unit in units:
        share = forced_share(unit, limits)
        if share is None:
            free.append(unit)
        shares = _shares(unit.steps) if share is None else [share]
        choices[unit.id] = [_option(unit, share) for share in shares]
    errors = [
        error_at(
            curves[unit.id],
            np.asarray([option.count / unit.channels for option in choices[unit.id]]),
        )
        for unit in free
    ]
    measures = _measures(coupling, budget, free, choices, time)
    if beside is not None:
        errors += beside.errors
        measures = [
            (_with_saving(measure, kind, free, choices, beside), bound)
            for kind, (measure, bound) in zip(budget.counted, measures, strict=True)
        ]
    last = [len(each) - 1 for each in errors]
    begun = [
        [len(choices[unit.id]) - 1 if unit.id in start else 0 for unit in free]
        + [0] * (len(errors) - len(free))
        for start in starts
    ]
    result = _choose_within(measures, errors, begun)
    if result is None and budget.ratio is None:
        meter = Meter(coupling)
        everything = _removal(free, choices, last[: len(free)])
        error = unmet(budget, meter.measure(everything), meter.original)
        raise error or BudgetError("the bounds cannot be met together")
    chosen = result or last
    return _removal(free, choices, chosen[: len(free)]), chosen[len(free) :]


def _with_saving(
    measure: Measure,
    kind: str,
    free: Sequence[Unit],
    choices: Mapping[str, Sequence[Option]],
    beside: Beside,
) -> Measure:
    """What a choice costs where something beside channels saves a part of it."""
    saving = beside.saving(
        kind, {unit: [option.removal for option in each] for unit, each in choices.items()}
    )
    fixed, count = dict.fromkeys(choices, 0), len(free)

    def cost(result: Sequence[int]) -> float:
        units = {unit.id: option for unit, option in zip(free, result[:count], strict=True)}
        return measure(result[:count]) - saving({**fixed, **units}, result[count:])

    return cost


def _choose_within(
    measures: Sequence[tuple[Measure, float]],
    errors: Sequence[Array],
    starts: Sequence[list[int]] = (),
) -> list[int] | None:
    """The best choice within several bounds: what meets the others too when one is met, or all at once."""

    def worst(result: Sequence[int]) -> float:
        """What a choice costs of the bound it comes nearest to."""
        return max(measure(result) / bound for measure, bound in measures)

    if len(measures) == 1:
        return choose_coupled(measures[0][0], errors, measures[0][1], starts)
    tried = [choose_coupled(measure, errors, bound, starts) for measure, bound in measures]
    results = [*tried, choose_coupled(worst, errors, 1.0, starts)]
    met = [each for each in results if each is not None and worst(each) <= 1 + ROUNDING]
    return min(met, key=lambda each: _sum(errors, each), default=None)


def _measures(
    coupling: Coupling,
    budget: Budget,
    free: Sequence[Unit],
    choices: Mapping[str, Sequence[Option]],
    time: TimeBound | None,
) -> list[tuple[Measure, float]]:
    """How the costs of a choice are measured, and what each may be."""
    if budget.ratio == "auto":
        raise BudgetError(
            "ratio 'auto' is the algorithm's own choice: it leaves nothing for an allocation to share"
        )
    if budget.ratio is not None:
        total = sum(unit.channels for unit in free)
        sizes = [[option.count for option in choices[unit.id]] for unit in free]

        def remaining(result: Sequence[int]) -> float:
            gone = (each[option] for each, option in zip(sizes, result, strict=True))
            return total - sum(gone)

        return [(remaining, (1 - budget.ratio) * total)]
    meter = Meter(coupling)
    now = meter.measure({})
    counted = [
        (_cost(coupling, kind, free, choices, float(getattr(now, kind))), bound)
        for kind, bound in budget.bounds(meter.original).items()
    ]
    if budget.latency is None:
        return counted
    whole, most = (time.whole, time.most) if time is not None else (0.0, 0.0)
    clock = time.clock if time is not None else None
    return [*counted, (_cost(coupling, "latency", free, choices, whole, clock), most)]


def _cost(
    coupling: Coupling,
    kind: str,
    free: Sequence[Unit],
    choices: Mapping[str, Sequence[Option]],
    whole: float,
    clock: Clock | None = None,
) -> Measure:
    """What a choice costs in one quantity, of which there is so much. Raises BudgetError for what nobody counts."""
    pieces = Pieces(
        coupling,
        kind,
        {unit: [option.removal for option in each] for unit, each in choices.items()},
        clock,
    )
    untouched = whole - pieces.original
    fixed = dict.fromkeys(choices, 0)

    def measure(result: Sequence[int]) -> float:
        chosen = {
            **fixed,
            **{unit.id: option for unit, option in zip(free, result, strict=True)},
        }
        return untouched + pieces.measure(chosen)

    return measure


def _removal(
    free: Sequence[Unit], choices: Mapping[str, Sequence[Option]], result: Sequence[int]
) -> dict[str, Array]:
    """What goes: of units with a ratio of their own what that says, of the others what was chosen."""
    chosen = {unit.id: option for unit, option in zip(free, result, strict=True)}
    return collect(
        step for unit, each in choices.items() for step in each[chosen.get(unit, 0)].steps
    )


def _shares(steps: Sequence[Step]) -> list[float]:
    """Shares of a unit that can go: none, and at most `OPTIONS` of its steps, the last among them."""
    count = min(len(steps), OPTIONS)
    return [
        0.0,
        *(steps[-(-len(steps) * (i + 1) // count) - 1].share for i in range(count)),
    ]


def _option(unit: Unit, share: float) -> Option:
    return Option(tuple(up_to(unit.steps, share)))

"""A latency shared among groups by damage: channels go where they do least of it at the outputs for the time they save.

Layers are timed at several widths (`latency.times`), and a knapsack over measured damage bounds the sum of these times
instead of MACs. What is predicted of it is measured as for any other plan. Source: ALGORITHMS 9.4.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial

from prunegraph.coupling.survivors import Survivors
from prunegraph.errors import BudgetError
from prunegraph.latency.bench import CLOSE, MOST, Bench, Path, TimedPlan
from prunegraph.latency.times import LayerTimes
from prunegraph.selection.budget import Budget
from prunegraph.selection.knapsack import TimeBound
from prunegraph.selection.select import Ranking
from prunegraph.selection.units import Contender

#: Allocations that share time, by their measured curves.
ALLOCATIONS = ("damage", "damage:power=0.5")

#: Plans asked for before one is near enough to an aim, at most.
ASKED = 4

#: How far stronger plans go, as a part of the predicted latency, and how many there are.
FURTHER, STEPS = 0.3, 20

#: Sums of times are as good as equal within this share.
SLACK = 1e-9


@dataclass(frozen=True)
class PathOfTime:
    """Plans in the order of their predicted latency.

    Args:
        ranking: scored channels, with the damage of each group.
        bench: times layers.
        allocation: how damage is weighed, one of `ALLOCATIONS`.
        others: bounds that are met besides.
    """

    ranking: Ranking
    bench: Bench
    allocation: str
    others: Budget | None = None

    def at(self, share: float) -> TimedPlan:
        """The plan of the least damage with a share of the predicted latency. Raises BudgetError."""
        most = share * self.bench.whole - self._apart
        if most < 0:
            raise BudgetError("what is no layer takes longer than that")
        budget = replace(self.others or Budget(latency=1.0), latency=min(share, 1.0))
        time = TimeBound(self._clock, self._layers, most * (1 + SLACK))
        return self.bench.candidate(self.ranking.by(self.allocation, budget, time))

    def strongest(self) -> TimedPlan:
        """The plan that removes all that may go."""
        return self.bench.candidate(self.ranking.by(self.allocation, Budget(ratio=MOST)))

    def stronger(self, start: TimedPlan) -> Iterator[TimedPlan]:
        """Stronger plans, the nearest first, down to a part of the predicted latency."""
        for part in range(1, STEPS + 1):
            try:
                yield self.at(start.predicted * (1 - FURTHER * part / STEPS))
            except BudgetError:  # nothing more can go
                return

    def weaker(self, start: TimedPlan, count: int, reach: float) -> Iterator[TimedPlan]:
        """Some weaker plans, the nearest first, up to a part of the way back to the whole model."""
        for part in range(1, count + 1):
            yield self.at(start.predicted + (1 - start.predicted) * reach * part / count)

    def between(self, aim: float, low: TimedPlan, high: TimedPlan) -> TimedPlan | None:
        """The plan between two others whose predicted latency is nearest to an aim; None where there is none."""
        result = list(self._probe(aim, low, high))
        return min(result, key=lambda each: abs(each.predicted - aim), default=None)

    def _probe(self, aim: float, low: TimedPlan, high: TimedPlan) -> Iterator[TimedPlan]:
        """Plans between two others, nearer and nearer to an aim: what is interpolated is not quite what is timed."""
        share = aim
        for _ in range(ASKED):
            if not low.predicted < share < high.predicted:
                return
            try:
                now = self.at(share)
            except BudgetError:
                return
            if not low.predicted < now.predicted < high.predicted:
                return
            yield now
            if abs(now.predicted - aim) <= CLOSE * aim:
                return
            share *= aim / now.predicted

    @cached_property
    def _clock(self) -> partial[LayerTimes]:
        return partial(LayerTimes, self.bench.table)

    @property
    def _apart(self) -> float:
        """Milliseconds of a run that are no layer's."""
        return self.bench.table.idle

    @cached_property
    def _layers(self) -> float:
        """Milliseconds of all layers that are there before channels go."""
        table = self.bench.table
        return table.predict(Survivors(self.ranking.coupling, {})) - self._apart


def least_damage(
    paths: Mapping[str, Path], ranking: Ranking, aim: float
) -> dict[str, float]:
    """The damage of what each path comes to near a predicted latency, by its name; of those that come there at all.

    It is measured behind the repair where the ranking has a trial: MACs and time take different channels, and what a
    repair makes up for differs more than what is compared.
    """
    plans = {}
    for name, path in paths.items():
        try:
            plans[name] = _near(path, aim)
        except BudgetError:
            continue
    if not plans:
        return {}
    measure = ranking.trial or ranking.damage
    assert measure is not None
    contenders = [Contender(each.plan.removal) for each in plans.values()]
    return dict(zip(plans, map(float, measure(contenders)), strict=True))


def _near(path: Path, aim: float) -> TimedPlan:
    """A path's plan whose predicted latency is nearest to an aim, the strongest one where none is between."""
    low, high = path.strongest(), path.at(1.0)
    return high if high.predicted <= aim else path.between(aim, low, high) or low


def correction(bench: Bench, paths: Iterable[Path], aim: float) -> float:
    """Measured over predicted latency of a plan near the aim, of the first path that has one; 1 where none has."""
    for path in paths:
        try:
            return bench.measure(_near(path, aim), lambda each: False).correction
        except BudgetError:
            continue
    return 1.0

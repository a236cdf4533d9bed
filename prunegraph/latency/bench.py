"""Plans of more and less strength, with their latency: predicted by the table, and measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from prunegraph.coupling.coupling import Coupling
from prunegraph.coupling.survivors import Survivors
from prunegraph.errors import BudgetError
from prunegraph.latency.cache import Cache
from prunegraph.latency.layers import LayerTable
from prunegraph.measuring.latency import Latency, Timer
from prunegraph.rewriting.cut import cut
from prunegraph.selection.budget import Budget, Meter
from prunegraph.selection.plan import Plan, make_plan, survivors

#: Gives a plan for a budget on MACs or a ratio. Raises BudgetError.
Planner = Callable[[Budget], Plan]

#: Plans predicted before one is chosen, at most, and how close to the aim is good enough.
PREDICTIONS, CLOSE = 8, 0.01

#: Pairs of sessions for a figure that may become the result.
PAIRS = 4

#: The ratio that removes all that may go.
MOST = 1 - 1e-9

#: A bound just below a plan's own MACs: the plan one step further meets it.
JUST_BELOW = 1 - 1e-9


@dataclass(frozen=True)
class TimedPlan:
    """A plan with its shares of the original's MACs and latency: predicted by the table, and measured.

    `note` says where it is not what was asked for.
    """

    plan: Plan
    macs: float
    predicted: float
    latency: Latency | None = None
    note: str = ""

    @property
    def measured(self) -> float:
        """Share of the original's latency; only where it was measured."""
        assert self.latency is not None
        return self.latency.kept

    @property
    def correction(self) -> float:
        """Measured over predicted latency, 1 where nothing was measured."""
        return self.measured / self.predicted if self.latency is not None else 1.0


class Bench:
    """Predicts and measures plans of one graph."""

    def __init__(self, coupling: Coupling, timer: Timer, cache: Cache):
        self.coupling, self.timer = coupling, timer
        self.table, self._meter = LayerTable(coupling, timer, cache), Meter(coupling)
        self.whole = self.table.predict(Survivors(coupling.whole, {}))
        if not self.whole or not self._meter.original.macs:
            raise BudgetError(
                f"{coupling.graph.source}: has no layer that can be timed by itself; use another budget"
            )

    def candidate(self, plan: Plan) -> TimedPlan:
        """A plan with its predicted latency."""
        survivors = Survivors(self.coupling, plan.removal)
        macs = self._meter.measure(plan.removal).macs / self._meter.original.macs
        return TimedPlan(plan, macs, self.table.predict(survivors) / self.whole)

    def like(
        self, plan: Plan, remove: Mapping[str, Sequence[int] | np.ndarray]
    ) -> TimedPlan:
        """A plan of the same origin that removes something else."""
        return self.candidate(make_plan(self.coupling, remove, plan.provenance))

    def measure(self, candidate: TimedPlan, near: Callable[[TimedPlan], bool]) -> TimedPlan:
        """Cut the model and measure it against the original: in a pair of sessions, in several if it is `near`."""
        pruned = cut(survivors(self.coupling, candidate.plan))
        result = replace(candidate, latency=self.timer.against(pruned))
        return (
            replace(result, latency=self.timer.against(pruned, PAIRS))
            if near(result)
            else result
        )


class Path(Protocol):
    """Plans from the whole model down to what must stay, stronger and stronger. All raise BudgetError for none."""

    def at(self, share: float) -> TimedPlan:
        """The plan of a strength: 1 is the weakest."""

    def strongest(self) -> TimedPlan:
        """The plan that removes all that may go."""

    def stronger(self, start: TimedPlan) -> Iterator[TimedPlan]:
        """The next stronger plans, one step after the other."""

    def weaker(self, start: TimedPlan, count: int, reach: float) -> Iterator[TimedPlan]:
        """Some weaker plans, the nearest first, up to a part of the way back to the whole model."""

    def between(self, aim: float, low: TimedPlan, high: TimedPlan) -> TimedPlan | None:
        """The plan between two others whose predicted latency is nearest to an aim; None where there is none."""


class PathOfMacs:
    """Plans in the order of their MACs: any criterion and allocation can be asked for these."""

    def __init__(self, planner: Planner, bench: Bench):
        self._planner, self._bench = planner, bench

    def at(self, share: float) -> TimedPlan:
        """The plan for a share of the original's MACs. Raises BudgetError where that cannot be met."""
        return self._bench.candidate(self._planner(Budget(macs=share)))

    def strongest(self) -> TimedPlan:
        """The plan that removes all that may go."""
        return self._bench.candidate(self._planner(Budget(ratio=MOST)))

    def stronger(self, start: TimedPlan) -> Iterator[TimedPlan]:
        """The next stronger plans, one step after the other."""
        now = start
        while True:
            try:
                now = self.at(now.macs * JUST_BELOW)
            except BudgetError:  # nothing more can go
                return
            yield now

    def weaker(self, start: TimedPlan, count: int, reach: float) -> Iterator[TimedPlan]:
        """Some weaker plans, the nearest first, up to a part of the way back to the whole model."""
        for part in range(1, count + 1):
            yield self.at(start.macs + (1 - start.macs) * reach * part / count)

    def between(self, aim: float, low: TimedPlan, high: TimedPlan) -> TimedPlan | None:
        """The plan between two others whose predicted latency is nearest to an aim; None where there is none."""
        result = list(self._probe(aim, low, high))
        if not result:
            below = (
                self.at(high.macs * JUST_BELOW)
                if high.macs * JUST_BELOW > low.macs
                else low
            )
            result = [below] if below.macs > low.macs else []
        return min(result, key=lambda each: abs(each.predicted - aim), default=None)

    def _probe(self, aim: float, low: TimedPlan, high: TimedPlan) -> Iterator[TimedPlan]:
        """Plans between two others, nearer and nearer to an aim (regula falsi on the predicted latency)."""
        floor, first, second = low.macs, low, high
        for _ in range(PREDICTIONS):
            slope = second.predicted - first.predicted
            part = (aim - first.predicted) / slope if slope else 0.5
            share = floor + (second.macs - floor) * min(max(part, 0.1), 0.9)
            now = self.at(share)
            if now.macs <= first.macs:  # no plan has MACs between the two
                floor = share
                continue
            yield now
            if abs(now.predicted - aim) <= CLOSE * aim:
                return
            if now.predicted > aim:
                second = now
            else:
                floor, first = share, now

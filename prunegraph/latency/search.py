"""A latency budget: plans of more and less strength are cut and measured until one meets the bound.

Strength is a bound on MACs, so any criterion and any allocation can be asked for plans. The
table of layers predicts where the bound lies, the cut model is measured against the original,
the measurement corrects the prediction, and so on. Only the measurement counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from prunegraph.coupling.analysis import Coupling
from prunegraph.coupling.survivors import Survivors
from prunegraph.errors import BudgetError
from prunegraph.latency.cache import Cache
from prunegraph.latency.layers import LayerTable
from prunegraph.rewriting.cut import cut
from prunegraph.runtime.latency import Latency, Timer
from prunegraph.selection.budget import Budget, Meter
from prunegraph.selection.plan import Plan, survivors

#: Gives a plan for a budget on MACs or a ratio. Raises BudgetError.
Planner = Callable[[Budget], Plan]
Progress = Callable[[str], None]

#: A result is at most this share below its bound.
TOLERANCE = 0.05

#: The search ends early with a result at most this share below the bound, and aims in the middle of that.
NEAR, AIM = 0.04, 0.02

#: Whole models measured, and plans predicted before each of them, at most.
MEASUREMENTS, PREDICTIONS = 12, 8

#: A prediction this close to what was looked for is good enough to be measured.
CLOSE = 0.01

#: The ratio that removes all that may go.
MOST = 1 - 1e-9


@dataclass(frozen=True)
class Candidate:
    """A plan with its shares of the original's MACs and latency: predicted by the table, and measured."""

    plan: Plan
    macs: float
    predicted: float
    latency: Latency | None = None

    @property
    def measured(self) -> float:
        """Share of the original's latency; only where it was measured."""
        assert self.latency is not None
        return self.latency.kept


class Bench:
    """Predicts and measures plans of one graph."""

    def __init__(self, coupling: Coupling, timer: Timer, cache: Cache):
        self.coupling, self.timer = coupling, timer
        self._table, self._meter = LayerTable(coupling, timer, cache), Meter(coupling)
        self._whole = self._table.predict(Survivors(coupling, {}))
        if not self._whole or not self._meter.original.macs:
            raise BudgetError(f"{coupling.graph.source}: has no layer that ONNX Runtime can time; use another budget")

    def candidate(self, plan: Plan) -> Candidate:
        """A plan with its predicted latency."""
        left = Survivors(self.coupling, plan.remove)
        macs = self._meter.measure(plan.remove).macs / self._meter.original.macs
        return Candidate(plan, macs, self._table.predict(left) / self._whole)

    def measure(self, candidate: Candidate) -> Candidate:
        """Cut the model and measure it against the original."""
        small = cut(survivors(self.coupling, candidate.plan))
        return replace(candidate, latency=self.timer.against(small))


class Search:
    """Looks for a plan whose measured latency is at the bound or a little below it.

    Args:
        planner: gives plans.
        bench: predicts and measures them.
        bound: share of the original's latency, 0 < bound.
        progress: told what was measured.
    """

    def __init__(self, planner: Planner, bench: Bench, bound: float, progress: Progress = lambda stage: None):
        self.planner, self.bench, self.bound, self.progress = planner, bench, bound, progress

    def run(self) -> Candidate:
        """The plan, measured.

        Raises:
            BudgetError: no plan's measured latency is within `TOLERANCE` below the bound.
        """
        whole = self.bench.candidate(self.planner(Budget(macs=1.0)))
        if self.bound >= 1:
            return self._measure(whole)
        low, high = self.bench.candidate(self.planner(Budget(ratio=MOST))), whole
        best: Candidate | None = None
        correction = 1.0
        for _ in range(MEASUREMENTS):
            aim = self.bound * (1 - AIM) / correction
            chosen = self._between(aim, low, high)
            if chosen is None or (aim <= low.predicted and low.latency is None):
                if low.latency is not None:
                    break
                chosen = low
            chosen = self._measure(chosen)
            correction = chosen.measured / chosen.predicted
            if chosen.measured > self.bound:
                if chosen.plan.remove == low.plan.remove:
                    raise self._too_much(chosen)
                high = chosen
                continue
            low = chosen
            if chosen.measured >= self.bound * (1 - NEAR):
                return chosen
            if chosen.measured >= self.bound * (1 - TOLERANCE):
                best = chosen
        if best is None:
            raise self._too_coarse(low, high)
        return best

    def _measure(self, candidate: Candidate) -> Candidate:
        found = self.bench.measure(candidate)
        self.progress(f"latency: {found.measured:.3f} of the original measured, bound {self.bound:.3f}")
        return found

    def _between(self, aim: float, low: Candidate, high: Candidate) -> Candidate | None:
        """The plan between two others whose predicted latency is nearest to an aim; None where there is none."""
        found = list(self._probe(aim, low, high))
        if not found:
            below = self.bench.candidate(self.planner(Budget(macs=high.macs * (1 - 1e-9))))
            found = [below] if below.macs > low.macs else []
        return min(found, key=lambda each: abs(each.predicted - aim), default=None)

    def _probe(self, aim: float, low: Candidate, high: Candidate) -> Iterator[Candidate]:
        """Plans between two others, nearer and nearer to an aim (regula falsi on the predicted latency)."""
        floor, first, second = low.macs, low, high
        for _ in range(PREDICTIONS):
            slope = second.predicted - first.predicted
            part = (aim - first.predicted) / slope if slope else 0.5
            share = floor + (second.macs - floor) * min(max(part, 0.1), 0.9)
            now = self.bench.candidate(self.planner(Budget(macs=share)))
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

    def _too_much(self, least: Candidate) -> BudgetError:
        return BudgetError(
            f"latency cannot fall to {self.bound:.3f} of the original: with everything removed that may go "
            f"{least.measured:.3f} is measured; lower --round-to or --min-channels, or unprotect layers"
        )

    def _too_coarse(self, low: Candidate, high: Candidate) -> BudgetError:
        measured = [f"{each.measured:.3f}" for each in (low, high) if each.latency is not None]
        return BudgetError(
            f"no choice of channels was found with a latency within {TOLERANCE:.0%} below {self.bound:.3f} of the "
            f"original: the nearest measured {' and '.join(measured)}; lower --round-to, or ask for one of these"
        )

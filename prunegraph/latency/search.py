"""A latency budget: plans of more and less strength are cut and measured until one meets the bound.

Strength is a bound on MACs, so any criterion and any allocation can be asked for plans. The
table of layers predicts where the bound lies, the cut model is measured against the original,
the measurement corrects the prediction, and so on. Only the measurement counts. Where every plan
near the bound is above it, the nearest one below it is taken, and says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice

from prunegraph.errors import BudgetError
from prunegraph.latency.bench import Bench, Path, TimedPlan
from prunegraph.latency.blends import blends

Progress = Callable[[str], None]

#: A result is at most this share below its bound, if one is found there.
TOLERANCE = 0.05

#: The search ends early with a result at most this share below the bound, and aims in the middle of that.
NEAR, AIM = 0.04, 0.02

#: Whole models measured, at most.
MEASUREMENTS = 12

#: Where the next step jumps over the bound: plans of the path whose steps may come first, mixes
#: of them that are predicted, how many of these are measured, and how far back the path is looked at.
STEPS, MIXES, REFINEMENTS, REACH = 20, 60, 12, 0.3


class LatencySearch:
    """Looks for a plan whose measured latency is at the bound or a little below it.

    Args:
        path: gives plans of more and less strength.
        bench: predicts and measures them.
        bound: share of the original's latency, 0 < bound.
        label: what to call the bound in messages.
        progress: told what was measured.
        correction: measured over predicted latency of a plan that was measured before.
    """

    def __init__(
        self,
        path: Path,
        bench: Bench,
        bound: float,
        label: str,
        progress: Progress = lambda stage: None,
        correction: float = 1.0,
    ):
        self.bench, self.bound, self.label, self.progress = bench, bound, label, progress
        self.path, self.correction = path, correction
        self.measured: list[TimedPlan] = []

    def run(self, may_be_below: bool = False) -> TimedPlan:
        """The plan, measured.

        Args:
            may_be_below: whether the weakest plan will do if it is within the bound by itself, however far
                below: where it has other bounds to meet.

        It is the slowest one found within `TOLERANCE` below the bound, else the slowest one found below it: the
        plan's note says so then. One that removes no channel may be further below, too.

        Raises:
            BudgetError: the strongest plan is above the bound, or none stays below it when it is measured again.
        """
        whole = self.path.at(1.0)
        if self.bound >= 1:
            return self._measure(whole)
        # Branches that are gone may be enough.
        if may_be_below or whole.predicted <= self.bound:
            whole = self._measure(whole)
            if whole.measured <= self.bound:
                return whole
        low, high = self._bracket(self.path.strongest(), whole)
        if self._best(TOLERANCE) is None:
            self._refine(low, high)
        return self._best(TOLERANCE) or self._faster()

    def _bracket(self, low: TimedPlan, high: TimedPlan) -> tuple[TimedPlan, TimedPlan]:
        """Narrow two plans down until one is near the bound, or none is left between them.

        Raises:
            BudgetError: `low`, the strongest plan, is above the bound.
        """
        correction = self.correction
        for turn in range(MEASUREMENTS):
            aim = self._aim / correction
            chosen = self.path.between(aim, low, high)
            if low.latency is None and (
                chosen is None or aim <= low.predicted or turn == MEASUREMENTS - 1
            ):
                low = self._measure(low)
                if low.measured > self.bound:
                    raise self._too_much(low)
                correction = low.correction
            elif chosen is None:
                break
            else:
                chosen = self._measure(chosen)
                correction = chosen.correction
                low, high = (
                    (low, chosen) if chosen.measured > self.bound else (chosen, high)
                )
            if self._best(NEAR) is not None:
                break
        return low, high

    def _refine(self, low: TimedPlan, high: TimedPlan) -> None:
        """Measure plans with steps in another order, where the next one in order jumps over the bound."""
        corrections = {"stronger": high.correction, "weaker": low.correction}
        remaining = list(self._mixes(low, high))
        for _ in range(min(REFINEMENTS, len(remaining))):
            nearest = min(
                remaining,
                key=lambda each: abs(each[1].predicted * corrections[each[0]] - self._aim),
            )
            remaining.remove(nearest)
            origin, candidate = nearest
            corrections[origin] = self._measure(candidate).correction
            if self._best(TOLERANCE) is not None:
                return

    def _mixes(self, low: TimedPlan, high: TimedPlan) -> Iterator[tuple[str, TimedPlan]]:
        stronger = islice(self.path.stronger(high), STEPS)
        weaker = self.path.weaker(low, STEPS, REACH)
        for origin, start, others in (
            ("stronger", high, stronger),
            ("weaker", low, weaker),
        ):
            for remove in islice(blends(start.plan, [each.plan for each in others]), MIXES):
                yield origin, self.bench.like(start.plan, remove)

    @property
    def _aim(self) -> float:
        return self.bound * (1 - AIM)

    def _measure(self, candidate: TimedPlan) -> TimedPlan:
        return self._kept(
            self.bench.measure(
                candidate, lambda each: abs(each.measured / self._aim - 1) <= TOLERANCE
            )
        )

    def _measured_well(self, candidate: TimedPlan) -> TimedPlan:
        return self._kept(self.bench.measure(candidate, lambda each: True))

    def _kept(self, result: TimedPlan) -> TimedPlan:
        self.measured.append(result)
        self.progress(
            f"latency: {result.measured:.3f} of the original measured, bound {self.bound:.3f}"
        )
        return result

    def _best(self, tolerance: float) -> TimedPlan | None:
        """The measured plan nearest below the bound, if it is within the tolerance."""
        good = [
            each
            for each in self.measured
            if self.bound * (1 - tolerance) <= each.measured <= self.bound
        ]
        return max(good, key=lambda each: each.measured, default=None)

    def _faster(self) -> TimedPlan:
        """The slowest plan below the bound, however far. Raises BudgetError.

        It is measured again in several pairs of sessions: one pair is off by some percent.
        """
        below = [each for each in self.measured if each.measured <= self.bound]
        for candidate in sorted(below, key=lambda each: -each.measured):
            result = self._measured_well(candidate)
            if result.measured <= self.bound:
                return replace(result, note=self._note(result))
        raise BudgetError(
            f"no choice of channels was found whose latency stays below {self.label}: the nearest measured "
            f"{self._above:.3f} of the original; choose another --round-to, or ask for more"
        )

    def _note(self, result: TimedPlan) -> str:
        """Say how much faster a plan is than it was to be, and what would be too slow; "" where it is near enough."""
        if result.measured >= self.bound * (1 - TOLERANCE):
            return ""
        return (
            f"{result.measured:.3f} of the original is faster than {self.label}: the next slower choice that was "
            f"measured takes {self._above:.3f}"
        )

    @property
    def _above(self) -> float:
        """The share of the least latency measured above the bound; the original's where nothing was."""
        figures = (each.measured for each in self.measured)
        return min((figure for figure in figures if figure > self.bound), default=1.0)

    def _too_much(self, least: TimedPlan) -> BudgetError:
        return BudgetError(
            f"latency cannot fall to {self.label}: with everything removed that may go {least.measured:.3f} of the "
            "original is measured; lower --round-to or --min-channels, or unprotect layers"
        )

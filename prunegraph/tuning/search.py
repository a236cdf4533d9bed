"""Search: the largest cut whose metric stays within a tolerance of the original's, without fine-tuning.

The fast compression of source 001 around any criterion, allocation, budget and metric: see
`strength` for the first grid and `stages` for the second.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from prunegraph.coupling.branches import PREFIX
from prunegraph.errors import BudgetError, UnknownNameError
from prunegraph.ops.cost import Cost
from prunegraph.selection.budget import KINDS, Budget, Meter
from prunegraph.selection.plan import Plan, make_plan
from prunegraph.selection.select import Ranking
from prunegraph.tuning import stages as stage_grid
from prunegraph.tuning.evaluation import Trials
from prunegraph.tuning.strength import METHODS

FORMAT = "prunegraph/search@1"

#: Relative rounding error of a metric.
ROUNDING = 1e-12

#: What a strength can be a share of: of the channels, or of a cost.
MEASURES = ("ratio", *KINDS)


@dataclass(frozen=True)
class Goal:
    """What is searched for.

    Args:
        tolerance: how much worse the metric may be than the original's, in the metric's unit.
        method: a key of `strength.METHODS`.
        by: what a strength is the share of that goes: "macs", "params", "bytes", or "ratio"
            for channels.
        stages: whether the second grid follows.
    """

    tolerance: float
    method: str = "grid"
    by: str = "macs"
    stages: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.tolerance) and self.tolerance >= 0):
            raise BudgetError(
                f"tolerance must be a number of at least 0, got {self.tolerance:g}"
            )
        if self.method not in METHODS:
            raise UnknownNameError("search method", self.method, METHODS)
        if self.by not in MEASURES:
            raise UnknownNameError("measure of strength", self.by, MEASURES)

    def budget(self, strength: int) -> Budget:
        """The budget of a strength in hundredths."""
        share = strength / 100 if self.by == "ratio" else (100 - strength) / 100
        return Budget(**{self.by: share})


@dataclass(frozen=True)
class Trial:
    """One plan that was looked at.

    `strength` is in hundredths, `offsets` those of the stages in the second grid; `value` is
    the metric (None where the budget cannot be met), `loss` how much worse than the original's. `branches` is how many
    residual branches are gone.
    """

    strength: int
    offsets: tuple[float, ...]
    cost: Cost | None
    value: float | None
    loss: float | None
    accepted: bool
    branches: int = 0


@dataclass(frozen=True)
class SearchProgress:
    """A search on its way: what is searched for, the unpruned model's metric, and what was looked at so far."""

    goal: Goal
    metric: str
    unit: str
    original: float
    candidates: tuple[Trial, ...]


#: Gives the plan of a budget. Raises BudgetError.
Way = Callable[[Budget], Plan]

#: Is told of a search after every candidate.
SearchWatch = Callable[[SearchProgress], None]


@dataclass(frozen=True)
class SearchTrace:
    """The plan that was found, and the way to it.

    `original` is the unpruned model's metric, `sha256` that model's digest; "" is the one the plan is for.
    """

    plan: Plan
    best: Trial
    goal: Goal
    metric: str
    unit: str
    original: float
    candidates: tuple[Trial, ...]
    sha256: str = ""

    def to_json(self, source: str) -> dict[str, Any]:
        """The search as plain JSON; `source` names the model."""
        return {
            "format": FORMAT,
            "model": {"name": Path(source).name, "sha256": self.sha256 or self.plan.model},
            **asdict(self.goal),
            "metric": self.metric,
            "unit": self.unit,
            "original": self.original,
            "best": _json(self.best),
            "candidates": [_json(each) for each in self.candidates],
        }


def _loss(candidate: Trial) -> float:
    """How much worse a candidate is; infinitely where that is no number."""
    loss = candidate.loss
    return loss if loss is not None and not math.isnan(loss) else math.inf


def _json(candidate: Trial) -> dict[str, Any]:
    return {
        **asdict(candidate),
        "strength": candidate.strength / 100,
        "offsets": list(candidate.offsets),
    }


def find(
    trials: Trials,
    ranking: Ranking,
    goal: Goal,
    progress: Callable[[str], None],
    watch: SearchWatch | None = None,
    ways: Sequence[Way] | None = None,
) -> SearchTrace:
    """Search. `watch` is told after every candidate that was looked at.

    `ways` are several plans for each strength, of which the metric chooses one; None is that of the ranking.

    Raises:
        BudgetError: not even the smallest strength is accepted.
        PrunegraphError: a candidate cannot be made or measured.
    """
    if goal.stages and ranking.choice.same_width:
        raise BudgetError(
            "the second grid (stages) gives layers different widths: leave it or --same-width out"
        )
    search = _CutSearch(trials, ranking, goal, progress, watch, ways or [ranking.plan])
    best = METHODS[goal.method](search)
    plan = search.plans.get(best)
    if plan is None or plan.is_empty:
        raise BudgetError(search.nothing())
    chosen = search.candidates[best]
    if goal.stages:
        plan, chosen = search.second(plan, chosen)
    origin = {
        **plan.provenance,
        "search": {**asdict(goal), "metric": trials.metric.name, **_json(chosen)},
    }
    plan = replace(plan, provenance=origin)
    now = search.now
    return SearchTrace(
        plan, chosen, goal, now.metric, now.unit, now.original, now.candidates
    )


class _CutSearch:
    """Candidates by strength, made and measured when they are asked for."""

    def __init__(
        self,
        trials: Trials,
        ranking: Ranking,
        goal: Goal,
        progress: Callable[[str], None],
        watch: SearchWatch | None,
        ways: Sequence[Way],
    ):
        self.width = trials.width
        #: The best plan of each strength that was looked at.
        self.plans: dict[int, Plan] = {}
        #: What was looked at, in that order.
        self.candidates: dict[int, Trial] = {}
        self.combinations: list[Trial] = []
        self._trials, self._ranking, self._goal, self._progress = (
            trials,
            ranking,
            goal,
            progress,
        )
        self._meter = Meter(ranking.coupling)
        self._unmet: BudgetError | None = None
        self._watch, self._ways = watch, ways
        #: The plans of each strength, one for each way that meets its budget.
        self._planned: dict[int, list[Plan]] = {}

    @property
    def now(self) -> SearchProgress:
        """What was looked at so far."""
        metric = self._trials.metric
        looked = (*self.candidates.values(), *self.combinations)
        return SearchProgress(
            self._goal, metric.name, metric.unit, self._trials.original, looked
        )

    def fetch(self, strengths: Sequence[int]) -> None:
        names = ", ".join(f"{strength / 100:.2f}" for strength in strengths)
        self._progress(f"search: strength {names}")
        plans = [plan for strength in strengths for plan in self._plans(strength)]
        self._trials.measure([plan.removal for plan in plans])

    def accepts(self, strength: int) -> bool:
        if strength not in self.candidates:
            self.candidates[strength] = self._look(strength)
            self._tell()
        return self.candidates[strength].accepted

    def _look(self, strength: int) -> Trial:
        """The best candidate of a strength."""
        plans = self._plans(strength)
        if not plans:
            return Trial(strength, (), None, None, None, False)
        judged = [self._judge(strength, plan) for plan in plans]
        best = min(range(len(plans)), key=lambda i: _loss(judged[i]))
        self.plans[strength] = plans[best]
        return judged[best]

    def _plans(self, strength: int) -> list[Plan]:
        """The plans of a strength; none where its budget cannot be met."""
        if strength not in self._planned:
            self._planned[strength] = []
            for way in self._ways:
                try:
                    self._planned[strength].append(way(self._goal.budget(strength)))
                except BudgetError as error:
                    self._unmet = self._unmet or error
        return self._planned[strength]

    def _judge(self, strength: int, plan: Plan, offsets: tuple[float, ...] = ()) -> Trial:
        [value] = self._trials.measure([plan.removal])
        loss = self._trials.loss(value)
        # A NaN is no metric; its loss says so.
        shown = value if math.isfinite(value) else None
        cost = self._meter.measure(plan.removal)
        # 90.4 - 90.1 is a little more than 0.3.
        accepted = loss <= self._goal.tolerance + ROUNDING * abs(self._trials.original)
        return Trial(strength, offsets, cost, shown, loss, accepted, len(plan.branches))

    def _tell(self) -> None:
        if self._watch is not None:
            self._watch(self.now)

    def second(self, plan: Plan, chosen: Trial) -> tuple[Plan, Trial]:
        """The best combination of offsets around a plan, or the plan itself."""
        kind = self._goal.by if self._goal.by in KINDS else "macs"
        coupling = self._ranking.coupling
        gone = {PREFIX + name: (0,) for name in plan.branches}
        rest = replace(self._ranking, coupling=coupling.without(gone) if gone else coupling)
        grid = stage_grid.combinations(rest, plan.remove, kind)
        for start in range(0, len(grid), self.width):
            self._progress(
                f"search: stages, combination {start + 1} of at most {len(grid)}"
            )
            now = grid[start : start + self.width]
            self._trials.measure([{**each.remove, **gone} for each in now])
            for each in now:
                created = make_plan(coupling, {**each.remove, **gone}, plan.provenance)
                self.combinations.append(
                    self._judge(chosen.strength, created, each.offsets)
                )
                self._tell()
                if self.combinations[-1].accepted:
                    return created, self.combinations[-1]
        return plan, chosen

    def nothing(self) -> str:
        """Why nothing can go."""
        cut = [
            each
            for each in self.candidates.values()
            if each.cost not in (None, self._meter.original)
        ]
        if not cut:
            return str(
                self._unmet
                or "no channel can go at any strength that was tried; lower --round-to"
            )
        least = min(cut, key=lambda each: each.loss or 0.0)
        return (
            f"no cut stays within the tolerance of {self._goal.tolerance:g}: {self._trials.metric.name} is worse by "
            f"{least.loss:.4g} at strength {least.strength / 100:.2f}; raise --tolerance or lower --round-to"
        )

"""Sensitivity: what it costs to prune one group alone, at several ratios, or to drop one residual branch."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from prunegraph.coupling.branches import Branch
from prunegraph.coupling.groups import Group
from prunegraph.errors import BudgetError
from prunegraph.runtime.data import Data
from prunegraph.selection.budget import Meter
from prunegraph.selection.select import Ranking
from prunegraph.selection.units import Removal, channels_of, up_to
from prunegraph.tuning.evaluation import Study, Trials, trials

FORMAT = "prunegraph/sensitivity@1"

#: Shares of a group's channels that are removed where none are asked for.
RATIOS = (0.1, 0.25, 0.5, 0.75)

#: Shares of a group's channels that an allocation is measured at.
DENSE = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875)


@dataclass(frozen=True)
class Point:
    """One group with `removed` channels less, at most a share `ratio` of them; what is left of the model's cost then.

    `error` is how much worse the metric is than the original's: 0 is as good, higher is worse.
    """

    ratio: float
    removed: int
    macs: int
    params: int
    error: float


@dataclass(frozen=True)
class Curve:
    """Points of one group, by rising ratio."""

    id: str
    layers: tuple[str, ...]
    channels: int
    points: tuple[Point, ...]


@dataclass(frozen=True)
class DroppedBranch:
    """The model without one residual branch: what is left of its cost, and how much worse the metric is.

    `name` is that of the Add that ends the branch, `layers` are those that go with it.
    """

    name: str
    layers: tuple[str, ...]
    macs: int
    params: int
    error: float


@dataclass(frozen=True)
class Sensitivity:
    """Curves of all groups, in the order of the groups, and what branches cost where they were asked for.

    `original` is the metric of the unpruned model; `unit` is that of metric and errors ("" without). `rotated` says how
    many spaces of channels had another basis first.
    """

    model: str
    sha256: str
    metric: str
    unit: str
    original: float
    algorithm: str
    repair: str
    curves: tuple[Curve, ...]
    branches: tuple[DroppedBranch, ...] = ()
    rotated: int = 0

    def to_json(self) -> dict[str, Any]:
        """The sensitivity file's content."""
        return {
            "format": FORMAT,
            "model": {"name": Path(self.model).name, "sha256": self.sha256},
            "metric": self.metric,
            "unit": self.unit,
            "original": self.original,
            "algorithm": self.algorithm,
            "repair": self.repair,
            "rotated": self.rotated,
            "groups": [asdict(curve) for curve in self.curves],
            "branches": [asdict(branch) for branch in self.branches],
        }

    def shares(self) -> dict[str, list[tuple[float, float]]]:
        """By group id, the share of its channels that is gone and the error then; what an allocation reads."""
        return {
            c.id: [(point.removed / c.channels, point.error) for point in c.points]
            for c in self.curves
        }


def check_ratios(ratios: Sequence[float]) -> tuple[float, ...]:
    """Ratios that rise within 0 and 1. Raises BudgetError."""
    result = tuple(float(ratio) for ratio in ratios)
    if (
        not result
        or not all(0 < r < 1 and math.isfinite(r) for r in result)
        or any(a >= b for a, b in pairwise(result))
    ):
        text = ", ".join(f"{ratio:g}" for ratio in result)
        raise BudgetError(
            f"ratios must rise, and lie above 0 and below 1; got {text or 'none'}"
        )
    return result


#: Is told of a sensitivity after every candidate, with the points that were measured so far.
SensitivityWatch = Callable[[Sensitivity], None]


def measure(
    measured: Trials,
    ranking: Ranking,
    ratios: Sequence[float],
    repair: str,
    progress: Callable[[str], None],
    watch: SensitivityWatch | None = None,
    branches: Sequence[Branch] = (),
) -> Sensitivity:
    """Remove each ratio's lowest-scored channels of each group alone, and each of some branches, and measure.

    `watch` is told after every candidate that is new.
    """
    groups = _Curves(measured, ranking, ratios, repair)
    dropped = _Dropped(measured, ranking, branches)
    candidates = [*groups.removals, *dropped.removals]
    count = 0

    def result() -> Sensitivity:
        return replace(groups.result(), branches=dropped.result())

    def done() -> None:
        nonlocal count
        count += 1
        progress(f"sensitivity: {count} of at most {len(candidates)} candidates")
        if watch is not None:
            watch(result())

    measured.measure(candidates, done)
    return result()


class _Dropped:
    """Branches that go alone, as far as they are measured."""

    def __init__(self, measured: Trials, ranking: Ranking, branches: Sequence[Branch]):
        self._measured, self._branches = measured, branches
        self._meter = Meter(ranking.coupling)
        self.removals: list[Removal] = [{branch.id: (0,)} for branch in branches]

    def result(self) -> tuple[DroppedBranch, ...]:
        """Those that are measured, in the order of the network."""
        values = map(self._measured.known, self.removals)
        return tuple(
            DroppedBranch(
                branch.name,
                branch.layers,
                cost.macs,
                cost.params,
                self._measured.loss(value),
            )
            for branch, removal, value in zip(
                self._branches, self.removals, values, strict=True
            )
            if value is not None
            for cost in [self._meter.measure(removal)]
        )


class _Curves:
    """Points of all groups, as far as they are measured."""

    def __init__(
        self, measured: Trials, ranking: Ranking, ratios: Sequence[float], repair: str
    ):
        self._measured, self._ranking, self._repair = measured, ranking, repair
        groups = ranking.coupling.groups
        wanted = [(group, ratio) for group in groups for ratio in ratios]
        self.removals: list[Removal] = [
            {group.id: channels_below(ranking, group, ratio)} for group, ratio in wanted
        ]
        self._meter = Meter(ranking.coupling)
        self._points: dict[str, list[Point]] = {group.id: [] for group in groups}
        self._rest = deque(zip(wanted, self.removals, strict=True))

    def result(self) -> Sensitivity:
        """With the points that are measured, up to the first that is not."""
        rest, measured = self._rest, self._measured
        while rest and (value := measured.known(rest[0][1])) is not None:
            (group, ratio), remove = rest.popleft()
            cost, gone = self._meter.measure(remove), len(remove[group.id])
            self._points[group.id].append(
                Point(ratio, gone, cost.macs, cost.params, measured.loss(value))
            )
        return _sensitivity(measured, self._ranking, self._repair, self._points)


def _sensitivity(
    measured: Trials, ranking: Ranking, repair: str, points: Mapping[str, Sequence[Point]]
) -> Sensitivity:
    graph = ranking.coupling.graph
    return Sensitivity(
        graph.source,
        graph.sha256,
        measured.metric.name,
        measured.metric.unit,
        measured.original,
        str(ranking.choice.algorithm),
        repair,
        tuple(
            Curve(group.id, group.layers, group.channels, tuple(points[group.id]))
            for group in ranking.coupling.groups
        ),
    )


def curves(
    ranking: Ranking,
    data: Data,
    repair: str,
    progress: Callable[[str], None],
    jobs: int | None,
    cluster: str | None,
) -> dict[str, list[tuple[float, float]]]:
    """Say what an allocation needs of a sensitivity: shares and errors of every group, measured at `DENSE` ratios."""
    with trials(
        Study(ranking.coupling, data, data, "error", repair, jobs, cluster)
    ) as measured:
        return measure(measured, ranking, DENSE, repair, progress).shares()


def channels_below(ranking: Ranking, group: Group, ratio: float) -> list[int]:
    """The lowest-scored channels of a group, at most a share `ratio` of them."""
    return channels_of(up_to(ranking.steps(group), ratio), group.id)

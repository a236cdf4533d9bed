"""Channels and ranks in one allocation: candidates beside those of channels alone.

Every layer that could have low rank has a curve of damage at the outputs, as every unit of channels has one, and the
same knapsack takes the cheapest of both. What a layer of low rank saves depends on the channels it keeps. Whole choices
are then measured beside those of channels alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from prunegraph.errors import BudgetError
from prunegraph.ranks.damage import RankDamage
from prunegraph.ranks.options import RankedLayer, find_ranked
from prunegraph.ranks.savings import Widths
from prunegraph.rewriting.ranks import allocate
from prunegraph.runtime.statistics import Statistics
from prunegraph.selection import knapsack
from prunegraph.selection.budget import Budget, Meter
from prunegraph.selection.options import SelectionOptions
from prunegraph.selection.ranks import LayerRanks
from prunegraph.selection.select import Ranking
from prunegraph.selection.units import Removal, SharedChoice
from prunegraph.tuning.damage import Damage

Array = np.ndarray

#: Exponents of the damage by which channels and ranks share a budget, and the names of what comes of them.
POWERS = {"damage + ranks": 1.0}

#: The name of the choice in which no channel goes.
ALONE = "ranks"


@dataclass(frozen=True)
class RankCandidates:
    """Choices with layers of low rank, for any budget.

    Args:
        ranking: scored channels with their curves.
        damage: measures candidates.
    """

    ranking: Ranking
    damage: RankDamage

    @cached_property
    def _curves(self) -> dict[str, list[float]]:
        return self.damage.curves()

    def __call__(self, budget: Budget) -> dict[str, SharedChoice]:
        """Choices that meet a budget, by name; those that come to channels alone are left out.

        Raises:
            DataError: the outputs are no numbers that could be compared.
            ModelError: a part of the model cannot be run by itself.
        """
        result = {}
        for name, power in POWERS.items():
            candidate = self._shared(budget, power, self.ranking.curves or {})
            if candidate is not None and candidate.ranks:
                result[name] = candidate
        alone = self._alone(budget)
        if alone is not None and alone.ranks:
            result[ALONE] = alone
        return result

    def _alone(self, budget: Budget) -> SharedChoice | None:
        """Ranks that meet one bound without channels that go, with little error of the weights; None where they cannot.

        Behind the repair that is as good as what does the least damage before it.
        """
        ranking = self.ranking
        if len(budget.counted) > 1 or any((ranking.limits.ratios or {}).values()):
            return None
        kind = budget.kind
        if kind == "bytes":
            return None
        ladders = {name: each.steps for name, each in self.damage.layers.items()}
        try:
            chosen = allocate(ladders, budget, Meter(ranking.coupling).original)
        except BudgetError:
            return None
        return SharedChoice(
            {},
            tuple(
                LayerRanks(name, each.method, each.ranks) for name, each in chosen.items()
            ),
        )

    def _shared(
        self,
        budget: Budget,
        power: float,
        curves: Mapping[str, Sequence[tuple[float, float]]],
    ) -> SharedChoice | None:
        """The best choice by the sum of damages to a power; None where the budget cannot be met."""
        ranking = self.ranking
        units = ranking.units
        layers = list(self.damage.layers.values())
        beside = _Beside(ranking, layers, self._curves, power)
        bent = {
            unit.id: [(share, max(error, 0.0) ** power) for share, error in curves[unit.id]]
            for unit in units
        }
        try:
            removal, picks = knapsack.allocate_beside(
                ranking.coupling, units, budget, ranking.limits, bent, beside
            )
        except BudgetError:
            return None
        widths = Widths(ranking.coupling, {}, layers)
        wanted = (
            each.ranks(each.options[pick - 1], widths.under(each, removal))
            for each, pick in zip(layers, picks, strict=True)
            if pick
        )
        return SharedChoice(removal, tuple(each for each in wanted if each is not None))


@dataclass(frozen=True)
class _Beside:
    """Layers of low rank as what competes with channels (`knapsack.Beside`)."""

    ranking: Ranking
    layers: Sequence[RankedLayer]
    curves: Mapping[str, Sequence[float]]
    power: float

    @property
    def errors(self) -> list[Array]:
        return [
            np.asarray([0.0, *(max(e, 0.0) ** self.power for e in self.curves[each.name])])
            for each in self.layers
        ]

    def saving(
        self, kind: str, options: Mapping[str, Sequence[Removal]]
    ) -> Callable[[Mapping[str, int], Sequence[int]], float]:
        widths = Widths(self.ranking.coupling, options, self.layers)
        known: dict[tuple[str, int, tuple[int, ...]], int] = {}

        def saved(chosen: Mapping[str, int], picks: Sequence[int]) -> float:
            total = 0
            for each, pick in zip(self.layers, picks, strict=True):
                if not pick:
                    continue
                shape = widths.of(each, chosen)
                key = each.name, pick, shape
                if key not in known:
                    ranks = each.ranks(each.options[pick - 1], shape)
                    known[key] = 0 if ranks is None else each.saved(kind, ranks, shape)
                total += known[key]
            return total

        return saved


def rank_candidates(
    ranking: Ranking, damage: Damage, statistics: Statistics, choice: SelectionOptions
) -> tuple[RankCandidates | None, RankDamage | None]:
    """What makes choices with layers of low rank, and measures them; None where no layer could have it.

    Args:
        ranking: scored channels with their curves.
        damage: measures removals.
        statistics: what data show of the graph.
        choice: the options: layers that are kept, or have a ratio of their own, stay whole.
    """
    kept = {*choice.keep, *choice.ratio_for}
    kind = choice.budget.counted[0]
    layers = {
        each.name: each
        for each in find_ranked(ranking.coupling, kind, choice.rounding, kept)
        if statistics.has_gram(each.layer.node)
    }
    if not layers:
        return None, None
    measured = RankDamage(damage, layers)
    return RankCandidates(ranking, measured), measured

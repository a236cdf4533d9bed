"""Branches and channels in one allocation: candidates beside those of channels alone.

A residual branch is one piece more in the knapsack: its damage is measured at the outputs as that of channels is, with
its mean left in its place, and it saves what dies with it, its channels' share included. Source: ALGORITHMS 9.4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from prunegraph.coupling.branches import Branch
from prunegraph.errors import BudgetError
from prunegraph.selection import knapsack
from prunegraph.selection.budget import Budget, Meter
from prunegraph.selection.select import Ranking, bent
from prunegraph.selection.units import Contender, branch_unit

#: Candidates by name, with the exponent of the damage by which branches and channels share a budget.
POWERS = {"damage + branches": "damage", "damage:power=0.5 + branches": "damage:power=0.5"}

#: Numbers of branches, as shares of all, that are gone where a search for the best choice begins.
BEGINNINGS = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class BranchCandidates:
    """Choices without some branches, for any budget.

    Args:
        ranking: scored channels with their curves, and what measures damage.
        branches: those that may go.
    """

    ranking: Ranking
    branches: Sequence[Branch]

    def __call__(self, budget: Budget) -> dict[str, Contender]:
        """Choices that meet a budget, by name; those that come to channels alone are left out.

        Raises:
            DataError: the outputs are no numbers that could be compared.
            ModelError: a part of the model cannot be run by itself.
        """
        result = {}
        for name, allocation in POWERS.items():
            try:
                candidate = self._shared(budget, allocation)
            except BudgetError:
                continue
            if not candidate.is_channels_alone:
                result[name] = candidate
        return result

    @cached_property
    def curves(self) -> dict[str, list[tuple[float, float]]]:
        """The damage of each branch by itself, by its id."""
        assert self.ranking.damage is not None
        values = self.ranking.damage(
            [Contender({branch.id: (0,)}) for branch in self.branches]
        )
        return {
            branch.id: [(1.0, max(value, 0.0))]
            for branch, value in zip(self.branches, values, strict=True)
        }

    def _shared(self, budget: Budget, allocation: str) -> Contender:
        """The best choice by the sum of damages, which an allocation may bend. Raises BudgetError."""
        ranking = self.ranking
        curves = bent({**(ranking.curves or {}), **self.curves}, allocation)
        removal = knapsack.allocate(
            ranking.coupling,
            [*ranking.units, *map(branch_unit, self.branches)],
            budget,
            ranking.limits,
            curves,
            self._starts(budget.counted[0]),
        )
        return Contender(removal)

    def _starts(self, kind: str) -> list[list[str]]:
        """The first branches to go, fewer and more of them: least damage for what they save first."""
        meter = Meter(self.ranking.coupling)

        def price(branch: Branch) -> float:
            remaining = getattr(meter.measure({branch.id: (0,)}), kind)
            saved = getattr(meter.original, kind) - remaining
            return self.curves[branch.id][0][1] / saved if saved > 0 else np.inf

        order = [branch.id for branch in sorted(self.branches, key=price)]
        counts = {round(share * len(order)) for share in BEGINNINGS} - {0}
        return [order[:count] for count in sorted(counts)]

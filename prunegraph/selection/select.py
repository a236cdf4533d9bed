"""Algorithm and budget in, Plan out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from prunegraph.coupling.analysis import Coupling
from prunegraph.coupling.groups import Group
from prunegraph.errors import BudgetError, UnknownNameError
from prunegraph.runtime.statistics import Statistics
from prunegraph.selection import knapsack
from prunegraph.selection.allocation import Limits, Step, allocate, make_steps
from prunegraph.selection.budget import Budget
from prunegraph.selection.choice import Choice
from prunegraph.selection.criteria.base import Context, score
from prunegraph.selection.plan import Plan, make_plan


@dataclass(frozen=True)
class Ranking:
    """Scored channels and the limits of a choice: plans for any budget come from here without scoring again.

    `curves` are what pruning each group alone costs, for the allocation that needs them:
    `(share of the channels, error)` by group id (see `selection.knapsack`).
    """

    coupling: Coupling
    choice: Choice
    limits: Limits
    scores: Mapping[str, np.ndarray]
    curves: Mapping[str, Sequence[tuple[float, float]]] | None = None

    def steps(self, group: Group) -> list[Step]:
        """A group's channels in the order in which they go."""
        return make_steps(group, self.scores[group.id], self.limits)

    def plan(self, budget: Budget) -> Plan:
        """A plan that meets a budget. Raises BudgetError."""
        return make_plan(self.coupling, self._remove(budget), replace(self.choice, budget=budget).provenance())

    def _remove(self, budget: Budget) -> Mapping[str, np.ndarray]:
        if self.curves is not None:
            return knapsack.allocate(self.coupling, self.scores, budget, self.limits, self.curves)
        return allocate(self.coupling, self.scores, budget, self.limits, str(self.choice.allocation))


def rank(coupling: Coupling, choice: Choice, statistics: Statistics | None = None) -> Ranking:
    """Score all channels by a choice's algorithm. Takes the arguments of `select`, and raises what it raises."""
    choice = choice.resolved(statistics is not None)
    ratios = _group_ratios(coupling, choice.keep, choice.ratio_for)
    limits = Limits(choice.round_to, choice.min_channels, ratios)
    return Ranking(coupling, choice, limits, score(str(choice.algorithm), Context(coupling, choice.seed, statistics)))


def select(coupling: Coupling, choice: Choice, statistics: Statistics | None = None) -> Plan:
    """Choose channels.

    Args:
        coupling: what can be pruned.
        choice: algorithm, budget and limits.
        statistics: what data show of the graph, for criteria that need it.

    Raises:
        BudgetError: the budget is malformed or cannot be met.
        DataError: the algorithm needs data and there are none.
        UnknownNameError: no such algorithm, allocation or layer.
        PluginError: a plug-in broke its contract.
    """
    return rank(coupling, choice, statistics).plan(choice.budget)


def _group_ratios(coupling: Coupling, keep: Sequence[str], ratio_for: Mapping[str, float]) -> dict[str, float]:
    """Ratios of groups from ratios of layers; where layers of one group differ the smallest holds."""
    layers = {node.name for node in coupling.graph.layers}
    wanted = {**ratio_for, **dict.fromkeys(keep, 0.0)}
    for layer, ratio in wanted.items():
        if layer not in layers:
            raise UnknownNameError("layer", layer, layers)
        if not 0 <= ratio < 1:
            raise BudgetError(f"the ratio for layer {layer!r} must be at least 0 and below 1, got {ratio:g}")
    found: dict[str, float] = {}
    for group in coupling.groups:
        mine = [wanted[layer] for layer in group.layers if layer in wanted]
        if mine:
            found[group.id] = min(mine)
    return found

"""Algorithm and budget in, Plan out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from prunegraph.coupling.coupling import Coupling
from prunegraph.coupling.groups import Group
from prunegraph.errors import BudgetError
from prunegraph.graph.layer_names import named_layers
from prunegraph.options import base_name, bound
from prunegraph.plugins import BUILT_IN
from prunegraph.registry import Entry
from prunegraph.runtime.statistics import Statistics
from prunegraph.selection import knapsack
from prunegraph.selection.allocation import ALLOCATIONS, COMPETING, MEASURED, allocate
from prunegraph.selection.budget import Budget, Meter
from prunegraph.selection.criteria.base import CRITERIA, Context, Gradients, score
from prunegraph.selection.criteria.own_ratio import own_ratios
from prunegraph.selection.knapsack import TimeBound
from prunegraph.selection.options import SelectionOptions
from prunegraph.selection.plan import Plan, make_plan
from prunegraph.selection.selectors import SELECTORS, choose
from prunegraph.selection.units import (
    Contender,
    Limits,
    Removal,
    Step,
    Unit,
    make_steps,
    make_units,
)

#: Choices with layers of low rank, or without branches, that are compared after their repair.
TRIED = 2


@dataclass(frozen=True)
class Grounds:
    """What a choice rests on.

    Args:
        scores: of the channels of every group, by its id; the least go first.
        curves: error at the outputs by the share of a unit's channels that is gone, by the unit's id, where
            that was measured.
    """

    scores: Mapping[str, np.ndarray]
    curves: Mapping[str, Sequence[tuple[float, float]]]


@dataclass(frozen=True)
class Ranking:
    """Scored channels and the limits of a choice: plans for any budget come from here without scoring again.

    `curves` are what pruning each unit alone costs, for the allocation that needs them:
    `(share of the channels, error)` by the unit's id (see `selection.knapsack`). `damage` measures what whole
    choices do to the outputs; where it is given, those of several allocations compete, and what `others` says of a
    budget, by name: choices that are no allocation's of channels alone. Where one of these does the least damage, it
    is compared with the next ones by `trial`, which measures what is left after the repair, as are those that share
    a latency. `is_weighed` tells whether scores weigh errors by what they do at the outputs.
    """

    coupling: Coupling
    choice: SelectionOptions
    limits: Limits
    scores: Mapping[str, np.ndarray]
    curves: Mapping[str, Sequence[tuple[float, float]]] | None = None
    damage: Callable[[Sequence[Contender]], Sequence[float]] | None = None
    others: Callable[[Budget], Mapping[str, Contender]] | None = None
    trial: Callable[[Sequence[Contender]], Sequence[float]] | None = None
    is_weighed: bool = False

    @property
    def grounds(self) -> Grounds:
        """What plans of this ranking rest on."""
        return Grounds(self.scores, self.curves or {})

    @cached_property
    def units(self) -> list[Unit]:
        """What competes for a budget."""
        return make_units(self.coupling, self.scores, self.limits, self.choice.same_width)

    def steps(self, group: Group) -> list[Step]:
        """A group's channels in the order in which they go."""
        return make_steps(group, self.scores[group.id], self.limits)

    def plan(self, budget: Budget) -> Plan:
        """A plan that meets a budget. Raises BudgetError."""
        if self.damage is not None:
            candidates = self._candidates(budget)
            damages = self.damage(list(candidates.values()))
            measured = dict(zip(candidates, map(float, damages), strict=True))
            best = min(measured, key=measured.__getitem__)
            reason: dict[str, Any] = {"damage": measured}
            if not candidates[best].is_channels_alone and self.trial is not None:
                names = contenders(candidates, measured)
                errors = self.trial([candidates[name] for name in names])
                repaired = dict(zip(names, map(float, errors), strict=True))
                best = min(repaired, key=repaired.__getitem__)
                reason["repaired"] = repaired
            return self.planned(candidates[best], budget, best, reason)
        allocation = str(self.choice.allocation)
        return self.planned(Contender(self._remove(budget, allocation)), budget, allocation)

    def by(self, allocation: str, budget: Budget, time: TimeBound | None = None) -> Plan:
        """The plan of one allocation, whichever others compete; with `time` one that meets a predicted latency, too.

        Raises:
            BudgetError: the budget cannot be met.
        """
        chosen = Contender(self._remove(budget, allocation, time))
        return self.planned(chosen, budget, allocation)

    def planned(
        self,
        chosen: Contender,
        budget: Budget,
        name: str,
        reason: Mapping[str, Any] | None = None,
    ) -> Plan:
        """The plan of a choice, by the name of the allocation it came from; `reason` says why it was taken."""
        # One with ranks or branches is named by the allocation that channels have beside them, if any goes.
        shared = name.partition(" + ")[0]
        known = shared in COMPETING or self.damage is None
        choice = replace(self.choice, budget=budget, allocation=shared if known else None)
        criterion = CRITERIA.entry(base_name(str(choice.algorithm)))
        provenance = {**_provenance(choice, criterion), **(reason or {})}
        if self.is_weighed:
            provenance["curvature"] = "gradients"
        if len(budget.counted) > 1 and not chosen.ranks:
            meter = Meter(self.coupling)
            remaining = meter.measure(chosen.removal)
            provenance["binding"] = budget.binding(remaining, meter.original)
        plan = make_plan(self.coupling, chosen.removal, provenance)
        return replace(plan, ranks=chosen.ranks)

    def _candidates(self, budget: Budget) -> dict[str, Contender]:
        """What allocations that compete come to, by their names. Raises BudgetError where none meets the budget."""
        result: dict[str, Contender] = {}
        failure: BudgetError | None = None
        for name in COMPETING:
            try:
                result[name] = Contender(self._remove(budget, name))
            except BudgetError as error:
                failure = failure or error
        if self.others is not None:
            result.update(self.others(budget))
        if failure is not None and not result:
            raise failure
        return result

    def _remove(
        self, budget: Budget, allocation: str, time: TimeBound | None = None
    ) -> Removal:
        if base_name(allocation) in MEASURED and self.curves is not None:
            return knapsack.allocate(
                self.coupling,
                self.units,
                budget,
                self.limits,
                bent(self.curves, allocation),
                time=time,
            )
        return allocate(self.coupling, self.units, budget, self.limits, allocation)


def contenders(
    candidates: Mapping[str, Contender], damage: Mapping[str, float]
) -> list[str]:
    """The names of the best candidate of channels alone, and of the best `TRIED` of ranks or branches beside them."""
    ordered = sorted(candidates, key=damage.__getitem__)
    alone = [name for name in ordered if candidates[name].is_channels_alone]
    others = [name for name in ordered if not candidates[name].is_channels_alone]
    return others[:TRIED] + alone[:1]


def bent(
    curves: Mapping[str, Sequence[tuple[float, float]]], allocation: str
) -> Mapping[str, Sequence[tuple[float, float]]]:
    """Curves as an allocation reads them: "damage:power=0.5" takes the root of every error."""
    power = getattr(bound(ALLOCATIONS, allocation), "keywords", {}).get("power", 1.0)
    return {
        unit: [(share, max(error, 0.0) ** power) for share, error in curve]
        for unit, curve in curves.items()
    }


def rank(
    coupling: Coupling,
    choice: SelectionOptions,
    statistics: Statistics | None = None,
    gradients: Gradients | None = None,
) -> Ranking:
    """Score all channels by a choice's algorithm. Takes the arguments of `select`, and raises what it raises."""
    choice = choice.resolved(statistics is not None)
    name = str(choice.algorithm)
    if base_name(name) in SELECTORS:
        raise BudgetError(
            f"selector {name!r} makes whole plans; a budget on latency, sensitivity and search need a criterion, which "
            "ranks channels: `prunegraph algorithms` lists them"
        )
    context = Context(coupling, choice.seed, statistics, choice, gradients=gradients)
    ratios = _group_ratios(coupling, choice.keep, choice.ratio_for)
    if choice.budget.ratio == "auto":
        ratios = {**own_ratios(name, context), **ratios}
    limits = Limits(choice.rounding, choice.min_channels, ratios)
    scores = score(name, context)
    metrics = statistics.metrics if statistics is not None else None
    is_weighed = metrics is not None and metrics.is_known
    return Ranking(coupling, choice, limits, scores, is_weighed=is_weighed)


def select(
    coupling: Coupling,
    choice: SelectionOptions,
    statistics: Statistics | None = None,
    gradients: Gradients | None = None,
) -> Plan:
    """Choose channels.

    Args:
        coupling: what can be pruned.
        choice: algorithm, budget and limits.
        statistics: what data show of the graph, for criteria that need it.
        gradients: of the task's loss, for criteria that need them.

    Raises:
        BudgetError: the budget is malformed or cannot be met, or an allocation or same widths are asked of a selector.
        DataError: the algorithm needs data or gradients and there are none.
        UnknownNameError: no such algorithm, allocation, option or layer.
        OptionError: an option has a value it cannot have.
        PluginError: a plug-in broke its contract.
    """
    given, choice = choice, choice.resolved(statistics is not None)
    name = str(choice.algorithm)
    if base_name(name) not in SELECTORS:
        return rank(coupling, choice, statistics, gradients).plan(choice.budget)
    if choice.same_width:
        raise BudgetError(
            f"selector {name!r} chooses widths itself: leave --same-width out, or take a criterion"
        )
    if given.allocation is not None:
        raise BudgetError(
            f"selector {name!r} shares the budget itself: leave --allocation out"
        )
    limits = Limits(
        choice.rounding,
        choice.min_channels,
        _group_ratios(coupling, choice.keep, choice.ratio_for),
    )
    provenance = {
        **_provenance(choice, SELECTORS.entry(base_name(name))),
        "allocation": None,
    }
    context = Context(coupling, choice.seed, statistics, choice, gradients=gradients)
    return choose(name, context, choice.budget, limits, provenance)


def _provenance(choice: SelectionOptions, algorithm: Entry) -> dict[str, Any]:
    """How a plan is made: the choice, and which plug-in the algorithm comes from."""
    origin = {"plugin": algorithm.origin} if algorithm.origin != BUILT_IN else {}
    return {**choice.provenance(), **origin}


def _group_ratios(
    coupling: Coupling, keep: Sequence[str], ratio_for: Mapping[str, float]
) -> dict[str, float]:
    """Ratios of groups from ratios of layers; where layers of one group differ the smallest holds."""
    graph, wanted = coupling.graph, {}
    for pattern, ratio in ratio_for.items():
        if not 0 <= ratio < 1:
            raise BudgetError(
                f"the ratio for layer {pattern!r} must be at least 0 and below 1, got {ratio:g}"
            )
        wanted.update(dict.fromkeys(named_layers(graph, [pattern]), ratio))
    wanted.update(dict.fromkeys(named_layers(graph, keep), 0.0))
    result: dict[str, float] = {}
    for group in coupling.groups:
        mine = [wanted[layer] for layer in group.layers if layer in wanted]
        if mine:
            result[group.id] = min(mine)
    return result

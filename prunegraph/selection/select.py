"""Algorithm and budget in, Plan out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from prunegraph.coupling.analysis import Coupling
from prunegraph.errors import BudgetError, UnknownNameError
from prunegraph.runtime.statistics import Statistics
from prunegraph.selection.allocation import Limits, allocate
from prunegraph.selection.choice import Choice
from prunegraph.selection.criteria.base import Context, Gradients, score
from prunegraph.selection.criteria.own_ratio import own_ratios
from prunegraph.selection.plan import Plan, make_plan


def select(
    coupling: Coupling, choice: Choice, statistics: Statistics | None = None, gradients: Gradients | None = None
) -> Plan:
    """Choose channels.

    Args:
        coupling: what can be pruned.
        choice: algorithm, budget and limits.
        statistics: what data show of the graph, for criteria that need it.
        gradients: of the task's loss, for criteria that need them.

    Raises:
        BudgetError: the budget is malformed or cannot be met.
        DataError: the algorithm needs data or gradients and there are none.
        UnknownNameError: no such algorithm, allocation, option or layer.
        OptionError: an option has a value it cannot have.
        PluginError: a plug-in broke its contract.
    """
    choice = choice.resolved(statistics is not None)
    algorithm, context = str(choice.algorithm), Context(coupling, choice.seed, statistics, gradients)
    ratios = _group_ratios(coupling, choice.keep, choice.ratio_for)
    if choice.budget.ratio == "auto":
        ratios = {**own_ratios(algorithm, context), **ratios}
    limits = Limits(choice.round_to, choice.min_channels, ratios)
    remove = allocate(coupling, score(algorithm, context), choice.budget, limits, str(choice.allocation))
    return make_plan(coupling, remove, choice.provenance())


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

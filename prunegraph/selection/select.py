"""Algorithm and budget in, Plan out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from prunegraph.coupling.analysis import Coupling
from prunegraph.errors import BudgetError, UnknownNameError
from prunegraph.selection.allocation import Limits, allocate
from prunegraph.selection.budget import Budget
from prunegraph.selection.criteria.base import Context, score
from prunegraph.selection.plan import Plan, make_plan


def select(
    coupling: Coupling,
    *,
    algorithm: str = "l2",
    budget: Budget,
    allocation: str = "uniform",
    round_to: int = 8,
    min_channels: int = 1,
    keep: Sequence[str] = (),
    ratio_for: Mapping[str, float] | None = None,
    seed: int = 0,
) -> Plan:
    """Choose channels.

    Args:
        coupling: what can be pruned.
        algorithm: a registered criterion.
        budget: what the result must meet.
        allocation: "uniform" or "global".
        round_to: kept channels are a multiple of this.
        min_channels: at least this many stay in every group.
        keep: layers whose output channels all stay.
        ratio_for: layer -> share of its output channels to remove, whatever the budget.
        seed: for criteria that draw random numbers.

    Raises:
        BudgetError, UnknownNameError, PluginError.
    """
    ratios = _group_ratios(coupling, keep, ratio_for or {})
    limits = Limits(round_to, min_channels, ratios)
    scores = score(algorithm, Context(coupling, seed))
    remove = allocate(coupling, scores, budget, limits, allocation)
    provenance = {
        "algorithm": algorithm,
        "allocation": allocation,
        "budget": {budget.kind: getattr(budget, budget.kind)},
        "round_to": round_to,
        "min_channels": min_channels,
        "keep": list(keep),
        "ratio_for": dict(ratio_for or {}),
        "seed": seed,
    }
    return make_plan(coupling, remove, provenance)


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

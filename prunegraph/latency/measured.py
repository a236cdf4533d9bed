"""Selection for any choice: what has to be measured for it is measured here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from prunegraph.coupling.coupling import Coupling
from prunegraph.latency import sharing
from prunegraph.latency.bench import Bench, Path, PathOfMacs, TimedPlan
from prunegraph.latency.cache import Cache
from prunegraph.latency.rounding import Rounding, best_rounding
from prunegraph.latency.search import LatencySearch
from prunegraph.latency.sharing import PathOfTime, correction, least_damage
from prunegraph.measuring.latency import Inputs, Latency, Stopwatch, Timer
from prunegraph.ops.cost import Cost, cost
from prunegraph.options import base_name
from prunegraph.runtime.engine import Runtime
from prunegraph.runtime.runtimes import find
from prunegraph.runtime.statistics import Statistics
from prunegraph.selection.budget import Budget, Meter, parse_latency
from prunegraph.selection.criteria.base import Gradients
from prunegraph.selection.options import SelectionOptions
from prunegraph.selection.plan import Plan
from prunegraph.selection.select import Grounds, Ranking, rank, select
from prunegraph.selection.selectors import SELECTORS

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Selected:
    """A plan, the latency measured for it where that is the budget, and what "auto" measured of widths.

    `grounds` say what the plan rests on, where channels were scored for it.
    """

    plan: Plan
    latency: Latency | None = None
    rounding: Rounding | None = None
    grounds: Grounds | None = None

    @classmethod
    def of(cls, ranking: Ranking, budget: Budget) -> Selected:
        """A plan of a ranking. Raises BudgetError."""
        return cls(ranking.plan(budget), grounds=ranking.grounds)


def select_by_measuring(
    coupling: Coupling,
    choice: SelectionOptions,
    statistics: Statistics | None = None,
    gradients: Gradients | None = None,
    *,
    inputs: Inputs | None = None,
    timer: Timer | None = None,
    cache: Cache | None = None,
    progress: Progress = lambda stage: None,
    competing: Callable[[SelectionOptions], Ranking] | None = None,
) -> Selected:
    """Choose channels, with a latency budget or `round_to="auto"` too.

    Args:
        coupling: what can be pruned.
        choice: algorithm, budget and limits.
        statistics: what data show of the graph, for criteria that need it.
        gradients: of the task's loss, for criteria that need them.
        inputs: what models are run on when they are timed; None is random numbers at batch 1.
        timer: what measures; None is the choice's runtime.
        cache: where layer times and widths are kept; None is this machine's.
        progress: told what is being measured.
        competing: scores channels and measures damage, where a latency is to be shared by that.

    Raises:
        BudgetError: the budget is malformed or cannot be met.
        UnknownNameError: no such provider, algorithm, allocation or layer.
        ModelError: the runtime cannot run the model.
        MissingExtraError: the runtime is not installed.
    """
    if not choice.is_measured:
        return _select(coupling, choice, statistics, gradients)
    runtime = runtime_of(choice)
    timer = timer or Stopwatch(coupling.graph, inputs, runtime=runtime)
    cache = cache or Cache.here(runtime)
    rounding = (
        best_rounding(coupling, timer, cache, progress)
        if choice.round_to == "auto"
        else None
    )
    if rounding is not None:
        choice = replace(choice, round_to=rounding.chosen)
    if choice.budget.latency is None:
        chosen = _select(coupling, choice, statistics, gradients)
        return replace(chosen, rounding=rounding)
    ranking = (
        rank(coupling, choice, statistics, gradients)
        if competing is None
        else competing(choice)
    )
    whole = partial(rank, coupling, choice, statistics, gradients)
    result = _meet(ranking, timer, cache, progress, whole)
    plan = _described(result, choice, coupling)
    return Selected(plan, result.latency, rounding, ranking.grounds)


def _select(
    coupling: Coupling,
    choice: SelectionOptions,
    statistics: Statistics | None,
    gradients: Gradients | None,
) -> Selected:
    """A plan that nothing has to be measured for, with its grounds where a criterion makes it."""
    if base_name(str(choice.resolved(statistics is not None).algorithm)) in SELECTORS:
        return Selected(select(coupling, choice, statistics, gradients))
    return Selected.of(rank(coupling, choice, statistics, gradients), choice.budget)


def runtime_of(choice: SelectionOptions) -> Runtime:
    """What models are timed in for a choice. Raises UnknownNameError or MissingExtraError."""
    return find(choice.runtime, choice.provider, choice.threads)


def _meet(
    ranking: Ranking,
    timer: Timer,
    cache: Cache,
    progress: Progress,
    whole: Callable[[], Ranking],
) -> TimedPlan:
    """The plan of a ranking that meets its latency; `whole` scores on all data, where damage does not decide."""
    bound, is_share = parse_latency(ranking.choice.budget.latency or 1.0)
    original = 1.0 if is_share else timer.original()
    share = bound / original
    label = f"{share:.3g} of the original"
    if not is_share:
        label = f"{bound:g} ms ({label}'s {original:.3f} ms)"
    asked = ranking.choice.budget
    others = replace(asked, latency=None) if asked.counted else None

    def planned(ranking: Ranking, strength: Budget) -> Plan:
        """A plan of some strength that meets the other bounds, too."""
        if others is not None and strength.macs is not None:
            strength = _joined(strength, others, cost(ranking.coupling.graph))
        return ranking.by(str(ranking.choice.allocation), strength)

    try:
        bench = Bench(ranking.coupling, timer, cache)
        path: Path = PathOfMacs(partial(planned, ranking), bench)
        known, damage = 1.0, {}
        if ranking.damage is not None and share < 1:
            paths = _paths(ranking, bench, path, others)
            progress("damage: channels for the time they save")
            known = correction(bench, paths.values(), share)
            damage = least_damage(paths, ranking, share / known)
            best = min(damage, key=damage.__getitem__, default=None)
            # Nothing is held back where there is nothing to compare any more.
            path = (
                paths[best]
                if best in sharing.ALLOCATIONS
                else PathOfMacs(partial(planned, whole()), bench)
            )
        search = LatencySearch(path, bench, share, label, progress, known)
        result = search.run(may_be_below=others is not None)
    finally:
        cache.save()
    if damage:
        measured = "damage" if ranking.trial is None else "repaired"
        provenance = {**result.plan.provenance, measured: damage}
        result = replace(result, plan=replace(result.plan, provenance=provenance))
    if is_share or result.latency is None:
        return result
    # In the milliseconds of the one measurement that the bound was compared with.
    return replace(
        result,
        latency=replace(result.latency, first=original, second=original * result.measured),
    )


def _paths(
    ranking: Ranking, bench: Bench, default: Path, others: Budget | None
) -> dict[str, Path]:
    """What competes for a latency, by the names of allocations: time shared by damage, and the default by MACs."""
    shared = {
        name: PathOfTime(ranking, bench, name, others) for name in sharing.ALLOCATIONS
    }
    return {**shared, str(ranking.choice.allocation): default}


def _joined(strength: Budget, others: Budget, original: Cost) -> Budget:
    """A strength, which is a share of the MACs, together with other bounds."""
    macs = others.bounds(original).get("macs", original.macs) / original.macs
    return replace(others, macs=min(float(strength.macs or 1.0), macs))


def _described(result: TimedPlan, choice: SelectionOptions, coupling: Coupling) -> Plan:
    """The plan with the budget it was made for, and what was measured."""
    assert result.latency is not None
    latency = result.latency.provenance()
    provenance = {
        **result.plan.provenance,
        "budget": choice.budget.given(),
        "latency": {**latency, "note": result.note} if result.note else latency,
    }
    if choice.budget.counted:
        provenance["binding"] = _binding(result, choice.budget, coupling)
    return replace(result.plan, provenance=provenance)


def _binding(result: TimedPlan, budget: Budget, coupling: Coupling) -> str:
    """The quantity that is nearest to its bound."""
    meter = Meter(coupling)
    remaining = meter.measure(result.plan.remove)
    kind = budget.binding(remaining, meter.original)
    nearness = getattr(remaining, kind) / budget.bounds(meter.original)[kind]
    bound, is_share = parse_latency(budget.latency or 1.0)
    assert result.latency is not None
    measured = result.latency.kept if is_share else result.latency.second
    return "latency" if measured / bound >= nearness else kind

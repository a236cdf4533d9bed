"""One run, once its options are read: choose, execute and quantize. Files are read and written by `prunegraph.api`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING

from prunegraph.coupling.coupling import Coupling
from prunegraph.coupling.sample import full_cost
from prunegraph.errors import BudgetError, DataError, ModelError
from prunegraph.execution import ExecutionOptions, execute
from prunegraph.graph.model import Graph
from prunegraph.latency.bench import PAIRS
from prunegraph.latency.measured import Selected, runtime_of, select_by_measuring
from prunegraph.measuring.latency import Latency, Stopwatch
from prunegraph.ops.cost import Cost
from prunegraph.options import base_name
from prunegraph.proof.result import Proof
from prunegraph.recovery import repairs
from prunegraph.rewriting.decompose import DecomposeResult
from prunegraph.rewriting.tied import tie_copies
from prunegraph.rotation.run import weight_bytes
from prunegraph.runtime.data import Batch, Data
from prunegraph.runtime.division import divided
from prunegraph.runtime.statistics import ErrorMetrics, Statistics
from prunegraph.selection.allocation import MEASURED
from prunegraph.selection.criteria.base import Gradients, asks_at_outputs
from prunegraph.selection.options import SelectionOptions
from prunegraph.selection.plan import Plan
from prunegraph.selection.select import Grounds, Ranking, rank
from prunegraph.selection.units import Contender

if TYPE_CHECKING:
    from prunegraph.decoders.config import Configured
    from prunegraph.depth.choose import Depth
    from prunegraph.latency.rounding import Rounding
    from prunegraph.quantization.precision import PrecisionResult
    from prunegraph.quantization.quantize import QuantizeResult
    from prunegraph.rewriting.vocabulary import Vocabulary
    from prunegraph.rotation.run import Rotated
    from prunegraph.tuning.damage import Damage


#: Curvature is measured of models whose weights take at most as many bytes: PyTorch holds a copy of them, and what a
#: backward pass needs. (A language model of 655 MB was not better for it: perplexity 102.1 for 100.3.)
MOST = 1 << 28


@dataclass(frozen=True)
class PruneResult:
    """What `prune` did. `proof` is None where verification was turned off.

    `left_out` are groups that were chosen but stay whole, because the proof failed with them; `blame` says why.
    `repair` says how accuracy was got back after the proof. `latency` was measured where it was
    the budget, and `rounding` where `round_to` was "auto". `quantized` says what quantization did, if asked for.
    Where there is a `vocabulary`, it was made smaller first: `original` is what came of that, `before` is the cost of
    the model that was given. Where it was `rotated`, `original` is the rotated graph. `configured` says which
    files that describe the model were written beside it. `decomposed` are layers that were written as several of low
    rank after the cut, `factors` is the proof that these compute what their factors multiply to. `grounds` say what the
    plan rests on, where channels were scored for it.
    `precision` says what came of 16-bit floats, if asked for.
    """

    original: Graph
    model: Graph
    coupling: Coupling
    plan: Plan
    before: Cost
    after: Cost
    proof: Proof | None
    left_out: tuple[str, ...] = ()
    repair: str = "none"
    latency: Latency | None = None
    rounding: Rounding | None = None
    quantized: QuantizeResult | None = None
    blame: str = ""
    vocabulary: Vocabulary | None = None
    rotated: Rotated | None = None
    configured: Configured | None = None
    decomposed: DecomposeResult | None = None
    factors: Proof | None = None
    grounds: Grounds | None = None
    precision: PrecisionResult | None = None


def error_metrics(
    graph: Graph,
    samples: Data | None,
    choice: SelectionOptions,
    progress: Callable[[str], None] = lambda stage: None,
) -> ErrorMetrics | None:
    """What errors of a graph's layers do at the outputs, if the choice of channels asks for it and it can be had.

    Nothing is computed before somebody asks.
    """
    algorithm = choice.resolved(samples is not None).algorithm
    if (
        samples is None
        or choice.curvature == "never"
        or not asks_at_outputs(algorithm or "")
        or find_spec("torch") is None
        or weight_bytes(graph) > MOST
    ):
        return None
    from prunegraph.training.curvature import Curvature

    return Curvature(graph, samples, progress)


def choose(
    coupling: Coupling,
    choice: SelectionOptions,
    statistics: Statistics | None,
    gradients: Gradients | None,
    repair: str,
    progress: Callable[[str], None] = lambda stage: None,
) -> Selected:
    """A plan, whatever has to be measured for it."""
    if choice.depth != "never":
        return _with_depth(coupling, choice, statistics, gradients, repair, progress)
    if statistics is not None and competes(choice):
        return Selected.of(
            competing(coupling, choice, statistics, gradients, repair, progress),
            choice.budget,
        )
    if base_name(choice.allocation or "") not in MEASURED or statistics is None:
        inputs = _sample(coupling.graph, choice, statistics.data if statistics else None)

        def compete(choice: SelectionOptions) -> Ranking:
            """What shares a latency by damage: channels alone have times at all widths."""
            assert statistics is not None
            alone = replace(choice, ranks="never")
            return competing(coupling, alone, statistics, gradients, repair, progress)

        is_shared = statistics is not None and shares_time(choice)
        return select_by_measuring(
            coupling,
            choice,
            statistics,
            gradients,
            inputs=inputs,
            progress=progress,
            competing=compete if is_shared else None,
        )
    if choice.is_measured:
        raise BudgetError(
            f"allocation {choice.allocation!r} needs a bound on macs, params or bytes, and a number for round_to"
        )
    return Selected.of(
        ranking(coupling, choice, statistics, repair, progress, gradients=gradients),
        choice.budget,
    )


def _with_depth(
    coupling: Coupling,
    choice: SelectionOptions,
    statistics: Statistics | None,
    gradients: Gradients | None,
    repair: str,
    progress: Callable[[str], None],
) -> Selected:
    """A plan in which residual branches may go."""
    from prunegraph.depth import choose as depth

    data = statistics.data if statistics is not None else None
    depth.check(choice, data)
    assert data is not None and statistics is not None
    bound = repairs.find(repair, data, coupling.graph)
    # Ranks are tried with whole repairs, which would be done anew for every number of branches.
    widths = replace(choice, depth="never", ranks="never")
    inputs = _sample(coupling.graph, choice, data)
    asked = depth.Depth(coupling, choice, data, bound, inputs, progress=progress)
    shared = (
        _shared(asked, widths, statistics, gradients, repair)
        if choice.depth == "auto" and competes(choice)
        else None
    )

    def beside(rest: Coupling) -> Selected:
        """The plan of channels beside branches that are gone."""
        if shared is not None and rest is coupling:
            return Selected.of(shared[0], choice.budget)
        return choose(rest, widths, statistics, gradients, repair)

    return depth.choose(asked, beside, shared[1] if shared is not None else None)


def _shared(
    asked: Depth,
    widths: SelectionOptions,
    statistics: Statistics,
    gradients: Gradients | None,
    repair: str,
) -> tuple[Ranking, Callable[[], list[Selected]]]:
    """Scored channels, and plans in which branches and channels share one allocation, made when they are asked for."""
    from prunegraph.depth.candidates import BranchCandidates

    ranked = competing(
        asked.coupling, widths, statistics, gradients, repair, asked.progress
    )

    def plans() -> list[Selected]:
        damage = ranked.damage
        if damage is None:  # it could not be measured
            return []
        try:
            candidates = BranchCandidates(ranked, asked.branches)(asked.choice.budget)
            measured = dict(zip(candidates, damage(list(candidates.values())), strict=True))
        except (DataError, ModelError) as error:
            asked.progress(f"damage of branches is not measured: {error}")
            return []
        if not candidates:
            return []
        name = min(measured, key=measured.__getitem__)
        reason = {"damage": measured}
        plan = ranked.planned(candidates[name], asked.choice.budget, name, reason)
        return [Selected(plan, grounds=ranked.grounds)]

    return ranked, plans


def ranking(
    coupling: Coupling,
    choice: SelectionOptions,
    statistics: Statistics | None,
    repair: str,
    progress: Callable[[str], None] = lambda stage: None,
    jobs: int | None = None,
    cluster: str | None = None,
    gradients: Gradients | None = None,
) -> Ranking:
    """Scored channels; for an allocation that needs it also what each group costs, measured with that repair."""
    allocation = base_name(choice.allocation or "")
    if allocation == "damage" and statistics is not None:
        from prunegraph.tuning.damage import Damage

        fitted, held = divided(statistics)
        ranked = rank(coupling, choice, fitted, gradients)
        measured = Damage(coupling, fitted, held, progress).curves(ranked.units)
        return replace(ranked, curves=measured)
    ranked = rank(coupling, choice, statistics, gradients)
    if allocation not in MEASURED or statistics is None:
        return ranked
    from prunegraph.tuning.sensitivity import curves

    return replace(
        ranked, curves=curves(ranked, statistics.data, repair, progress, jobs, cluster)
    )


def competes(choice: SelectionOptions) -> bool:
    """Tell whether the allocation is left open, and could be measured: scores of "obs", a bound on what is counted."""
    return (
        choice.allocation is None
        and base_name(choice.algorithm or "obs") == "obs"
        and choice.budget.ratio is None
        and not choice.is_measured
    )


def shares_time(choice: SelectionOptions) -> bool:
    """Tell whether a latency may be shared by measured damage: the same of a bound on what is timed."""
    return (
        choice.allocation is None
        and base_name(choice.algorithm or "obs") == "obs"
        and choice.budget.latency is not None
    )


def competing(
    coupling: Coupling,
    choice: SelectionOptions,
    statistics: Statistics,
    gradients: Gradients | None,
    repair: str,
    progress: Callable[[str], None] = lambda stage: None,
) -> Ranking:
    """Scored channels, and what measures the damage of choices: of several allocations the best one is taken.

    Layers of low rank compete as well where the choice lets them, and the graph is not that of a source whose own
    tensors a plan has to name. Where damage cannot be measured (parts of the graph do not run by themselves), the
    default allocation stays.
    """
    from prunegraph.ranks.choose import rank_candidates
    from prunegraph.ranks.trial import RepairTrial
    from prunegraph.tuning.damage import Damage

    fitted, held = divided(statistics)
    ranked = rank(coupling, choice, fitted, gradients)
    damage = Damage(coupling, fitted, held, progress)
    trial = RepairTrial(coupling, statistics.data, repair, progress)
    try:
        curves = damage.curves(ranked.units)
        ranked = replace(ranked, curves=curves, damage=_of(damage), trial=trial)
        if choice.ranks == "never" or choice.same_width or coupling.graph.sources:
            return ranked
        others, measured = rank_candidates(ranked, damage, statistics, choice)
        if others is None or measured is None:
            return ranked
        return replace(ranked, others=others, damage=measured.measure)
    except (DataError, ModelError) as error:
        progress(f"damage is not measured: {error}")
        return ranked


def _of(damage: Damage) -> Callable[[Sequence[Contender]], list[float]]:
    """What measures candidates that are channels alone."""
    return lambda candidates: damage.measure([each.removal for each in candidates])


def _sample(model: Graph, choice: SelectionOptions, data: Data | None) -> Batch | None:
    """The first sample of the data, on which models are timed where the choice asks for that."""
    return (
        next(data.fit(model).batches(model, 1), None)
        if choice.is_measured and data is not None
        else None
    )


def finish(
    coupling: Coupling,
    chosen: Selected,
    choice: SelectionOptions | None,
    samples: Data | None,
    options: ExecutionOptions,
    *,
    quantize: str | None = None,
) -> PruneResult:
    """Execute what was chosen, and quantize: what follows once there is a plan. Nothing is written.

    `choice` is None where the plan was given and not chosen here.
    """
    model = coupling.graph
    executed = execute(coupling, chosen.plan, samples, options)
    if executed.left_out and choice:
        chosen = _measured_again(chosen, model, executed.pruned, choice, samples)
    pruned, quantized = executed.model, None
    if quantize is not None:
        from prunegraph.quantization.quantize import quantize as _quantize

        quantized = _quantize(pruned, samples, weights=quantize, progress=options.progress)
        pruned = quantized.model
    if model.sources is None:
        pruned = tie_copies(pruned)
    return PruneResult(
        model,
        pruned,
        coupling,
        executed.plan,
        full_cost(model),
        full_cost(pruned),
        executed.proof,
        executed.left_out,
        options.repair.name,
        chosen.latency,
        chosen.rounding,
        quantized,
        executed.blame,
        decomposed=executed.decomposed,
        factors=executed.factors,
        grounds=chosen.grounds,
    )


def check_quantize(weights: str, samples: Data | None) -> None:
    """Raise before the work what quantization would raise after it."""
    from prunegraph.quantization.scheme import scheme

    scheme(weights)
    if samples is None:
        raise DataError(
            "quantization needs data for the ranges of activations: give --data"
        )


def _measured_again(
    chosen: Selected,
    model: Graph,
    pruned: Graph,
    choice: SelectionOptions,
    data: Data | None,
) -> Selected:
    """The latency of what is left of a plan."""
    if chosen.latency is None:
        return chosen
    timer = Stopwatch(model, _sample(model, choice, data), runtime=runtime_of(choice))
    return replace(chosen, latency=timer.against(pruned, PAIRS))

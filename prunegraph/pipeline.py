"""One run, once its options are read: choose, cut, prove, recover, quantize and write."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from prunegraph.coupling.coupling import Coupling
from prunegraph.coupling.sample import full_cost
from prunegraph.errors import BudgetError, DataError, ExactnessError, ModelError
from prunegraph.graph.model import Graph
from prunegraph.isolate import isolate
from prunegraph.latency.bench import PAIRS
from prunegraph.latency.select import Selected, select
from prunegraph.measuring.latency import Latency, Stopwatch
from prunegraph.ops.cost import Cost
from prunegraph.proof.result import Proof
from prunegraph.proof.verify import verify
from prunegraph.recovery import repairs
from prunegraph.rewriting.cut import cut
from prunegraph.runtime.data import Batch, Data
from prunegraph.runtime.session import provider_name
from prunegraph.runtime.statistics import Statistics
from prunegraph.runtime.writing import first_sample, write
from prunegraph.selection.criteria.base import Gradients
from prunegraph.selection.options import SelectionOptions
from prunegraph.selection.plan import Plan, survivors
from prunegraph.selection.select import Ranking, rank

if TYPE_CHECKING:
    from prunegraph.latency.rounding import Rounding
    from prunegraph.quantization.quantize import QuantizeResult

#: Samples of the user's data that a proof looks at.
PROOF_SAMPLES = 16


@dataclass(frozen=True)
class PruneResult:
    """What `prune` did. `proof` is None where verification was turned off.

    `left_out` are groups that were chosen but stay whole, because the proof failed with them; `blame` says why.
    `repair` says how accuracy was got back after the proof. `latency` was measured where it was
    the budget, and `rounding` where `round_to` was "auto". `quantized` says what quantization did, if asked for.
    """

    model: Graph
    small: Graph
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


def choose(
    coupling: Coupling,
    choice: SelectionOptions,
    statistics: Statistics | None,
    gradients: Gradients | None,
    repair: str,
    progress: Callable[[str], None] = lambda stage: None,
) -> Selected:
    """A plan, whatever has to be measured for it."""
    if choice.allocation != "sensitivity" or statistics is None:
        inputs = _sample(coupling.graph, choice, statistics.data if statistics else None)
        return select(
            coupling, choice, statistics, gradients, inputs=inputs, progress=progress
        )
    if choice.is_measured:
        raise BudgetError(
            "allocation 'sensitivity' needs a bound on macs, params or bytes, and a number for round_to"
        )
    return Selected(
        ranking(coupling, choice, statistics, repair, progress, gradients=gradients).plan(
            choice.budget
        )
    )


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
    ranked = rank(coupling, choice, statistics, gradients)
    if choice.allocation != "sensitivity" or statistics is None:
        return ranked
    from prunegraph.tuning.sensitivity import curves

    return replace(
        ranked, curves=curves(ranked, statistics.data, repair, progress, jobs, cluster)
    )


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
    repair: str,
    *,
    out: str | os.PathLike[str] | None,
    check: bool,
    save_plan: str | os.PathLike[str] | None,
    progress: Callable[[str], None],
    quantize: str | None = None,
    seed: int = 0,
) -> PruneResult:
    """Cut, verify, recover, quantize and write: what follows once there is a plan.

    `choice` is None where the plan was given and not chosen here: it is then carried out whole, or not at all.
    """
    model, plan = coupling.graph, chosen.plan
    samples = samples.fit(model) if samples is not None else None
    repair, recover = repairs.find(repair, samples, model)
    scratch = Path(out).absolute().parent if out is not None else None
    cutting = cut_and_prove(
        coupling,
        plan,
        samples,
        check=check,
        seed=choice.seed if choice else seed,
        scratch=scratch,
        progress=progress,
        whole=choice is None,
    )
    plan, pruned, proof, left_out = (
        cutting.plan,
        cutting.small,
        cutting.proof,
        cutting.left_out,
    )
    if left_out and choice:
        chosen = _measured_again(chosen, model, pruned, choice, samples)
    pruned = recover(survivors(coupling, plan), pruned, samples, progress)
    quantized = None
    if quantize is not None:
        from prunegraph.quantization.quantize import quantize as _quantize

        quantized = _quantize(pruned, samples, weights=quantize, progress=progress)
        pruned = quantized.graph
    before, after = full_cost(model), full_cost(pruned)
    progress("write")
    if out is not None:
        write(pruned, out, like=model, data=first_sample(samples, model), check=check)
    if save_plan is not None:  # after the model, which may turn out not to run
        plan.save(save_plan)
    return PruneResult(
        model,
        pruned,
        coupling,
        plan,
        before,
        after,
        proof,
        left_out,
        repair,
        chosen.latency,
        chosen.rounding,
        quantized,
        cutting.blame,
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
    provider = provider_name(choice.provider)
    timer = Stopwatch(
        model, _sample(model, choice, data), provider=provider, threads=choice.threads
    )
    return replace(chosen, latency=timer.against(pruned, PAIRS))


@dataclass(frozen=True)
class Cutting:
    """A plan carried out.

    `proof` is None where there was no check; `left_out` are groups that broke it, and `blame` says whose fault that is.
    """

    plan: Plan
    small: Graph
    proof: Proof | None
    left_out: tuple[str, ...] = ()
    blame: str = ""


def cut_and_prove(
    coupling: Coupling,
    plan: Plan,
    samples: Data | None,
    *,
    check: bool,
    seed: int,
    scratch: Path | None = None,
    progress: Callable[[str], None] = lambda stage: None,
    whole: bool = False,
) -> Cutting:
    """Cut a plan and prove it; where the proof fails, the part of the plan that holds.

    Raises:
        ExactnessError: no part of the plan holds; with `whole`, the plan does not hold.
    """
    model = coupling.graph
    progress("cut")
    if not check:
        return Cutting(plan, cut(survivors(coupling, plan), scratch), None)
    seen = proof_batches(model, samples)
    try:
        pruned = _cut(coupling, plan, scratch)
        progress("verify")
        return Cutting(plan, pruned, verify(model, plan, pruned, data=seen, seed=seed))
    except ExactnessError as failure:
        if whole:
            raise
        progress("the proof failed, looking for the groups that are responsible")

        def attempt(part: Plan) -> None:
            verify(model, part, _cut(coupling, part), data=seen, seed=seed)

        plan, left_out = isolate(coupling, plan, attempt, failure)
        pruned = _cut(coupling, plan, scratch)
        proof = verify(model, plan, pruned, data=seen, seed=seed)
        return Cutting(plan, pruned, proof, left_out, failure.blame)


def proof_batches(model: Graph, samples: Data | None) -> list[Batch]:
    """What a proof looks at of the user's data. Raises DataError if they do not fit the model."""
    if samples is None:
        return []
    return list(samples.fit(model).head(PROOF_SAMPLES).batches(model, PROOF_SAMPLES))


def _cut(coupling: Coupling, plan: Plan, scratch: Path | None = None) -> Graph:
    """The pruned graph. Raises ExactnessError where it does not fit together: the plan does, so the cut is wrong."""
    try:
        return cut(survivors(coupling, plan), scratch)
    except ModelError as error:
        raise ExactnessError(str(error)) from error

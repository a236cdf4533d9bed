"""A plan executed: the graph is cut, the cut is proved, layers are decomposed, accuracy is recovered.

Every way to prune comes through here: `prune`, `apply`, `search` and `compress`, and methods that prune while they
train. Nothing is chosen here, and no result is written.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from prunegraph.coupling.coupling import Coupling
from prunegraph.coupling.survivors import Survivors
from prunegraph.errors import ExactnessError, ModelError
from prunegraph.graph.model import Graph
from prunegraph.isolate import isolate
from prunegraph.proof.factors import prove_factors
from prunegraph.proof.result import Proof
from prunegraph.proof.verify import verify
from prunegraph.recovery.repairs import BoundRepair
from prunegraph.rewriting.cut import cut
from prunegraph.rewriting.decompose import DecomposeResult, decompose_to
from prunegraph.runtime.data import Batch, Data
from prunegraph.selection.plan import Plan, survivors

#: Samples of the user's data that a proof looks at.
PROOF_SAMPLES = 16

#: Decomposes a graph that has been cut, on data or without.
Decomposition = Callable[[Graph, Data | None], DecomposeResult]


@dataclass(frozen=True)
class ExecutionOptions:
    """How a plan is executed.

    Args:
        repair: how accuracy is recovered.
        verify: whether the cut is proved.
        seed: of the proof's random inputs.
        whole: the plan is executed whole, or not at all; else groups that break the proof stay whole.
        scratch: folder for the weights of a model that has them in external files; None is the system's.
        progress: told what goes on.
    """

    repair: BoundRepair
    verify: bool = True
    seed: int = 0
    whole: bool = False
    scratch: Path | None = None
    progress: Callable[[str], None] = lambda stage: None


@dataclass(frozen=True)
class ExecutionResult:
    """A plan executed.

    Args:
        model: the result.
        plan: what was cut.
        survivors: the channels that are left of the original.
        pruned: the graph after the cut, before anything else.
        proof: of the cut; None where it was turned off.
        left_out: groups that broke the proof and stay whole.
        blame: whose fault that is.
        decomposed: what decomposition did, if there was one.
        factors: the proof that its chains compute what their products say; None where it was turned off.
    """

    model: Graph
    plan: Plan
    survivors: Survivors
    pruned: Graph
    proof: Proof | None
    left_out: tuple[str, ...] = ()
    blame: str = ""
    decomposed: DecomposeResult | None = None
    factors: Proof | None = None


def execute(
    coupling: Coupling,
    plan: Plan,
    data: Data | None,
    options: ExecutionOptions,
    decomposition: Decomposition | None = None,
) -> ExecutionResult:
    """Cut a plan, prove it, decompose what is left, and recover accuracy.

    Where the proof fails, the part of the plan that holds is cut. A repair that refits goes last, over the whole
    chain: the last part of a decomposed layer is fitted to what the original layer makes, from what the smaller network
    gives it, so that it makes up for everything before it. Other repairs set right what the cut has changed, before
    the decomposition.

    Args:
        coupling: that of the original.
        plan: what is cut; it may be empty.
        data: unlabelled inputs to verify on and to fit to.
        options: how.
        decomposition: decomposes the cut graph; None is what the plan says of ranks.

    Raises:
        BudgetError: `decomposition` cannot meet its budget.
        DataError: the data do not fit the model.
        ExactnessError: no part of the plan holds; with `whole`, the plan does not hold. Or decomposed layers are not
            what their parts multiply to.
        PlanError: the plan does not fit the model.
    """
    if decomposition is None and plan.ranks:
        decomposition = partial(_to_ranks, plan)
    done = _cut_and_prove(coupling, plan, data, options)
    graph, decomposed, factors, repair = done.pruned, None, None, options.repair
    if not repair.refits:
        graph = repair(done.survivors, graph, data, options.progress)
    if decomposition is not None:
        options.progress("decompose")
        decomposed = decomposition(graph, data)
        if options.verify and decomposed.layers:
            options.progress("verify what was decomposed")
            names = [row.name for row in decomposed.layers]
            # Inputs are those of the cut graph, which takes less where inputs were cut: random ones will do then.
            seen = proof_batches(graph, data) if not done.plan.interface else []
            factors = prove_factors(
                graph, decomposed.model, names, data=seen, seed=options.seed
            )
        graph = decomposed.model
    if repair.refits:
        graph = repair(done.survivors, graph, data, options.progress)
    return replace(done, model=graph, decomposed=decomposed, factors=factors)


def _to_ranks(plan: Plan, graph: Graph, data: Data | None) -> DecomposeResult:
    """A cut graph with the layers of low rank that a plan names."""
    return decompose_to(graph, plan.ranks, data=data)


def proof_batches(model: Graph, samples: Data | None) -> list[Batch]:
    """Say what a proof looks at of the user's data. Raises DataError if they do not fit the model."""
    if samples is None:
        return []
    return list(samples.fit(model).head(PROOF_SAMPLES).batches(model, PROOF_SAMPLES))


def _cut_and_prove(
    coupling: Coupling, plan: Plan, data: Data | None, options: ExecutionOptions
) -> ExecutionResult:
    """The plan cut and proved; where the proof fails, the part of it that holds."""
    model = coupling.graph
    options.progress("cut")
    remaining = survivors(coupling, plan)
    if not options.verify:
        pruned = cut(remaining, options.scratch)
        return ExecutionResult(pruned, plan, remaining, pruned, None)
    seen = proof_batches(model, data)

    def proved(
        part: Plan, remaining: Survivors, scratch: Path | None, stage: str = ""
    ) -> ExecutionResult:
        pruned = _cut(remaining, scratch)
        if stage:
            options.progress(stage)
        result = verify(
            model, part, pruned, data=seen, seed=options.seed, progress=options.progress
        )
        return ExecutionResult(pruned, part, remaining, pruned, result)

    try:
        return proved(plan, remaining, options.scratch, "verify")
    except ExactnessError as failure:
        if options.whole:
            raise
        options.progress("the proof failed, looking for the groups that are responsible")

        def attempt(part: Plan) -> None:
            proved(part, survivors(coupling, part), None)

        ranks = plan.ranks
        plan, left_out = isolate(coupling, plan, attempt, failure)
        plan = replace(plan, ranks=ranks)
        rest = proved(plan, survivors(coupling, plan), options.scratch)
        return replace(rest, left_out=left_out, blame=failure.blame)


def _cut(remaining: Survivors, scratch: Path | None) -> Graph:
    """The pruned graph. Raises ExactnessError where it does not fit together: the plan does, so the cut is wrong."""
    try:
        return cut(remaining, scratch)
    except ModelError as error:
        raise ExactnessError(str(error)) from error

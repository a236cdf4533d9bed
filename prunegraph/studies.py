"""The Python interface of sensitivity and search: many candidates, measured side by side."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Unpack

from prunegraph.api import (
    analyze,
    check_model_output,
    check_output,
    in_dtype,
    load,
    scratch,
    write_result,
)
from prunegraph.coupling.branches import Branch
from prunegraph.depth.choose import Depth
from prunegraph.depth.choose import check as check_depth
from prunegraph.depth.ways import BranchWays
from prunegraph.execution import ExecutionOptions
from prunegraph.graph.model import Graph
from prunegraph.graph.onnx_io import check_destinations
from prunegraph.keywords import takes_options
from prunegraph.latency.measured import Selected, runtime_of
from prunegraph.measuring.metrics import Named, portable
from prunegraph.measuring.parallel import check_cluster
from prunegraph.pipeline import PruneResult, finish, ranking
from prunegraph.preparation import Preparation, Preparer
from prunegraph.quantization.precision import check_dtype
from prunegraph.recovery import repairs
from prunegraph.rotation.run import check_when
from prunegraph.runtime.data import Data, Samples
from prunegraph.runtime.statistics import Statistics
from prunegraph.selection.budget import Budget
from prunegraph.selection.options import LimitKeywords, SelectionOptions
from prunegraph.selection.select import rank
from prunegraph.tuning import sensitivity as sensitivities
from prunegraph.tuning.evaluation import Study, check_trials, trials
from prunegraph.tuning.search import Goal, SearchTrace, SearchWatch, find
from prunegraph.tuning.sensitivity import RATIOS, Sensitivity, SensitivityWatch


@takes_options(SelectionOptions, without=["budget"], defaults={"round_to": 1})
def sensitivity(
    model: str | os.PathLike[str] | Graph,
    *,
    data: Samples,
    evaluation: Samples | None = None,
    metric: Named = "error",
    ratios: Sequence[float] = RATIOS,
    repair: str = "none",
    attention: str | None = None,
    blocks: str = "alike",
    rotate: str = "auto",
    jobs: int | None = None,
    cluster: str | None = None,
    resume: str | os.PathLike[str] | None = None,
    progress: Callable[[str], None] = lambda stage: None,
    watch: SensitivityWatch | None = None,
    **options: Unpack[LimitKeywords],
) -> Sensitivity:
    """Say what it costs to prune each group alone, at several ratios, and with `depth` to drop each branch.

    With `depth` "auto" residual branches are dropped one by one as well, with "only" nothing else is measured.

    Args:
        model: the model, or its path.
        data: inputs from the training distribution, for the algorithm and the repair.
        evaluation: what the metric is measured on; `data` if not given.
        metric: "error", "agreement", "kl", "top1" (needs `labels`), "file.py:function", or a function;
            see `prunegraph.measuring.metrics`.
        ratios: shares of a group's channels to remove, rising.
        repair: "none", or how each candidate is repaired ("least-squares", "bn", "absorb"; slower).
        attention: "heads" or "head_dim"; by default whichever is finer.
        blocks: whether heads, and groups of a convolution, lose the same channels ("alike") or their "own"; "both" also
            takes whole ones.
        rotate: whether channels get another basis first, as for `pg.prune`.
        jobs: worker processes; None is one for each core.
        cluster: a Dask scheduler, "tcp://host:port", or Ray, "ray:host:port", instead of processes.
        resume: a file that keeps each candidate as it is measured; what it has of the same model, data, metric and
            repair is not measured again, so that a run that was killed goes on.
        progress: called with what is being done.
        watch: called after every candidate that is new, with the curves as far as they are measured.
        options: those of `prunegraph.selection.options.SelectionOptions` but the budget; `round_to` is 1
            unless it is given.

    Raises:
        PrunegraphError: see `prunegraph.errors`.
    """
    ratios = sensitivities.check_ratios(ratios)
    samples = Data.of(data)
    options.setdefault("round_to", 1)
    choice = SelectionOptions(Budget(ratio=ratios[-1]), **options)
    check_when(rotate)
    check_cluster(cluster)
    runtime_of(choice)
    where = choice.runtime, choice.provider
    progress("load")
    whole = model if isinstance(model, Graph) else load(model)
    samples = samples.fit(whole)
    seen = Data.of(evaluation) if evaluation is not None else samples
    repairs.find(repair, samples, whole)
    preparer = Preparer(samples, True, choice.seed, None, progress)
    if preparer.seeks_bases(whole, rotate, choice, False):
        check_trials(whole, seen, portable(metric), where)
    ready = preparer.in_best_bases(Preparation(whole), rotate, choice, False)
    graph = ready.graph
    bound = repairs.find(repair, samples, graph)
    progress("analyze")
    coupling = analyze(graph, attention=attention, blocks=blocks)
    study = Study(
        coupling,
        samples,
        seen,
        portable(metric),
        bound.name,
        jobs,
        cluster,
        Path(resume) if resume else None,
        where,
    )
    with trials(study) as measured:
        progress("score")
        statistics = Statistics(graph, samples, progress=progress, metrics=ready.metrics)
        ranked = rank(coupling, choice, statistics)
        branches: list[Branch] = []
        if choice.depth != "never":
            branches = Depth(coupling, choice, samples, bound).branches
        if choice.depth == "only":
            ranked = replace(ranked, coupling=replace(coupling, groups=()))
        described = partial(_described, whole, ready)
        watched = (lambda each: watch(described(each))) if watch is not None else None
        result = sensitivities.measure(
            measured, ranked, ratios, bound.name, progress, watched, branches
        )
        return described(result)


def _described(whole: Graph, ready: Preparation, result: Sensitivity) -> Sensitivity:
    """A sensitivity of the model that was given, in whatever bases its channels were."""
    turns = ready.rotated.rotation.turns if ready.rotated is not None else ()
    return replace(result, sha256=whole.sha256, rotated=len(turns))


@dataclass(frozen=True)
class SearchResult:
    """What `search` did: `result` is like that of `prune`, `trace` tells how its plan was found."""

    result: PruneResult
    trace: SearchTrace

    @property
    def model(self) -> Graph:
        """The pruned graph."""
        return self.result.model


@takes_options(SelectionOptions, without=["budget"])
def search(
    model: str | os.PathLike[str] | Graph,
    out: str | os.PathLike[str] | None = None,
    *,
    data: Samples,
    tolerance: float,
    evaluation: Samples | None = None,
    metric: Named | None = None,
    method: str = "grid",
    by: str = "macs",
    stages: bool = False,
    attention: str | None = None,
    blocks: str = "alike",
    rotate: str = "auto",
    repair: str | None = None,
    dtype: str | None = None,
    verify: bool = True,
    save_plan: str | os.PathLike[str] | None = None,
    jobs: int | None = None,
    cluster: str | None = None,
    resume: str | os.PathLike[str] | None = None,
    progress: Callable[[str], None] = lambda stage: None,
    watch: SearchWatch | None = None,
    **options: Unpack[LimitKeywords],
) -> SearchResult:
    """Find the largest cut whose metric stays within a tolerance of the original's, and prune like that.

    No candidate is trained. The fast compression of source 001.

    Args:
        model: the model, or its path.
        out: where the pruned model goes; None writes nothing.
        data: inputs from the training distribution, for the algorithm and the repair.
        tolerance: how much worse the metric may be, in its unit: points for "top1" and "agreement".
        evaluation: what the metric is measured on; `data` if not given, which flatters a repair fitted to them.
        metric: as for `sensitivity`; by default "top1" with labels, else "agreement" for a
            model with [samples, classes], else "error".
        method: "grid" (coarse, then fine), or "bisection" (fewer candidates, expects that the
            metric falls steadily).
        by: what a strength is the share of that goes: "macs", "params", "bytes", or "ratio" for channels. With `depth`
            "auto" each strength has three candidates, of which the metric chooses: channels alone, branches half of the
            way, and branches alone; with "only" the last.
        stages: whether parts of the network are then pruned a little more or less.
        attention: "heads" or "head_dim"; by default whichever is finer.
        blocks: whether heads, and groups of a convolution, lose the same channels ("alike") or their "own"; "both" also
            takes whole ones.
        rotate: whether channels get another basis first, as for `pg.prune`.
        repair: of every candidate, and of the result: "least-squares" (the default), "bn", "absorb" or "none".
        dtype: type of the floats of the result, "float16" or "bfloat16", as for `pg.prune`; candidates are measured in
            the model's own.
        verify: whether to verify the result; a failed proof raises and nothing is written.
        save_plan: where the plan goes.
        jobs: worker processes; None is one for each core.
        cluster: a Dask scheduler, "tcp://host:port", or Ray, "ray:host:port", instead of processes.
        resume: as for `sensitivity`.
        progress: called with what is being done.
        watch: called after every candidate, with all that were looked at so far.
        options: those of `prunegraph.selection.options.SelectionOptions` but the budget.

    Raises:
        BudgetError: the tolerance is malformed, or no cut stays within it.
        PrunegraphError: see `prunegraph.errors`; nothing has been written then.
    """
    check_dtype(dtype)
    samples = Data.of(data)
    goal = Goal(tolerance, method, by, stages)
    choice = SelectionOptions(goal.budget(1), **options)
    check_when(rotate)
    check_cluster(cluster)
    if choice.depth != "never":
        check_depth(choice, samples)
    runtime = runtime_of(choice)
    given = model if not isinstance(model, Graph) else None
    if out is not None:
        check_model_output(out, given)
    if save_plan is not None:
        check_output(save_plan, given, others=(out,))
    progress("load")
    whole = model if isinstance(model, Graph) else load(model)
    check_destinations(whole, out, save_plan)
    samples = samples.fit(whole)
    seen = Data.of(evaluation) if evaluation is not None else samples
    measure = portable(metric) if metric is not None else None
    where = choice.runtime, choice.provider
    repairs.find(repair, samples, whole)
    preparer = Preparer(samples, verify, choice.seed, scratch(out), progress)
    if preparer.seeks_bases(whole, rotate, choice, False):
        check_trials(whole, seen, measure, where)
    ready = preparer.in_best_bases(Preparation(whole), rotate, choice, False)
    graph = ready.graph
    bound = repairs.find(repair, samples, graph)
    progress("analyze")
    coupling = analyze(graph, attention=attention, blocks=blocks)
    study = Study(
        coupling,
        samples,
        seen,
        measure,
        bound.name,
        jobs,
        cluster,
        Path(resume) if resume else None,
        where,
    )
    with trials(study) as measured:
        progress("score")
        statistics = Statistics(graph, samples, progress=progress, metrics=ready.metrics)
        ranked = ranking(coupling, choice, statistics, bound.name, progress, jobs, cluster)
        depth = Depth(coupling, choice, samples, bound, progress=progress)
        ways = BranchWays(depth, ranked).ways() if choice.depth != "never" else None
        match = find(measured, ranked, goal, progress, watch, ways)
    how = ExecutionOptions(
        bound, verify, choice.seed, scratch=scratch(out), progress=progress
    )
    chosen = Selected(match.plan, grounds=ranked.grounds)
    result = finish(coupling, chosen, choice, samples, how)
    if dtype is not None:
        result = in_dtype(result, dtype, samples, progress)
    result = ready.complete(result)
    result = write_result(result, samples, how, out, save_plan, runtime=runtime)
    return SearchResult(result, replace(match, plan=result.plan, sha256=whole.sha256))

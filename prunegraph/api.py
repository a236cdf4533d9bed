"""The Python interface: the pipeline's stages, and `prune`, which is all of them in one call."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prunegraph import frontends
from prunegraph.coupling.analysis import Coupling
from prunegraph.coupling.analysis import analyze as _analyze
from prunegraph.coupling.sample import full_cost
from prunegraph.errors import BudgetError, DataError, ExactnessError, ModelError
from prunegraph.graph import onnx_io
from prunegraph.graph.model import Graph
from prunegraph.isolate import isolate
from prunegraph.latency.bench import PAIRS
from prunegraph.latency.select import Selected
from prunegraph.latency.select import select as _select
from prunegraph.ops.cost import Cost
from prunegraph.recovery import repairs
from prunegraph.rewriting.compact import compact as _compact
from prunegraph.rewriting.cut import cut
from prunegraph.runtime.data import Data
from prunegraph.runtime.latency import Latency, Stopwatch
from prunegraph.runtime.session import provider_name
from prunegraph.runtime.statistics import Statistics
from prunegraph.selection.choice import Choice
from prunegraph.selection.criteria.base import Gradients
from prunegraph.selection.plan import Plan, survivors
from prunegraph.selection.select import Ranking, rank

if TYPE_CHECKING:
    from prunegraph.latency.rounding import Rounding
    from prunegraph.proof import Proof
    from prunegraph.quantization.quantize import Quantized
    from prunegraph.runtime.compare import Comparison

Batch = Mapping[str, np.ndarray]

#: Inputs of a model: arrays by input name (samples along axis 0), a sequence of such batches, or a `Data`.
Samples = Data | Batch | Sequence[Batch]

#: Samples of the user's data that a proof looks at.
PROOF_SAMPLES = 16


def load(source: object, inputs: Any = None, **options: Any) -> Graph:
    """A Graph from an ONNX file, an `onnx.ModelProto` (kept, not copied), or what a front end reads.

    Args:
        source: a path, `package.module:factory`, an `onnx.ModelProto`, or a framework's model.
        inputs: example inputs of a model that has to be run to be read (an `nn.Module`).
        options: further ones of the front end: `params_file` and `input_shapes` for MXNet.

    Raises:
        ModelError: it cannot be read, is no valid model, or its front end has no such option.
        MissingExtraError: its front end needs an extra that is not installed.
        PluginError: the front end of a plug-in is broken.
    """
    return frontends.read(source, inputs=inputs, **options)


def save(graph: Graph, path: str | os.PathLike[str], *, compact: bool = False) -> None:
    """Write a model; the file appears whole or not at all. Raises ModelError.

    `compact` makes the file smaller by short names for all but inputs and outputs; see `prunegraph.rewriting.compact`.
    """
    onnx_io.save(_compact(graph) if compact else graph, os.fspath(path))


def analyze(model: Graph, *, attention: str | None = None) -> Coupling:
    """Find the groups of channels that can be pruned, and the layers that cannot with the reason.

    `attention` is what is pruned in attention: "heads" or "head_dim"; by default whichever is
    finer. Raises UnknownNameError for anything else.
    """
    return _analyze(model, attention=attention)


def select(
    model: Graph, found: Coupling | None = None, *, data: Samples | None = None, statistics: Statistics | None = None,
    gradients: Gradients | None = None, **options: Any,
) -> Plan:  # fmt: skip
    """Choose channels to remove.

    Args:
        model: the graph.
        found: its coupling; analysed if not given.
        data: unlabelled inputs, for criteria that look at activations.
        statistics: what was gathered from data before, instead of `data`.
        gradients: of the task's loss, for criteria that need them.
        options: those of `prunegraph.selection.choice.Choice`: budget, algorithm, allocation, round_to, ...

    A budget on latency and `round_to="auto"` are measured here, in ONNX Runtime.

    Raises:
        BudgetError: the budget is malformed or cannot be met.
        DataError: the algorithm needs data or gradients and there are none, or they do not fit.
        UnknownNameError: no such algorithm, allocation, option, layer or execution provider.
        OptionError: an option of the algorithm or allocation has a value it cannot have.
    """
    samples = Data.of(data) if data is not None else None
    if statistics is None and samples is not None:
        statistics = Statistics(model, samples)
    repair, _ = repairs.find(None, statistics.data if statistics else None, model)
    return _chosen(found or analyze(model), Choice(**options), statistics, gradients, repair).plan


def apply(model: Graph, plan: Plan) -> Graph:
    """The graph without the plan's channels; `model` is untouched. Raises PlanError."""
    return cut(survivors(analyze(model, attention=plan.attention), plan))


def verify(model: Graph, plan: Plan, small: Graph, *, data: Sequence[Batch] = (), seed: int = 0) -> Proof:
    """Prove that a pruned graph computes what the masked original computes.

    Args:
        model: the original.
        plan: what was removed.
        small: the pruned graph.
        data: inputs to compare on besides random ones, arrays by input name.
        seed: of the random inputs.

    Raises:
        ExactnessError: they differ; the message names the first node that does.
    """
    from prunegraph.proof import verify as _verify

    return _verify(model, plan, small, data=[dict(batch) for batch in data], seed=seed)


def compare(
    first: Graph, second: Graph, *, data: Data | None = None, runs: int = 30, threads: int = 1, seed: int = 0,
    provider: str | None = None,
) -> Comparison:  # fmt: skip
    """Cost, output difference, latency and (with labels) accuracy of two models side by side."""
    from prunegraph.runtime.compare import compare as _compare

    name = provider_name(provider)
    return _compare(first, second, data=data, runs=runs, threads=threads, seed=seed, provider=name)


@dataclass(frozen=True)
class Result:
    """What `prune` did. `proof` is None where verification was turned off.

    `left_out` are groups that were chosen but stay whole, because the proof failed with them.
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
    quantized: Quantized | None = None


def prune(
    source: object,
    out: str | os.PathLike[str] | None = None,
    *,
    attention: str | None = None,
    data: Samples | None = None,
    gradients: Gradients | None = None,
    repair: str | None = None,
    quantize: str | None = None,
    check: bool = True,
    save_plan: str | os.PathLike[str] | None = None,
    progress: Callable[[str], None] = lambda stage: None,
    **options: Any,
) -> Result:
    """Load, analyze, select, cut, verify, recover and write, in one call.

    Args:
        source: a Graph, or anything that `load` reads.
        out: where the pruned model goes; None writes nothing.
        attention: "heads" or "head_dim"; by default whichever is finer.
        data: unlabelled inputs from the training distribution; the first samples are also verified on.
        gradients: of the task's loss, for criteria that need them.
        repair: how to get accuracy back after the proof, a registered repair, with options as in
            "absorb:map"; None is "least-squares" with data, else "none".
        quantize: type of the weights of a quantized result, such as "int8" (see `pg.quantize`); needs data.
        check: whether to verify; a failed proof raises and nothing is written.
        save_plan: where the plan goes.
        progress: called with the name of each stage as it begins.
        options: those of `prunegraph.selection.choice.Choice`: budget, algorithm, allocation, round_to, ...

    Raises:
        PrunegraphError: see `prunegraph.errors`; nothing has been written then.
    """
    samples = Data.of(data) if data is not None else None
    if quantize is not None:
        check_quantize(quantize, samples)
    choice = Choice(**options)
    if choice.provider is not None:
        provider_name(choice.provider)
    for path in (out, save_plan):
        if path is not None:
            check_output(path, source if isinstance(source, str | os.PathLike) else None)
    progress("load")
    model = source if isinstance(source, Graph) else load(source)
    repair, _ = repairs.find(repair, samples, model)
    statistics = Statistics(model, samples, progress=progress) if samples is not None else None
    progress("analyze")
    found = analyze(model, attention=attention)
    progress("select")
    chosen = _chosen(found, choice, statistics, gradients, repair, progress)
    return finish(
        found, chosen, choice, samples, repair, out=out, check=check, save_plan=save_plan, progress=progress,
        quantize=quantize,
    )  # fmt: skip


def _chosen(
    found: Coupling, choice: Choice, statistics: Statistics | None, gradients: Gradients | None, repair: str,
    progress: Callable[[str], None] = lambda stage: None,
) -> Selected:  # fmt: skip
    """A plan, whatever has to be measured for it."""
    if choice.allocation != "sensitivity" or statistics is None:
        inputs = _sample(found.graph, choice, statistics.data if statistics else None)
        return _select(found, choice, statistics, gradients, inputs=inputs, progress=progress)
    if choice.is_measured:
        raise BudgetError("allocation 'sensitivity' needs a bound on macs, params or bytes, and a number for round_to")
    return Selected(ranking(found, choice, statistics, repair, progress, gradients=gradients).plan(choice.budget))


def ranking(
    found: Coupling, choice: Choice, statistics: Statistics | None, repair: str,
    progress: Callable[[str], None] = lambda stage: None, jobs: int | None = None, cluster: str | None = None,
    gradients: Gradients | None = None,
) -> Ranking:  # fmt: skip
    """Scored channels; for an allocation that needs it also what each group costs, measured with that repair."""
    ranked = rank(found, choice, statistics, gradients)
    if choice.allocation != "sensitivity" or statistics is None:
        return ranked
    from prunegraph.tuning.sensitivity import curves

    return replace(ranked, curves=curves(ranked, statistics.data, repair, progress, jobs, cluster))


def finish(
    found: Coupling, chosen: Selected, choice: Choice, samples: Data | None, repair: str, *,
    out: str | os.PathLike[str] | None, check: bool, save_plan: str | os.PathLike[str] | None,
    progress: Callable[[str], None], quantize: str | None = None,
) -> Result:  # fmt: skip
    """Cut, verify, recover, quantize and write: what follows once there is a plan."""
    model, plan = found.graph, chosen.plan
    repair, recover = repairs.find(repair, samples, model)
    scratch = Path(out).absolute().parent if out is not None else None
    cutting = cut_and_prove(found, plan, samples, check=check, seed=choice.seed, scratch=scratch, progress=progress)
    plan, small, proof, left_out = cutting.plan, cutting.small, cutting.proof, cutting.left_out
    if left_out:
        chosen = _measured_again(chosen, model, small, choice, samples)
    small = recover(survivors(found, plan), small, samples, progress)
    quantized = None
    if quantize is not None:
        from prunegraph.quantization.quantize import quantize as _quantize

        quantized = _quantize(small, samples, weights=quantize, progress=progress)
        small = quantized.graph
    before, after = full_cost(model), full_cost(small)
    progress("write")
    if save_plan is not None:
        plan.save(save_plan)
    if out is not None:
        save(small, out)
    return Result(
        model, small, found, plan, before, after, proof, left_out, repair, chosen.latency, chosen.rounding, quantized
    )  # fmt: skip


@dataclass(frozen=True)
class Cutting:
    """A plan carried out. `proof` is None where there was no check; `left_out` are groups that broke it."""

    plan: Plan
    small: Graph
    proof: Proof | None
    left_out: tuple[str, ...] = ()


def cut_and_prove(
    found: Coupling, plan: Plan, samples: Data | None, *, check: bool, seed: int, scratch: Path | None = None,
    progress: Callable[[str], None] = lambda stage: None,
) -> Cutting:  # fmt: skip
    """Cut a plan and prove it; where the proof fails, the part of the plan that holds.

    Raises:
        ExactnessError: no part of the plan holds.
    """
    model = found.graph
    progress("cut")
    small = cut(survivors(found, plan), scratch)
    if not check:
        return Cutting(plan, small, None)
    seen = list(samples.head(PROOF_SAMPLES).batches(model, PROOF_SAMPLES)) if samples is not None else []
    progress("verify")
    try:
        return Cutting(plan, small, verify(model, plan, small, data=seen, seed=seed))
    except ExactnessError:
        progress("the proof failed, looking for the groups that are responsible")
        plan, left_out = isolate(found, plan, lambda part: _attempt(model, part, seen, seed))
        small = cut(survivors(found, plan), scratch)
        return Cutting(plan, small, verify(model, plan, small, data=seen, seed=seed), left_out)


def check_quantize(weights: str, samples: Data | None) -> None:
    """Raise before the work what quantization would raise after it."""
    from prunegraph.quantization.scheme import scheme

    scheme(weights)
    if samples is None:
        raise DataError("quantization needs data for the ranges of activations: give --data")


def _sample(model: Graph, choice: Choice, data: Data | None) -> Batch | None:
    """The first sample of the data, on which models are timed where the choice asks for that."""
    return next(data.fit(model).batches(model, 1), None) if choice.is_measured and data is not None else None


def _measured_again(chosen: Selected, model: Graph, small: Graph, choice: Choice, data: Data | None) -> Selected:
    """The latency of what is left of a plan."""
    if chosen.latency is None:
        return chosen
    provider = provider_name(choice.provider)
    timer = Stopwatch(model, _sample(model, choice, data), provider=provider, threads=choice.threads)
    return replace(chosen, latency=timer.against(small, PAIRS))


def _attempt(model: Graph, plan: Plan, data: Sequence[Batch], seed: int) -> None:
    verify(model, plan, apply(model, plan), data=data, seed=seed)


def check_output(
    path: str | os.PathLike[str],
    source: str | os.PathLike[str] | None = None,
    others: Sequence[str | os.PathLike[str] | None] = (),
) -> None:
    """Raise ModelError where a result could not be written: before the work, not after it.

    `source` is the input, `others` are further outputs: all are different files.
    """
    target = Path(path)
    if target.is_dir():
        raise ModelError(f"{target}: is a folder; give a file name")
    if not target.parent.is_dir():
        raise ModelError(f"{target}: the folder {target.parent} does not exist")
    if not os.access(target.parent, os.W_OK) or (target.exists() and not os.access(target, os.W_OK)):
        raise ModelError(f"{target}: cannot be written: permission denied")
    if source is not None and target.exists() and Path(source).exists() and target.samefile(source):
        raise ModelError(f"{target}: output and input are the same file; choose another output")
    if any(other is not None and target.resolve() == Path(other).resolve() for other in others):
        raise ModelError(f"{target}: two outputs are the same file; choose another name for one of them")

"""The Python interface: the pipeline's stages, and `prune`, which is all of them in one call."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from prunegraph.coupling.analysis import Coupling
from prunegraph.coupling.analysis import analyze as _analyze
from prunegraph.errors import DataError, ExactnessError, ModelError, UnknownNameError
from prunegraph.frontends import onnx_file
from prunegraph.graph import onnx_io
from prunegraph.graph.model import Graph
from prunegraph.isolate import isolate
from prunegraph.latency.bench import PAIRS
from prunegraph.latency.select import Selected
from prunegraph.latency.select import select as _select
from prunegraph.ops.cost import Cost, cost
from prunegraph.recovery import least_squares
from prunegraph.rewriting.cut import cut
from prunegraph.runtime.data import Data
from prunegraph.runtime.latency import Latency, Stopwatch
from prunegraph.runtime.session import provider_name
from prunegraph.runtime.statistics import Statistics
from prunegraph.selection.choice import Choice
from prunegraph.selection.plan import Plan, survivors

if TYPE_CHECKING:
    from prunegraph.latency.rounding import Rounding
    from prunegraph.proof import Proof
    from prunegraph.runtime.compare import Comparison

Batch = Mapping[str, np.ndarray]

#: Inputs of a model: arrays by input name (samples along axis 0), a sequence of such batches, or a `Data`.
Samples = Data | Batch | Sequence[Batch]

#: Ways to get accuracy back after the cut.
REPAIRS = ("none", "least-squares")

#: Samples of the user's data that a proof looks at.
PROOF_SAMPLES = 16


def load(source: str | os.PathLike[str] | onnx.ModelProto) -> Graph:
    """A Graph from an ONNX file or an `onnx.ModelProto` (kept, not copied).

    Raises:
        ModelError: it cannot be read or is no valid model.
    """
    if isinstance(source, onnx.ModelProto):
        return onnx_io.from_model(source)
    return onnx_file.load(os.fspath(source))


def save(graph: Graph, path: str | os.PathLike[str]) -> None:
    """Write a model; the file appears whole or not at all. Raises ModelError."""
    onnx_io.save(graph, os.fspath(path))


def analyze(model: Graph, *, attention: str | None = None) -> Coupling:
    """Find the groups of channels that can be pruned, and the layers that cannot with the reason.

    `attention` is what is pruned in attention: "heads" or "head_dim"; by default whichever is
    finer. Raises UnknownNameError for anything else.
    """
    return _analyze(model, attention=attention)


def select(
    model: Graph, found: Coupling | None = None, *, data: Samples | None = None, statistics: Statistics | None = None,
    **options: Any,
) -> Plan:  # fmt: skip
    """Choose channels to remove.

    Args:
        model: the graph.
        found: its coupling; analysed if not given.
        data: unlabelled inputs, for criteria that look at activations.
        statistics: what was gathered from data before, instead of `data`.
        options: those of `prunegraph.selection.choice.Choice`: budget, algorithm, allocation, round_to, ...

    A budget on latency and `round_to="auto"` are measured here, in ONNX Runtime.

    Raises:
        BudgetError: the budget is malformed or cannot be met.
        DataError: the algorithm needs data and there are none, or they do not fit.
        UnknownNameError: no such algorithm, allocation, layer or execution provider.
    """
    samples = Data.of(data) if data is not None else None
    if statistics is None and samples is not None:
        statistics = Statistics(model, samples)
    choice = Choice(**options)
    return _select(found or analyze(model), choice, statistics, inputs=_sample(model, choice, samples)).plan


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
    `latency` was measured where it was the budget, and `rounding` where `round_to` was "auto".
    """

    model: Graph
    small: Graph
    coupling: Coupling
    plan: Plan
    before: Cost
    after: Cost
    proof: Proof | None
    left_out: tuple[str, ...] = ()
    latency: Latency | None = None
    rounding: Rounding | None = None


def prune(
    source: str | os.PathLike[str] | Graph,
    out: str | os.PathLike[str] | None = None,
    *,
    attention: str | None = None,
    data: Samples | None = None,
    repair: str | None = None,
    check: bool = True,
    save_plan: str | os.PathLike[str] | None = None,
    progress: Callable[[str], None] = lambda stage: None,
    **options: Any,
) -> Result:
    """Load, analyze, select, cut, verify, recover and write, in one call.

    Args:
        source: the model, or its path.
        out: where the pruned model goes; None writes nothing.
        attention: "heads" or "head_dim"; by default whichever is finer.
        data: unlabelled inputs from the training distribution; the first samples are also verified on.
        repair: "none", or "least-squares" (the default with data): after the proof, the weights
            of layers behind a cut are refitted to the original's outputs.
        check: whether to verify; a failed proof raises and nothing is written.
        save_plan: where the plan goes.
        progress: called with the name of each stage as it begins.
        options: those of `prunegraph.selection.choice.Choice`: budget, algorithm, allocation, round_to, ...

    Raises:
        PrunegraphError: see `prunegraph.errors`; nothing has been written then.
    """
    samples = Data.of(data) if data is not None else None
    repair = _repair(repair, samples)
    choice = Choice(**options)
    if choice.provider is not None:
        provider_name(choice.provider)
    for path in (out, save_plan):
        if path is not None:
            check_output(path, source if not isinstance(source, Graph) else None)
    progress("load")
    model = source if isinstance(source, Graph) else load(source)
    statistics = Statistics(model, samples, progress=progress) if samples is not None else None
    progress("analyze")
    found = analyze(model, attention=attention)
    progress("select")
    chosen = _select(found, choice, statistics, inputs=_sample(model, choice, samples), progress=progress)
    plan = chosen.plan
    progress("cut")
    scratch = Path(out).absolute().parent if out is not None else None
    small = cut(survivors(found, plan), scratch)
    proof = None
    left_out: tuple[str, ...] = ()
    seen = list(samples.head(PROOF_SAMPLES).batches(model, PROOF_SAMPLES)) if samples is not None else []
    if check:
        progress("verify")
        try:
            proof = verify(model, plan, small, data=seen, seed=choice.seed)
        except ExactnessError:
            progress("the proof failed, looking for the groups that are responsible")
            plan, left_out = isolate(found, plan, lambda part: _attempt(model, part, seen, choice.seed))
            small = cut(survivors(found, plan), scratch)
            proof = verify(model, plan, small, data=seen, seed=choice.seed)
            chosen = _measured_again(chosen, model, small, choice, samples)
    if samples is not None and repair == "least-squares":
        small = least_squares.repair(survivors(found, plan), small, samples, progress)
    progress("write")
    if save_plan is not None:
        plan.save(save_plan)
    if out is not None:
        save(small, out)
    return Result(model, small, found, plan, cost(model), cost(small), proof, left_out, chosen.latency, chosen.rounding)


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


def _repair(name: str | None, data: Data | None) -> str:
    """The way of recovery: least squares by default where there are data. Raises."""
    if name not in (None, *REPAIRS):
        raise UnknownNameError("repair", str(name), REPAIRS)
    if name not in (None, "none") and data is None:
        raise DataError(f"repair {name!r} needs data: give --data, or repair 'none'")
    return name or ("least-squares" if data is not None else "none")


def _attempt(model: Graph, plan: Plan, data: Sequence[Batch], seed: int) -> None:
    verify(model, plan, apply(model, plan), data=data, seed=seed)


def check_output(path: str | os.PathLike[str], source: str | os.PathLike[str] | None = None) -> None:
    """Raise ModelError where a result could not be written: before the work, not after it."""
    target = Path(path)
    if target.is_dir():
        raise ModelError(f"{target}: is a folder; give a file name")
    if not target.parent.is_dir():
        raise ModelError(f"{target}: the folder {target.parent} does not exist")
    if not os.access(target.parent, os.W_OK) or (target.exists() and not os.access(target, os.W_OK)):
        raise ModelError(f"{target}: cannot be written: permission denied")
    if source is not None and target.exists() and Path(source).exists() and target.samefile(source):
        raise ModelError(f"{target}: output and input are the same file; choose another output")

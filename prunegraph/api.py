"""The Python interface: the pipeline's stages, and `prune`, which is all of them in one call."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import numpy as np

from prunegraph import frontends
from prunegraph.coupling.analysis import analyze as _analyze
from prunegraph.coupling.coupling import Coupling
from prunegraph.coupling.sample import full_cost
from prunegraph.decoders.config import check_ids, write_configs
from prunegraph.decoders.vocabulary import map_path, shrink, write_map
from prunegraph.errors import ModelError
from prunegraph.execution import ExecutionOptions
from prunegraph.frontends.outputs import beside, check_name, is_symbol
from prunegraph.graph.model import Graph
from prunegraph.graph.onnx_io import check_destinations, check_is_file
from prunegraph.keywords import takes_options
from prunegraph.latency.measured import Selected, runtime_of
from prunegraph.pipeline import (
    PruneResult,
    check_quantize,
    choose,
    error_metrics,
    finish,
)
from prunegraph.preparation import Preparer, kept_tokens
from prunegraph.proof.factors import prove_factors
from prunegraph.quantization.precision import check_dtype, to_dtype
from prunegraph.recovery import repairs
from prunegraph.rewriting.cut import cut
from prunegraph.rewriting.decompose import decompose_to
from prunegraph.rewriting.short_names import compact as _compact
from prunegraph.rewriting.vocabulary import shrink_vocabulary
from prunegraph.rotation.rotate import rotate as _rotate
from prunegraph.rotation.run import (
    check_when,
    rotated,
)
from prunegraph.runtime.data import Data, Samples
from prunegraph.runtime.engine import Runtime
from prunegraph.runtime.runtimes import DEFAULT, find
from prunegraph.runtime.statistics import Statistics
from prunegraph.runtime.writing import first_sample, write
from prunegraph.selection.criteria.base import Gradients
from prunegraph.selection.options import SelectionKeywords, SelectionOptions
from prunegraph.selection.plan import Plan, survivors

if TYPE_CHECKING:
    from prunegraph.measuring.compare import Comparison
    from prunegraph.proof.result import Proof

Batch = Mapping[str, np.ndarray]


def load(source: object, inputs: object = None, **options: object) -> Graph:
    """A Graph from an ONNX file, an `onnx.ModelProto` (kept, not copied), or what a front end reads.

    Args:
        source: a path, `package.module:factory`, an `onnx.ModelProto`, or a framework's model.
        inputs: example inputs of a model that has to be run to be read (an `nn.Module`).
        options: further ones of the front end: `input_shapes` for ONNX files (axes they leave open become fixed) and
            for MXNet, `params_file` for MXNet.

    Raises:
        ModelError: it cannot be read, is no valid model, or its front end has no such option.
        MissingExtraError: its front end needs an extra that is not installed.
        PluginError: the front end of a plug-in is broken.
    """
    return frontends.read(source, inputs=inputs, **options)


def save(
    model: Graph,
    path: str | os.PathLike[str],
    *,
    compact: bool = False,
    like: Graph | None = None,
    data: Sequence[Batch] = (),
    verify: bool = True,
    runtime: str = DEFAULT,
) -> None:
    """Write a model as ONNX; the file appears whole, and only if ONNX Runtime runs it.

    Args:
        model: what is written.
        path: where it goes.
        compact: use short names for all but inputs and outputs; see `prunegraph.rewriting.short_names`.
        like: the model it was made from: where that does not run either, the file is written with a warning.
        data: inputs to run it on, besides random ones.
        verify: whether to open the file; a graph that is just what a file held is never opened.
        runtime: where it is opened and run besides: "openvino".

    Raises:
        MissingExtraError: the runtime is not installed.
        ModelError: the file does not run, its name is another format's, or its destination cannot be written.
    """
    check_name(path)
    graph = _compact(model) if compact else model
    where = find(runtime)
    write(graph, path, like=like, data=data, verify=verify, runtime=where)


def analyze(
    model: Graph,
    *,
    attention: str | None = None,
    blocks: str = "alike",
    allow_io: Sequence[str] = (),
) -> Coupling:
    """Find the groups of channels that can be pruned, and the layers that cannot with the reason.

    Args:
        model: the graph.
        attention: what is pruned in attention: "heads" or "head_dim"; by default whichever is finer.
        blocks: which channels go where heads, or groups of a convolution, lose some: the same ones everywhere
            ("alike"), or its "own" in each, equally many; with "both", whole heads or groups can go besides.
        allow_io: inputs and outputs, by name or pattern, whose axes of fixed size may lose indices: those of a
            key/value cache (`("past*", "present*")`).

    Raises:
        UnknownNameError: there is no such unit, choice, input or output.
    """
    return _analyze(model, attention=attention, blocks=blocks, allow_io=allow_io)


@takes_options(SelectionOptions)
def select(
    model: Graph,
    coupling: Coupling | None = None,
    *,
    data: Samples | None = None,
    statistics: Statistics | None = None,
    gradients: Gradients | None = None,
    **options: Unpack[SelectionKeywords],
) -> Plan:
    """Choose channels to remove.

    Args:
        model: the graph.
        coupling: its coupling; analysed if not given.
        data: unlabelled inputs, for criteria that look at activations.
        statistics: what was gathered from data before, instead of `data`.
        gradients: of the task's loss, for criteria that need them.
        options: those of `prunegraph.selection.options.SelectionOptions`: budget, algorithm, allocation, round_to, ...

    A budget on latency and `round_to="auto"` are measured here, in ONNX Runtime.

    Raises:
        BudgetError: the budget is malformed or cannot be met.
        DataError: the algorithm needs data or gradients and there are none, or they do not fit.
        UnknownNameError: no such algorithm, allocation, option, layer, runtime or device.
        OptionError: an option of the algorithm or allocation has a value it cannot have.
    """
    choice = SelectionOptions(**options)
    samples = Data.of(data) if data is not None else None
    if statistics is None and samples is not None:
        metrics = error_metrics(model, samples, choice)
        statistics = Statistics(model, samples, metrics=metrics)
    repair = repairs.find(None, statistics.data if statistics else None, model)
    return choose(
        coupling or analyze(model),
        choice,
        statistics,
        gradients,
        repair.name,
    ).plan


def apply(model: Graph, plan: Plan) -> Graph:
    """The graph without the plan's channels, its layers at the plan's ranks; `model` is untouched. Raises PlanError."""
    base = _base(model, plan)
    pruned = cut(survivors(plan.coupling(base), plan))
    return decompose_to(pruned, plan.ranks).model if plan.ranks else pruned


def _base(model: Graph, plan: Plan) -> Graph:
    """The graph that a plan is for: the model, or what is left of it with a smaller vocabulary, rotated."""
    if plan.vocabulary is not None:
        model = shrink_vocabulary(
            model, plan.vocabulary.kept, old_ids=plan.vocabulary.old_ids
        ).model
    return model if plan.rotation is None else _rotate(model, plan.rotation)


def verify(
    model: Graph,
    plan: Plan,
    pruned: Graph,
    *,
    data: Batch | Sequence[Batch] = (),
    seed: int = 0,
    progress: Callable[[str], None] = lambda stage: None,
) -> Proof:
    """Prove that a pruned graph computes what the masked original computes.

    A smaller vocabulary and a rotation that the plan has are proved on the way. Where the plan has ranks, the cut is
    proved before them, and then that the graph computes what its factors multiply to, whatever these are.

    Args:
        model: the original.
        plan: what was removed.
        pruned: the pruned graph.
        data: inputs to compare on besides random ones, arrays by input name; of one batch, or of several.
        seed: of the random inputs.
        progress: called with each step of the proof as it begins.

    Raises:
        ExactnessError: they differ; the message names the first node that does.
    """
    from prunegraph.proof.verify import verify as _verify

    data = [data] if isinstance(data, Mapping) else data
    base, tokens = model, plan.vocabulary
    if tokens is not None:
        whole = [dict(batch) for batch in data]
        base = shrink(model, tokens.kept, old_ids=tokens.old_ids, data=whole, seed=seed)[
            0
        ].model
    if plan.rotation is not None:
        seen = [base.intake.since(model.intake).read(batch) for batch in data]
        base = rotated(base, plan.rotation, data=seen, seed=seed).model
    batches = [base.intake.since(model.intake).read(batch) for batch in data]
    if not plan.ranks:
        return _verify(base, plan, pruned, data=batches, seed=seed, progress=progress)
    narrow = cut(survivors(plan.coupling(base), plan))
    proof = _verify(base, plan, narrow, data=batches, seed=seed)
    names = [each.layer for each in plan.ranks]
    factors = prove_factors(
        narrow, pruned, names, data=[] if plan.interface else batches, seed=seed
    )
    return max(proof, factors, key=lambda each: each.relative)


def compare(
    first: Graph,
    second: Graph,
    *,
    data: Samples | None = None,
    runs: int = 30,
    threads: int = 1,
    seed: int = 0,
    provider: str | None = None,
    runtime: str = DEFAULT,
    metric: str = "",
) -> Comparison:
    """Cost, output difference, latency and (with labels) accuracy of two models side by side.

    `runtime` is where both run ("onnxruntime" or "openvino"), `provider` its device. `metric` is another one than
    top-1, as in `search`; it needs data.
    """
    from prunegraph.measuring.compare import compare as _compare

    return _compare(
        first,
        second,
        data=Data.of(data) if data is not None else None,
        runs=runs,
        seed=seed,
        runtime=find(runtime, provider, threads),
        metric=metric,
    )


@takes_options(SelectionOptions)
def prune(
    model: object,
    out: str | os.PathLike[str] | None = None,
    *,
    attention: str | None = None,
    blocks: str = "alike",
    allow_io: Sequence[str] = (),
    vocabulary: str | os.PathLike[str] | Sequence[int] | None = None,
    old_ids: bool = False,
    rotate: str = "auto",
    data: Samples | None = None,
    mask_input: str | None = None,
    gradients: Gradients | None = None,
    repair: str | None = None,
    quantize: str | None = None,
    dtype: str | None = None,
    verify: bool = True,
    save_plan: str | os.PathLike[str] | None = None,
    progress: Callable[[str], None] = lambda stage: None,
    **options: Unpack[SelectionKeywords],
) -> PruneResult:
    """Load, analyze, select, cut, verify, recover and write, in one call.

    Args:
        model: a Graph, or anything that `load` reads.
        out: where the pruned model goes; None writes nothing.
        attention: "heads" or "head_dim"; by default whichever is finer.
        blocks: whether heads, and groups of a convolution, lose the same channels ("alike") or their "own"; "both" also
            takes whole ones.
        allow_io: inputs and outputs whose axes may lose indices, by name or pattern; see `analyze`. Data are given as
            the original takes them.
        vocabulary: ids of the tokens that stay, or a file of them (see `prunegraph.decoders.vocabulary`). This goes
            first: a budget counts from the model with the smaller vocabulary. Data hold old ids.
        old_ids: whether the inputs go on to take old ids; one that is gone is read as the lowest that is kept.
        rotate: whether channels that pass only what is linear get another basis first (see `prunegraph.rotation`):
            "never", "always", or "auto", which is where there are data and the algorithm is "obs".
        data: unlabelled inputs from the training distribution; the first samples are also verified on.
        mask_input: the integer or boolean input that is 0 at positions which do not count; None is `attention_mask`
            where there is one, "none" lets all count (see `prunegraph.runtime.row_mask`).
        gradients: of the task's loss, for criteria that need them.
        repair: how to get accuracy back after the proof, a registered repair, with options as in
            "absorb:map"; None is "least-squares" with data, else "none".
        quantize: type of the weights of a quantized result, such as "int8" (see `pg.quantize`); needs data.
        dtype: type of the floats of the result, "float16" or "bfloat16" (see `prunegraph.quantization.precision`).
        verify: whether to verify; a failed proof raises and nothing is written.
        save_plan: where the plan goes.
        progress: called with the name of each stage as it begins.
        options: those of `prunegraph.selection.options.SelectionOptions`: budget, algorithm, allocation, round_to, ...

    Raises:
        PrunegraphError: see `prunegraph.errors`; nothing has been written then.
    """
    samples = Data.of(data).masked(mask_input) if data is not None else None
    if quantize is not None:
        check_quantize(quantize, samples)
    check_dtype(dtype, quantize)
    choice = SelectionOptions(**options)
    check_when(rotate)
    runtime = runtime_of(choice)
    given = model if isinstance(model, str | os.PathLike) else None
    if out is not None:
        check_model_output(out, given)
    if save_plan is not None:
        check_output(save_plan, given, others=(out,))
    keep = kept_tokens(vocabulary, old_ids, gradients is not None)
    if keep is not None and out is not None:
        check_output(map_path(out), given, others=(out, save_plan))
    progress("load")
    whole = model if isinstance(model, Graph) else load(model)
    check_destinations(whole, out, save_plan)
    if keep is not None and not old_ids and (described := _file_of(whole)) is not None:
        check_ids(described, keep.kept)
    preparer = Preparer(samples, verify, choice.seed, scratch(out), progress)
    ready = preparer.with_vocabulary(whole, keep)
    samples = samples.fit(ready.graph) if samples is not None else None
    preparer = replace(preparer, samples=samples)
    ready = preparer.in_best_bases(ready, rotate, choice, gradients is not None)
    graph = ready.graph
    bound = repairs.find(repair, samples, graph)
    statistics = (
        Statistics(graph, samples, progress=progress, metrics=ready.metrics)
        if samples is not None
        else None
    )
    progress("analyze")
    coupling = analyze(graph, attention=attention, blocks=blocks, allow_io=allow_io)
    progress("select")
    chosen = choose(coupling, choice, statistics, gradients, bound.name, progress)
    how = ExecutionOptions(
        bound, verify, choice.seed, scratch=scratch(out), progress=progress
    )
    result = finish(coupling, chosen, choice, samples, how, quantize=quantize)
    if dtype is not None:
        result = in_dtype(result, dtype, samples, progress)
    result = ready.complete(result)
    return write_result(
        result, samples, how, out, save_plan, _file_of(whole), runtime=runtime
    )


def in_dtype(
    result: PruneResult, dtype: str, samples: Data | None, progress: Callable[[str], None]
) -> PruneResult:
    """The result in 16-bit floats. Raises ModelError."""
    precision = to_dtype(result.model, dtype, samples, progress=progress)
    model = precision.model
    return replace(result, model=model, after=full_cost(model), precision=precision)


def _file_of(model: Graph) -> str | None:
    """The file that a graph was read from, if it was: what lies beside it may describe it."""
    return model.source if model.is_file else None


def apply_plan(
    model: object,
    plan: Plan,
    out: str | os.PathLike[str] | None = None,
    *,
    data: Samples | None = None,
    mask_input: str | None = None,
    repair: str | None = None,
    quantize: str | None = None,
    dtype: str | None = None,
    verify: bool = True,
    seed: int = 0,
    save_plan: str | os.PathLike[str] | None = None,
    progress: Callable[[str], None] = lambda stage: None,
) -> PruneResult:
    """Load, cut, verify, recover and write by a plan that is there: `prune` without the choice.

    Args:
        model: a Graph, or anything that `load` reads.
        plan: what goes. It is carried out whole, or not at all.
        out: where the pruned model goes; None writes nothing.
        data: unlabelled inputs from the training distribution; the first samples are also verified on.
        mask_input: as for `prune`.
        repair: as for `prune`: None is "least-squares" with data, else "none".
        quantize: type of the weights of a quantized result, such as "int8"; needs data.
        dtype: as for `prune`: "float16" or "bfloat16".
        verify: whether to verify; a failed proof raises and nothing is written.
        seed: of the random inputs of the proof.
        save_plan: where the plan goes, with all cuts.
        progress: called with the name of each stage as it begins.

    Raises:
        PlanError: the plan is for another model, or names what is not there.
        PrunegraphError: see `prunegraph.errors`; nothing has been written then.
    """
    samples = Data.of(data).masked(mask_input) if data is not None else None
    if quantize is not None:
        check_quantize(quantize, samples)
    check_dtype(dtype, quantize)
    given = model if isinstance(model, str | os.PathLike) else None
    if out is not None:
        check_model_output(out, given)
    if save_plan is not None:
        check_output(save_plan, given, others=(out,))
    progress("load")
    whole = model if isinstance(model, Graph) else load(model)
    check_destinations(whole, out, save_plan)
    preparer = Preparer(samples, verify, seed, scratch(out), progress)
    ready = preparer.with_vocabulary(whole, plan.vocabulary)
    ready = preparer.in_bases(ready, plan.rotation)
    graph = ready.graph
    bound = repairs.find(repair, samples, graph)
    progress("analyze")
    coupling = plan.coupling(graph)
    survivors(coupling, plan)
    samples = samples.fit(graph) if samples is not None else None
    how = ExecutionOptions(bound, verify, seed, True, scratch(out), progress)
    chosen = Selected(plan.complete(graph))
    result = finish(coupling, chosen, None, samples, how, quantize=quantize)
    if dtype is not None:
        result = in_dtype(result, dtype, samples, progress)
    result = ready.complete(result)
    return write_result(result, samples, how, out, save_plan, _file_of(whole))


def scratch(out: str | os.PathLike[str] | None) -> Path | None:
    """Where weights wait that are too large for a file of their own: beside the result."""
    return Path(out).absolute().parent if out is not None else None


def write_result(
    result: PruneResult,
    samples: Data | None,
    how: ExecutionOptions,
    out: str | os.PathLike[str] | None,
    save_plan: str | os.PathLike[str] | None,
    source: str | os.PathLike[str] | None = None,
    *,
    runtime: Runtime | None = None,
) -> PruneResult:
    """Write the pruned model, then what goes beside it and its plan: the model may turn out not to run.

    Where `source` is the file of the original, files that describe it there are written for the result, too. The
    result is returned with their names. `runtime` is where the model is opened besides.
    """
    how.progress("write")
    if out is not None:
        first = first_sample(samples, result.original, result.model)
        write(
            result.model,
            out,
            like=result.original,
            data=first,
            verify=how.verify,
            runtime=runtime,
        )
        if result.vocabulary is not None:
            write_map(result.vocabulary, map_path(out))
        if source is not None:
            remaining = survivors(result.coupling, result.plan)
            described = write_configs(source, out, remaining, result.vocabulary)
            result = replace(result, configured=described)
    if save_plan is not None:
        result.plan.save(save_plan)
    return result


def check_model_output(
    path: str | os.PathLike[str],
    source: str | os.PathLike[str] | None = None,
    *,
    symbol: bool = False,
) -> None:
    """As `check_output`, for a model: its name must not stand for another format than what is written.

    `symbol` says that a model from MXNet may be written as NAME-symbol.json, with NAME-0000.params beside it.
    """
    check_name(path, source, symbol=symbol)
    check_output(path, source)
    if is_symbol(path):
        check_output(beside(os.fspath(path)), source)


def check_output(
    path: str | os.PathLike[str],
    source: str | os.PathLike[str] | None = None,
    others: Sequence[str | os.PathLike[str] | None] = (),
) -> None:
    """Raise ModelError where a result could not be written: before the work, not after it.

    `source` is the input, `others` are further outputs: all are different files.
    """
    target = Path(path)
    if os.fspath(path) == "-":
        raise ModelError(
            "-: give a file name; of a command's results only --json goes to stdout"
        )
    if target.is_dir():
        raise ModelError(f"{target}: is a folder; give a file name")
    check_is_file(target)
    if not target.parent.is_dir():
        raise ModelError(f"{target}: the folder {target.parent} does not exist")
    if not os.access(target.parent, os.W_OK) or (
        target.exists() and not os.access(target, os.W_OK)
    ):
        raise ModelError(f"{target}: cannot be written: permission denied")
    if (
        source is not None
        and target.exists()
        and Path(source).exists()
        and target.samefile(source)
    ):
        raise ModelError(
            f"{target}: output and input are the same file; choose another output"
        )
    if any(
        other is not None and target.resolve() == Path(other).resolve() for other in others
    ):
        raise ModelError(
            f"{target}: two outputs are the same file; choose another name for one of them"
        )

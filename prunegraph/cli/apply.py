"""`prunegraph apply`: a plan from anywhere, carried out like one of `prune`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from prunegraph.cli.console import check_json, console, stages, write_json
from prunegraph.cli.evaluated import (
    evaluated_options,
    load_evaluation,
    show_evaluation,
)
from prunegraph.cli.loading import load_data, load_model
from prunegraph.cli.options import (
    READ,
    REFIT,
    data_option,
    dtype_option,
    json_option,
    mask_input_option,
    model_argument,
    output_option,
    proof_options,
    quantize_option,
    reading_options,
    repair_option,
    report_options,
    seed_option,
)
from prunegraph.cli.reading import reading
from prunegraph.cli.recipe import Writes
from prunegraph.cli.results import report_writer, show_result

if TYPE_CHECKING:
    from prunegraph.pipeline import PruneResult


@click.command(
    cls=Writes,
    examples=[
        "apply model.onnx plan.json -o small.onnx",
        "apply model.onnx plan.json -o small.onnx --data images.npz",
    ],
)
@model_argument()
@click.argument("plan", type=READ)
@output_option()
@data_option(REFIT)
@mask_input_option()
@repair_option()
@seed_option("Of the random inputs of the proof.")
@proof_options
@report_options
@evaluated_options
@quantize_option()
@dtype_option()
@json_option()
@reading_options
def apply(
    model: str,
    plan: str,
    out: str,
    data: str | None,
    evaluation: str | None,
    metric: str,
    no_verify: bool,
    report: str | None,
    sensitivity: str | None,
    json_path: str | None,
    **options: Any,
) -> None:
    """Cut the channels that a PLAN file names out of MODEL.

    OUT is an ONNX model or, for a MODEL from MXNet, NAME-symbol.json: NAME-0000.params goes beside it.
    """
    from prunegraph import api
    from prunegraph.errors import ModelError
    from prunegraph.frontends.outputs import is_symbol
    from prunegraph.report import content
    from prunegraph.selection.plan import Plan

    symbol, saved = (out, options.pop("save_plan")) if is_symbol(out) else (None, None)
    if symbol is not None:
        _check_symbol(model, symbol, saved, options)
    write_report = report_writer(report, sensitivity)
    api.check_model_output(out, model, symbol=True)
    check_json(json_path)
    where = console()
    with stages(where) as progress:
        chosen = Plan.load(plan)
        if symbol is not None and chosen.rotation is not None:
            raise ModelError(f"{plan}: rotated weights are written as ONNX: give OUT.onnx")
        progress("load")
        graph = load_model(model)
        samples = load_data(data, graph, progress)
        is_same = not chosen.interface and (
            chosen.vocabulary is None or chosen.vocabulary.old_ids
        )
        seen = load_evaluation(evaluation, metric, graph, progress, is_same=is_same)
        result = api.apply_plan(
            graph,
            chosen,
            None if symbol else out,
            data=samples,
            verify=not no_verify,
            progress=progress,
            **options,
        )
        if symbol is not None:
            _write_symbol(model, result, symbol)
            if saved:
                result.plan.save(saved)
    show_result(
        where,
        result,
        samples and samples.masked(options["mask_input"]),
        out,
        saved or options.get("save_plan"),
    )
    measured = show_evaluation(where, graph, result.model, seen, metric)
    write_report(where, result, samples)
    write_json(content.pruned(result, out, measured), json_path)


def _check_symbol(
    model: str, out: str, plan: str | None, options: Mapping[str, Any]
) -> None:
    """Raise ModelError where a result cannot be a symbol, or cannot be written."""
    from prunegraph import api
    from prunegraph.errors import ModelError
    from prunegraph.frontends.outputs import beside

    for option, what in (
        ("quantize", "a quantized model"),
        ("dtype", "one of 16-bit floats"),
    ):
        if options[option]:
            raise ModelError(
                f"{out}: {what} is written as ONNX: give OUT.onnx, or leave --{option} out"
            )
    if plan:
        api.check_output(plan, model, others=(out, beside(out)))


def _write_symbol(model: str, result: PruneResult, out: str) -> None:
    """The pruned network as MXNet's own files. Raises ModelError."""
    from prunegraph import api
    from prunegraph.frontends import mxnet
    from prunegraph.frontends.outputs import beside

    options = reading()
    if result.repair == "none":
        mxnet.apply(model, result.plan, result.model, out, beside(out), **options)
        return
    pruned = api.apply(result.original, result.plan)
    mxnet.apply(
        model, result.plan, pruned, out, beside(out), repaired=result.model, **options
    )

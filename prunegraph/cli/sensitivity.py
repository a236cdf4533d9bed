"""`prunegraph sensitivity`: what it costs to prune each group alone, or to drop each branch."""

from __future__ import annotations

from typing import Any

import click

from prunegraph.cli.command import Command, Section, option
from prunegraph.cli.console import check_json, console, stages, write_json
from prunegraph.cli.loading import load_data, load_model
from prunegraph.cli.options import (
    choice_options,
    depth_option,
    metric_option,
    model_argument,
    provider_option,
    reading_options,
    repair_option,
    report_option,
    rotate_option,
    round_to_option,
    runtime_option,
    sweep_options,
)
from prunegraph.cli.results import check_report, watching


def _ratios(ctx: click.Context, parameter: click.Parameter, value: str) -> list[float]:
    try:
        return [float(part) for part in value.split(",")]
    except ValueError:
        raise click.BadParameter(
            f"{value!r} is not a list of numbers such as 0.1,0.25,0.5"
        ) from None


@click.command(
    cls=Command, examples=["sensitivity model.onnx --data images.npz --json curves.json"]
)
@model_argument()
@sweep_options
@metric_option(
    "error, agreement, kl, cosine, top1, f1, miou, map, map50, perplexity, word_accuracy or file.py:function.",
    default="error",
    show_default=True,
)
@option(
    Section.METHOD,
    "--ratios",
    default="0.1,0.25,0.5,0.75",
    show_default=True,
    callback=_ratios,
    help="Shares to remove.",
)
@repair_option("How each candidate is repaired.", default="none", show_default=True)
@round_to_option("Kept channels are a multiple of this.", default="1")
@runtime_option("Where the original and the candidates run: onnxruntime or openvino.")
@provider_option()
@choice_options
@depth_option(
    "Whether residual branches are dropped one by one as well (auto), or nothing else (only)."
)
@rotate_option()
@report_option("Write an HTML page of the curves, anew while they are measured.")
@reading_options
def sensitivity(
    model: str,
    data: str,
    evaluation: str | None,
    json_path: str | None,
    report: str | None,
    **options: Any,
) -> None:
    """Show what it costs to prune each group of MODEL alone."""
    from prunegraph import studies
    from prunegraph.report import tables

    check_json(json_path)
    check_report(report)
    where = console()
    with stages(where) as progress:
        progress("load")
        graph = load_model(model)
        seen = load_data(evaluation, graph, progress, part="val")
        samples = load_data(data, graph, progress)
        with watching(report, graph) as page:
            result = studies.sensitivity(
                graph,
                data=samples,
                evaluation=seen,
                progress=progress,
                watch=page.sensitivity if page else None,
                **options,
            )
    if result.curves or not result.branches:
        where.print(tables.sensitivity_table(result, graph))
    if result.branches:
        where.print(tables.dropped_table(result, graph))
    if result.rotated:
        where.print(f"rotated: {result.rotated} spaces of channels, before each cut")
    if page is not None:
        page.finished(result)
        where.print(f"wrote {report}")
    write_json(result.to_json(), json_path)

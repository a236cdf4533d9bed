"""`prunegraph search`: as small as a metric allows."""

from __future__ import annotations

from typing import Any

import click

from prunegraph.cli.command import Section, option
from prunegraph.cli.console import (
    check_json,
    command_line,
    console,
    stages,
    write_json,
)
from prunegraph.cli.loading import load_data, load_model
from prunegraph.cli.options import (
    METRICS,
    choice_options,
    depth_option,
    dtype_option,
    metric_option,
    model_argument,
    output_option,
    provider_option,
    reading_options,
    report_option,
    result_options,
    rotate_option,
    runtime_option,
    sweep_options,
    tolerance_option,
)
from prunegraph.cli.recipe import Writes
from prunegraph.cli.results import check_report, show_result, watching


@click.command(
    cls=Writes,
    examples=[
        "search model.onnx -o small.onnx --data images.npz --eval test.npz --tolerance 0.01"
    ],
)
@model_argument()
@output_option()
@sweep_options
@tolerance_option("How much worse the metric may be, in its own unit.", required=True)
@metric_option(
    f"{METRICS} or file.py:function. "
    "Default: top1 with labels, else agreement of the classes, else error."
)
@option(
    Section.METHOD,
    "--method",
    type=click.Choice(["grid", "bisection"]),
    default="grid",
    show_default=True,
    help="How the tolerance is approached: step by step from the original, or by halving.",
)
@option(
    Section.REMOVE,
    "--by",
    type=click.Choice(["macs", "params", "bytes", "ratio"]),
    default="macs",
    show_default=True,
    help="What is reduced step by step; ratio is the share of channels.",
)
@option(
    Section.METHOD,
    "--stages",
    is_flag=True,
    help="Then try a little more or less in parts of the network.",
)
@choice_options
@depth_option(
    "Whether residual branches go as a whole: auto tries channels alone, both, and branches alone; only the last."
)
@rotate_option()
@result_options
@runtime_option(
    "Where the original and the candidates run, and the result is opened besides: onnxruntime or openvino."
)
@report_option(
    "Write an HTML page: the candidates, anew while the search goes on; then all of the result."
)
@provider_option()
@dtype_option()
@reading_options
def search(
    model: str,
    out: str,
    data: str,
    evaluation: str | None,
    json_path: str | None,
    report: str | None,
    no_verify: bool,
    **options: Any,
) -> None:
    """Prune MODEL as far as a metric stays within a tolerance. Nothing is trained."""
    from prunegraph import api, studies
    from prunegraph.report import tables

    api.check_model_output(out, model)
    check_json(json_path)
    check_report(report)
    where = console()
    with stages(where) as progress:
        progress("load")
        graph = load_model(model)
        samples = load_data(data, graph, progress)
        seen = load_data(evaluation, graph, progress, part="val")
        with watching(report, graph) as page:
            done = studies.search(
                graph,
                out,
                data=samples,
                evaluation=seen,
                verify=not no_verify,
                progress=progress,
                watch=page.search if page else None,
                **options,
            )
    where.print(tables.search_table(done.trace, done.result.before))
    if evaluation is None:
        where.print(
            "measured on the data of the repair, which flatters the result: give others with --eval"
        )
    show_result(where, done.result, samples, out, options["save_plan"])
    if report:
        from prunegraph.report import html

        html.write(
            done.result,
            report,
            command=command_line(),
            latency=done.result.latency,
            samples=seen if seen is not None else samples,
            metric=options["metric"],
            search=done.trace,
        )
        where.print(f"wrote {report}")
    write_json(done.trace.to_json(model), json_path)

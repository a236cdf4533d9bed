"""`prunegraph compare`: two models side by side."""

from __future__ import annotations

import click

from prunegraph.cli.command import Command, Section, option
from prunegraph.cli.console import check_json, console, write_json
from prunegraph.cli.files import check_weights
from prunegraph.cli.loading import load_data
from prunegraph.cli.options import (
    data_option,
    json_option,
    metric_option,
    model_argument,
    plugin_option,
    provider_option,
    runtime_option,
    threads_option,
)


@click.command(
    cls=Command,
    examples=[
        "compare model.onnx small.onnx",
        "compare model.onnx small.onnx --data test.npz --threads 0",
    ],
)
@model_argument("first", metavar="A")
@model_argument("second", metavar="B")
@data_option("Inputs (and labels): .npz or file.py:function.")
@metric_option(
    "What else is measured on the data, as in search. Default: map50 with boxes, top1 with other labels.",
    default="",
)
@option(
    Section.MEASURING,
    "--runs",
    type=click.IntRange(1),
    default=30,
    show_default=True,
    help="Timed runs of each model.",
)
@threads_option("Threads of each session.")
@runtime_option("Where both run: onnxruntime or openvino.")
@provider_option()
@json_option()
@plugin_option()
def compare(
    first: str,
    second: str,
    data: str | None,
    metric: str,
    runs: int,
    threads: int,
    runtime: str,
    provider: str | None,
    json_path: str | None,
) -> None:
    """Show cost, outputs, latency and accuracy of two models side by side."""
    from prunegraph import api
    from prunegraph.report import content, tables

    check_json(json_path)
    graph, other = api.load(first), api.load(second)
    for each in (graph, other):
        check_weights(each)
    result = api.compare(
        graph,
        other,
        data=load_data(data, graph),
        runs=runs,
        threads=threads,
        runtime=runtime,
        provider=provider,
        metric=metric,
    )
    console().print(tables.comparison_table(result))
    if result.sqnr:
        from prunegraph.report.quantized import sqnr_table

        console().print(sqnr_table(result.sqnr))
    write_json(content.compared(result), json_path)

"""`prunegraph compare`: two models side by side."""

from __future__ import annotations

import json

import click

from prunegraph.cli.console import console
from prunegraph.cli.loading import load_data
from prunegraph.cli.options import (
    data_option,
    metric_option,
    model_argument,
    plugin_option,
    provider_option,
    threads_option,
)


@click.command()
@model_argument("first", metavar="A")
@model_argument("second", metavar="B")
@data_option("Inputs (and labels): .npz or file.py:function.")
@metric_option(
    "What else is measured on the data, as in search. Default: top1 with labels.",
    default="",
)
@click.option(
    "--runs",
    type=click.IntRange(1),
    default=30,
    show_default=True,
    help="Timed runs of each model.",
)
@threads_option("Threads of each session.")
@provider_option()
@click.option(
    "--json", "as_json", is_flag=True, help="Print the figures as JSON on stdout."
)
@plugin_option()
def compare(
    first: str,
    second: str,
    data: str | None,
    metric: str,
    runs: int,
    threads: int,
    provider: str | None,
    as_json: bool,
) -> None:
    """Show cost, outputs, latency and accuracy of two models side by side."""
    import dataclasses

    from prunegraph import api
    from prunegraph.report import tables

    graph = api.load(first)
    result = api.compare(
        graph,
        api.load(second),
        data=load_data(data, graph),
        runs=runs,
        threads=threads,
        provider=provider,
        metric=metric,
    )
    console().print(tables.comparison_table(result))
    if result.sqnr:
        from prunegraph.report.quantized import sqnr_table

        console().print(sqnr_table(result.sqnr))
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(result), indent=1))

"""`prunegraph compare`: two models side by side."""

from __future__ import annotations

import json

import click

from prunegraph.cli.command import Command, Section, option
from prunegraph.cli.console import console
from prunegraph.cli.options import (
    data_option,
    model_argument,
    plugin_option,
    provider_option,
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
@option(
    Section.MEASURING,
    "--runs",
    type=click.IntRange(1),
    default=30,
    show_default=True,
    help="Timed runs of each model.",
)
@threads_option("Threads of each session.")
@provider_option()
@option(
    Section.OUTPUT,
    "--json",
    "as_json",
    is_flag=True,
    help="Print the figures as JSON on stdout.",
)
@plugin_option()
def compare(
    first: str,
    second: str,
    data: str | None,
    runs: int,
    threads: int,
    provider: str | None,
    as_json: bool,
) -> None:
    """Show cost, outputs, latency and accuracy of two models side by side."""
    import dataclasses

    from prunegraph import api
    from prunegraph.report import tables
    from prunegraph.runtime.data import read_data

    result = api.compare(
        api.load(first),
        api.load(second),
        data=read_data(data) if data else None,
        runs=runs,
        threads=threads,
        provider=provider,
    )
    console().print(tables.comparison_table(result))
    if result.sqnr:
        from prunegraph.report.quantized import sqnr_table

        console().print(sqnr_table(result.sqnr))
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(result), indent=1))

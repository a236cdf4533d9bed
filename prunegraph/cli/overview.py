"""`prunegraph MODEL`: a model at first sight."""

from __future__ import annotations

import click

from prunegraph.cli.command import Command
from prunegraph.cli.console import check_json, console, stages, write_json
from prunegraph.cli.loading import load_model
from prunegraph.cli.options import json_option, model_argument, reading_options


@click.command(cls=Command, examples=["model.onnx", "overview model.onnx --json"])
@model_argument()
@json_option()
@reading_options
def overview(model: str, json_path: str | None) -> None:
    """Show what MODEL costs, what of it can be pruned, what is fixed, and which commands would help most.

    `prunegraph MODEL` is the same. Nothing is run: the figures follow from shapes and weights.
    """
    from prunegraph.overview import overview as look
    from prunegraph.report import overviews

    check_json(json_path)
    where = console()
    with stages(where) as progress:
        progress("load")
        graph = load_model(model)
        progress("analyze")
        result = look(graph, model)
    for line in overviews.lines(result):
        where.print(line, markup=False, soft_wrap=True)
    write_json(result.to_json(), json_path)

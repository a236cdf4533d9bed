"""`prunegraph convert`: what a front end reads, as ONNX."""

from __future__ import annotations

import click

from prunegraph.cli.console import check_json, console, stages, write_json
from prunegraph.cli.loading import load_model
from prunegraph.cli.options import (
    json_option,
    model_argument,
    output_option,
    reading_options,
)
from prunegraph.cli.recipe import Writes


@click.command(
    cls=Writes,
    examples=[
        "convert net.py:net -o net.onnx",
        "convert net-symbol.json -o net.onnx --input-shape data=1,3,224,224",
    ],
)
@model_argument("source")
@output_option("Where the ONNX model goes.")
@json_option()
@reading_options
def convert(source: str, out: str, json_path: str | None) -> None:
    """Write what a front end reads (PyTorch, MXNet, a plug-in's format) as an ONNX model."""
    from prunegraph import api
    from prunegraph.report import content

    api.check_model_output(out, source)
    check_json(json_path, source, out)
    where = console()
    with stages(where) as progress:
        progress("load")
        graph = load_model(source)
        progress("write")
        api.save(graph, out)
    where.print(f"{len(graph.nodes)} nodes, {len(graph.weights)} weights; wrote {out}")
    write_json(content.converted(graph, out), json_path)

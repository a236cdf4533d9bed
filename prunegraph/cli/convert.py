"""`prunegraph convert`: what a front end reads, as ONNX."""

from __future__ import annotations

import click

from prunegraph.cli.console import console, stages
from prunegraph.cli.loading import load_model
from prunegraph.cli.options import (
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
@reading_options
def convert(source: str, out: str) -> None:
    """Write what a front end reads (PyTorch, MXNet, a plug-in's format) as an ONNX model."""
    from prunegraph import api

    api.check_model_output(out, source)
    where = console()
    with stages(where) as progress:
        progress("load")
        graph = load_model(source)
        progress("write")
        api.save(graph, out)
    where.print(f"{len(graph.nodes)} nodes, {len(graph.weights)} weights; wrote {out}")

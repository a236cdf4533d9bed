"""`prunegraph convert`: what a front end reads, as ONNX."""

from __future__ import annotations

import click

from prunegraph.cli.console import check_json, console, stages, write_json
from prunegraph.cli.loading import load_data, load_model
from prunegraph.cli.options import (
    data_option,
    dtype_option,
    float_option,
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
        "convert net.onnx -o half.onnx --dtype float16 --data images.npz",
        "convert net.onnx -o one.onnx --input-shape images=1,3,224,224",
        "convert net-symbol.json -o net.onnx --input-shape data=1,3,224,224",
    ],
)
@model_argument("source")
@output_option("Where the ONNX model goes.")
@dtype_option("Floats of 16 bits: the graph in float16, or its weights in bfloat16.")
@data_option("With --dtype: inputs on which ranges and the error are measured.")
@float_option("With --dtype: stays in float32, a layer, module or pattern (repeatable).")
@json_option()
@reading_options
def convert(
    source: str,
    out: str,
    dtype: str | None,
    data: str | None,
    float_layers: tuple[str, ...],
    json_path: str | None,
) -> None:
    """Write what a front end reads (ONNX, PyTorch, MXNet, TensorFlow, JAX, a plug-in's format) as an ONNX model."""
    from prunegraph import api
    from prunegraph.quantization.precision import to_dtype
    from prunegraph.report import content
    from prunegraph.report.text import precision_line

    if dtype is None and (data is not None or float_layers):
        raise click.UsageError("--data and --float are for --dtype: give it, or neither")

    api.check_model_output(out, source)
    check_json(json_path)
    where = console()
    with stages(where) as progress:
        progress("load")
        graph = load_model(source)
        precision = None
        if dtype is not None:
            samples = load_data(data, graph, progress)
            precision = to_dtype(
                graph, dtype, samples, float_layers=float_layers, progress=progress
            )
        result = graph if precision is None else precision.model
        progress("write")
        api.save(result, out, like=None if precision is None else graph)
    if precision is not None:
        where.print(precision_line(precision))
    graph = result
    where.print(f"{len(graph.nodes)} nodes, {len(graph.weights)} weights; wrote {out}")
    write_json(content.converted(graph, out, precision), json_path)

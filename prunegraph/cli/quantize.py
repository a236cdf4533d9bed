"""`prunegraph quantize`: the options; the work is in `prunegraph.quantization`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from prunegraph.cli.command import Section, option
from prunegraph.cli.console import check_json, command_line, console, stages, write_json
from prunegraph.cli.loading import load_data, load_model
from prunegraph.cli.options import (
    METRICS,
    READ,
    data_option,
    float_option,
    json_option,
    metric_option,
    model_argument,
    output_option,
    reading_options,
    report_option,
    runtime_option,
    target_option,
    threads_option,
    tolerance_option,
)
from prunegraph.cli.recipe import Writes
from prunegraph.cli.results import check_report, file_sizes, write_report
from prunegraph.errors import MALFORMED, OptionError

if TYPE_CHECKING:
    from prunegraph.graph.model import Graph
    from prunegraph.runtime.data import Data
    from prunegraph.runtime.engine import Runtime


#: Targets that say what is fast in a runtime.
MEASURED = {"onnxruntime": ("cpu", "native"), "openvino": ("openvino", "cpu", "native")}


def read_ranges(path: str) -> dict[str, Any]:
    """Scales and zero points by tensor, from a JSON file of them or from what `--json` wrote. Raises OptionError."""
    from prunegraph.report.content import QUANTIZED

    try:
        content = json.loads(Path(path).read_text())
    except MALFORMED as error:
        raise OptionError(f"{path}: not a JSON file of ranges ({error})") from error
    if isinstance(content, dict) and content.get("format") == QUANTIZED:
        content = content.get("ranges")
    if not isinstance(content, dict) or not all(
        isinstance(entry, dict) for entry in content.values()
    ):
        raise OptionError(
            f'{path}: not ranges, {{"tensor": {{"scale": 0.1, "zero_point": 0}}, ...}}'
        )
    return content


@click.command(
    cls=Writes,
    examples=[
        "quantize model.onnx -o int8.onnx --data images.npz",
        "quantize model.onnx -o int8.onnx --data images.npz --metric top1 --tolerance 0.01",
        "quantize model.onnx -o weights.onnx --weights int4 --activations none",
    ],
)
@model_argument()
@output_option()
@data_option("Unlabelled inputs to calibrate on: .npz or file.py:function.")
@option(
    Section.METHOD,
    "--method",
    type=click.Choice(["mse", "minmax", "percentile", "entropy"]),
    default="mse",
    show_default=True,
    help="How ranges follow from what was seen.",
)
@option(
    Section.METHOD,
    "--percentile",
    type=float,
    default=99.99,
    show_default=True,
    help="Of the elements, for that method.",
)
@option(
    Section.METHOD,
    "--weights",
    type=click.Choice(["int8", "int4", "int16"]),
    help="Type of weights.  [default: int8]",
)
@option(
    Section.METHOD,
    "--activations",
    type=click.Choice(["uint8", "int8", "uint16", "none"]),
    help="Type of activations; none quantizes weights alone.  [default: the target's]",
)
@target_option(
    "Whose rules to follow; cpu is any processor, native this one.",
    type=click.Choice(["cpu", "native", "tensorrt", "openvino", "qnn"]),
    default="cpu",
)
@float_option("Stays in float: a name, first or last.")
@option(
    Section.METHOD,
    "--fastest",
    is_flag=True,
    help="Measure how many layers at the start are faster in float than in integers, and leave them in float.",
)
@runtime_option(
    "Where --fastest measures, and the result is opened besides: onnxruntime or openvino."
)
@threads_option()
@tolerance_option(
    "How much worse the metric may be; layers are put back for it.", section=Section.METHOD
)
@option(
    Section.METHOD,
    "--fallback",
    type=click.Choice(["float", "int16"]),
    default="float",
    show_default=True,
    help="What those go back to; int16: weights alone, half the bytes, slower than float.",
)
@metric_option(f"{METRICS} or file.py:function.", default="error", show_default=True)
@option(
    Section.METHOD,
    "--ranges",
    type=READ,
    metavar="JSON",
    help="Scales and zero points of tensors, taken as they are.",
)
@option(
    Section.METHOD,
    "--rounding",
    type=click.Choice(["nearest", "gptq"]),
    help="Of weights.  [default: gptq for int4]",
)
@option(
    Section.METHOD, "--equalize", is_flag=True, help="Equalize ranges between layers first."
)
@option(
    Section.METHOD, "--no-bias-correction", is_flag=True, help="Leave biases as they are."
)
@option(
    Section.METHOD,
    "--block",
    type=click.IntRange(1),
    default=32,
    show_default=True,
    help="Inputs a scale of int4 weights.",
)
@option(
    Section.METHOD,
    "--reduce-range",
    type=click.Choice(["auto", "yes", "no"]),
    default="auto",
    show_default=True,
    is_flag=False,
    flag_value="yes",
    help="7-bit weights, right on processors without VNNI; auto: unless --target rules those out.",
)
@option(
    Section.OUTPUT,
    "--compact",
    is_flag=True,
    help="Short names for all but inputs and outputs: a smaller file, which `compare` cannot take layer by layer.",
)
@report_option(
    "Write an HTML page: bytes, noise and types by layer, pictures with both answers."
)
@json_option()
@reading_options
def quantize(
    model: str,
    out: str,
    data: str | None,
    ranges: str | None,
    no_bias_correction: bool,
    compact: bool,
    report: str | None,
    json_path: str | None,
    fastest: bool,
    runtime: str,
    threads: int,
    **options: Any,
) -> None:
    """Quantize MODEL: integers where the target runs them. Nothing is trained."""
    from prunegraph import api
    from prunegraph.quantization.quantize import quantize as run
    from prunegraph.report import content, html, quantized, tables
    from prunegraph.report.written import WrittenReport
    from prunegraph.runtime.runtimes import find

    api.check_model_output(out, model)
    check_report(report)
    check_json(json_path)
    engine = find(runtime, threads=threads)
    where = console()
    with stages(where) as progress:
        graph = load_model(model)
        samples = load_data(data, graph, progress)
        if fastest:
            options["float_layers"] = _with_faster(
                graph, samples, engine, progress, options
            )
        result = run(
            graph,
            samples,
            ranges=read_ranges(ranges) if ranges else None,
            bias_correction=not no_bias_correction,
            progress=progress,
            **options,
        )
        api.save(result.model, out, compact=compact, like=graph, runtime=runtime)
    where.print(quantized.layers_table(result, graph))
    where.print(quantized.outcome(result, graph))
    sizes = file_sizes(model, out)
    if sizes is not None:
        where.print(f"file: {tables.share(sizes[1], sizes[0])} of the bytes")
    where.print(f"wrote {out}")
    write_report(
        where,
        report,
        lambda: WrittenReport(
            graph,
            result.model,
            "Report of quantization",
            command_line(),
            [html.file_card(sizes)] if sizes is not None else [],
            quantized.outcome(result, graph).splitlines(),
            quantized=result,
            samples=samples,
            metric=options["metric"],
        ),
    )
    write_json(content.quantized(result), json_path)


def _with_faster(
    graph: Graph,
    samples: Data | None,
    runtime: Runtime,
    progress: Callable[[str], None],
    options: Mapping[str, Any],
) -> tuple[str, ...]:
    """Layers that stay in float, with those that are faster there."""
    from prunegraph.quantization.faster import faster_in_float

    target = options["target"]
    if target not in MEASURED.get(runtime.name, (target,)):
        other = next((name for name, known in MEASURED.items() if target in known), None)
        raise OptionError(
            f"--fastest measures in {runtime.title}: it does not say what is fast on target {target}"
            + (f", give --runtime {other}" if other else "")
        )
    if samples is None:
        raise OptionError("--fastest measures with activations in integers: give --data")
    kept: tuple[str, ...] = options["float_layers"]
    kinds = {name: options[name] for name in ("weights", "activations", "target")}
    return (
        *kept,
        *faster_in_float(
            graph, samples, float_layers=kept, runtime=runtime, progress=progress, **kinds
        ),
    )

"""`prunegraph compress`: the options; the work is in `prunegraph.hybrid`."""

from __future__ import annotations

from typing import Any

import click

from prunegraph.cli.command import Section, option
from prunegraph.cli.console import check_json, command_line, console, stages, write_json
from prunegraph.cli.loading import load_data, load_model
from prunegraph.cli.options import (
    allocation_option,
    choice_options,
    data_option,
    depth_option,
    dtype_option,
    json_option,
    macs_option,
    mask_input_option,
    min_channels_option,
    model_argument,
    no_verify_option,
    output_option,
    params_option,
    quantize_option,
    rank_option,
    reading_options,
    repair_option,
    report_option,
    rotate_option,
    round_to_option,
)
from prunegraph.cli.recipe import Writes
from prunegraph.cli.results import check_report, file_sizes, write_report

FORMAT = "prunegraph/compressed@1"


@click.command(
    cls=Writes,
    examples=[
        "compress model.onnx -o small.onnx --macs 0.5 --data images.npz",
        "compress model.onnx -o small.onnx --params 0.4 --quantize int8 --data images.npz",
    ],
)
@model_argument()
@output_option()
@macs_option()
@params_option()
@option(
    Section.METHOD,
    "--method",
    type=click.Choice(["hybrid", "prune", "decompose", "source-004"]),
    default="hybrid",
    show_default=True,
    help="hybrid chooses between both; source-004 is the published rule, which needs no bound.",
)
@data_option("Unlabelled inputs to choose by and recover with: .npz or file.py:function.")
@mask_input_option()
@rank_option("Of source-004: evbmf, evbmf:W, energy:E or ratio:R.  [default: evbmf]")
@option(
    Section.CHOOSE,
    "--cluster",
    type=click.Choice(["robust", "paper"]),
    default="robust",
    show_default=True,
    help="Of source-004: how weak filters are told.",
)
@choice_options
@depth_option(
    "Whether residual branches go as a whole: auto tries mixes without some of them, only drops nothing else."
)
@rotate_option()
@allocation_option()
@repair_option()
@round_to_option("Channels and ranks are a multiple of this.", default="8")
@min_channels_option()
@quantize_option()
@dtype_option()
@no_verify_option("Skip the proof of the cut.")
@report_option(
    "Write an HTML page: totals, what became of each layer, pictures with both answers."
)
@json_option()
@reading_options
def compress(
    model: str,
    out: str,
    data: str | None,
    no_verify: bool,
    report: str | None,
    json_path: str | None,
    **options: Any,
) -> None:
    """Keep, prune or decompose each layer of MODEL so that one budget is met. Nothing is trained."""
    from prunegraph import api
    from prunegraph.hybrid.compress import compress as run
    from prunegraph.report import compressed, content, html
    from prunegraph.report.text import precision_line
    from prunegraph.report.written import WrittenReport

    api.check_model_output(out, model)
    check_report(report)
    check_json(json_path)
    where = console()
    with stages(where) as progress:
        progress("load")
        graph = load_model(model)
        samples = load_data(data, graph, progress)
        result = run(
            graph,
            out,
            data=samples,
            verify=not no_verify,
            progress=progress,
            **options,
        )
    tables = [compressed.layers_table(result)]
    if len(result.mixes) > 1:
        tables.append(compressed.mixes_table(result))
    lines = compressed.outcome(result).splitlines()
    if result.precision is not None:
        lines.append(precision_line(result.precision))
    for part in (*tables, *lines):
        where.print(part)
    where.print(f"wrote {out}")
    write_report(
        where,
        report,
        lambda: WrittenReport(
            graph,
            result.model,
            "Report of compression",
            command_line(),
            html.cards(result.before, result.after, sizes=file_sizes(model, out)),
            lines,
            tables,
            result.quantized,
            samples,
        ),
    )
    precise = content.precision(result.precision)
    write_json({"format": FORMAT, **result.to_json(), "precision": precise}, json_path)

"""`prunegraph decompose`: the options; the work is in `prunegraph.rewriting.decompose`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from prunegraph.cli.command import Section, option
from prunegraph.cli.console import check_json, command_line, console, stages, write_json
from prunegraph.cli.loading import load_data, load_model
from prunegraph.cli.options import (
    data_option,
    dtype_option,
    json_option,
    keep_option,
    latency_option,
    macs_option,
    model_argument,
    output_option,
    params_option,
    provider_option,
    rank_option,
    reading_options,
    report_option,
    round_to_option,
    runtime_option,
    threads_option,
)
from prunegraph.cli.recipe import Writes
from prunegraph.cli.results import check_report, file_sizes, write_report

if TYPE_CHECKING:
    from prunegraph.quantization.precision import PrecisionResult
    from prunegraph.rewriting.decompose import DecomposeResult

FORMAT = "prunegraph/decomposed@1"


@click.command(
    cls=Writes,
    examples=[
        "decompose model.onnx -o low.onnx --data images.npz",
        "decompose model.onnx -o low.onnx --method auto --macs 0.6",
    ],
)
@model_argument()
@output_option()
@option(
    Section.METHOD,
    "--method",
    type=click.Choice(["tucker2", "svd", "spatial", "auto"]),
    default="tucker2",
    show_default=True,
    help="What becomes of convolutions; matrices and 1x1 convolutions become two by SVD.",
)
@rank_option("evbmf, evbmf:W, energy:E or ratio:R.  [default: evbmf]")
@params_option("Bound on the parameters instead of a rule: 0.5, 2.1M.")
@macs_option("Bound on the MACs instead of a rule: 0.5, 2.1G.")
@latency_option("Bound on the measured latency instead of a rule: 0.5, 12ms.")
@runtime_option()
@provider_option()
@threads_option()
@option(
    Section.METHOD,
    "--fold",
    is_flag=True,
    help="Fold BatchNormalization into the layers first.",
)
@keep_option("Stays whole (repeatable).")
@round_to_option("Ranks are a multiple of this.", default="8")
@data_option("Unlabelled inputs to fit the parts to: .npz or file.py:function.")
@dtype_option()
@report_option(
    "Write an HTML page: totals, layers with their ranks, pictures with both answers."
)
@json_option()
@reading_options
def decompose(
    model: str,
    out: str,
    data: str | None,
    dtype: str | None,
    report: str | None,
    json_path: str | None,
    **options: Any,
) -> None:
    """Write layers of MODEL as chains of smaller ones of low rank. Nothing is trained."""
    from prunegraph import api
    from prunegraph.latency.low_rank import decompose as run
    from prunegraph.quantization.precision import to_dtype
    from prunegraph.report import decomposed, html
    from prunegraph.report.text import precision_line
    from prunegraph.report.written import WrittenReport
    from prunegraph.runtime.runtimes import find

    find(options["runtime"], options["provider"])
    api.check_model_output(out, model)
    check_report(report)
    check_json(json_path)
    where = console()
    with stages(where) as progress:
        progress("load")
        graph = load_model(model)
        progress("decompose")
        samples, precision = load_data(data, graph, progress), None
        result = run(graph, data=samples, progress=progress, **options)
        written = result.model
        if dtype is not None:
            precision = to_dtype(written, dtype, samples, progress=progress)
            written = precision.model
        progress("write")
        api.save(written, out, like=graph, runtime=options["runtime"])
    table, lines = (
        decomposed.layers_table(result, graph),
        decomposed.outcome(result, graph).splitlines(),
    )
    if precision is not None:
        lines.append(precision_line(precision))
    for part in (table, *lines):
        where.print(part)
    where.print(f"wrote {out}")
    write_report(
        where,
        report,
        lambda: WrittenReport(
            graph,
            written,
            "Report of low rank",
            command_line(),
            html.cards(result.before, result.after, result.latency, file_sizes(model, out)),
            lines,
            [table],
            samples=samples,
        ),
    )
    write_json(_content(result, precision), json_path)


def _content(
    decomposed: DecomposeResult, precision: PrecisionResult | None
) -> dict[str, Any]:
    from prunegraph.report import content

    layers = [asdict(layer) for layer in decomposed.layers]
    costs = {"before": asdict(decomposed.before), "after": asdict(decomposed.after)}
    return {
        "format": FORMAT,
        "layers": layers,
        "left": decomposed.skipped,
        **costs,
        "precision": content.precision(precision),
    }

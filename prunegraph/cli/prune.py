"""`prunegraph prune`: one run from a model to a smaller one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import click

from prunegraph.cli.command import Section, option
from prunegraph.cli.console import check_json, console, stages, write_json
from prunegraph.cli.evaluated import (
    evaluated_options,
    load_evaluation,
    show_evaluation,
)
from prunegraph.cli.loading import load_data, load_model
from prunegraph.cli.options import (
    READ,
    REFIT,
    allow_io_option,
    choice_options,
    curvature_option,
    data_option,
    depth_option,
    dry_run_option,
    dtype_option,
    json_option,
    latency_option,
    macs_option,
    mask_input_option,
    model_argument,
    output_option,
    params_option,
    provider_option,
    quantize_option,
    ranks_option,
    reading_options,
    report_options,
    result_options,
    rotate_option,
    runtime_option,
    threads_option,
)
from prunegraph.cli.recipe import Writes
from prunegraph.cli.results import report_writer, show_result

if TYPE_CHECKING:
    from prunegraph.selection.budget import Budget


#: Options of the run that a preview has no use for.
UNUSED = ("mask_input", "rotate", "repair", "save_plan", "quantize", "dtype")


def _ratio(
    ctx: click.Context, parameter: click.Parameter, value: str | None
) -> float | str | None:
    try:
        return value if value in (None, "auto") else float(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is neither a number nor auto") from None


@click.command(
    cls=Writes,
    examples=[
        "prune model.onnx -o small.onnx --macs 0.5 --data images.npz",
        "prune model.onnx --macs 0.5 --dry-run",
        "prune model.onnx -o small.onnx --latency 0.6 --round-to auto",
        "prune model.onnx -o small.onnx --macs 0.5 --quantize int8 --data images.npz --report small.html",
    ],
)
@model_argument()
@output_option(required=False)
@dry_run_option(
    "Say widths and cost of the result, and the latency if layers were timed before; write nothing."
)
@option(
    Section.REMOVE,
    "--ratio",
    metavar="R",
    callback=_ratio,
    help="Share of channels removed from every group, or auto.",
)
@macs_option()
@params_option()
@option(
    Section.REMOVE,
    "--bytes",
    "size",
    metavar="X",
    help="Upper bound on bytes of weights: a fraction or an amount (12MB).",
)
@latency_option("Upper bound on measured latency: a fraction or a time (12ms).")
@data_option(REFIT)
@mask_input_option()
@choice_options
@allow_io_option()
@option(
    Section.REMOVE,
    "--vocabulary",
    type=READ,
    metavar="FILE",
    help="Ids of the tokens that stay, one a line (or TOKEN<tab>ID); all others go first.",
)
@option(
    Section.REMOVE,
    "--old-ids",
    is_flag=True,
    help="With --vocabulary: the inputs go on to take old ids.",
)
@rotate_option()
@result_options
@depth_option()
@ranks_option()
@curvature_option()
@runtime_option()
@provider_option()
@threads_option()
@report_options
@evaluated_options
@quantize_option()
@dtype_option()
@json_option()
@reading_options
def prune(
    model: str,
    out: str | None,
    ratio: float | Literal["auto"] | None,
    macs: str | None,
    params: str | None,
    size: str | None,
    latency: str | None,
    data: str | None,
    evaluation: str | None,
    metric: str,
    no_verify: bool,
    report: str | None,
    sensitivity: str | None,
    dry_run: bool,
    json_path: str | None,
    **options: Any,
) -> None:
    """Make MODEL smaller, and prove that the result is the masked original."""
    from prunegraph import api
    from prunegraph.report import content

    budget = _budget(
        options["algorithm"],
        options["vocabulary"] is not None,
        ratio=ratio,
        macs=macs,
        params=params,
        bytes=size,
        latency=latency,
    )
    if dry_run:
        _preview(model, budget, data, json_path, options)
        return
    if out is None:
        raise click.UsageError("Missing option '-o' / '--output', where the result goes.")
    write_report = report_writer(report, sensitivity)
    api.check_model_output(out, model)
    check_json(json_path)
    where = console()
    with stages(where) as progress:
        progress("load")
        graph = load_model(model)
        samples = load_data(data, graph, progress)
        is_same = not options["allow_io"] and (
            options["vocabulary"] is None or options["old_ids"]
        )
        seen = load_evaluation(evaluation, metric, graph, progress, is_same=is_same)
        result = api.prune(
            graph,
            out,
            budget=budget,
            verify=not no_verify,
            data=samples,
            progress=progress,
            **options,
        )
    show_result(
        where,
        result,
        samples and samples.masked(options["mask_input"]),
        out,
        options["save_plan"],
    )
    measured = show_evaluation(where, graph, result.model, seen, metric)
    write_report(where, result, samples)
    write_json(content.pruned(result, out, measured), json_path)


def _preview(
    model: str,
    budget: Budget,
    data: str | None,
    json_path: str | None,
    options: Mapping[str, Any],
) -> None:
    """Say what would be done."""
    from prunegraph.preview import preview
    from prunegraph.report import previews

    check_json(json_path)
    known = {name: each for name, each in options.items() if name not in UNUSED}
    where = console()
    with stages(where) as progress:
        progress("load")
        graph = load_model(model)
        seen = load_data(data, graph, progress)
        samples = seen.masked(options["mask_input"]) if seen is not None else None
        result = preview(graph, budget=budget, data=samples, progress=progress, **known)
    where.print(previews.widths_table(result))
    for line in previews.remarks(result):
        where.print(line, soft_wrap=True)
    write_json(result.to_json(), json_path)


def _budget(algorithm: str | None, has_vocabulary: bool, **bounds: Any) -> Budget:
    """The budget of a command line; none is needed where a selector chooses how much goes, or the vocabulary shrinks.

    Raises:
        BudgetError: none or several bounds are given.
    """
    from prunegraph.options import base_name
    from prunegraph.selection.budget import Budget
    from prunegraph.selection.selectors import SELECTORS

    if has_vocabulary and all(bound is None for bound in bounds.values()):
        return Budget(ratio=0)
    is_free = algorithm is not None and base_name(algorithm) in SELECTORS
    if is_free and all(bound is None for bound in bounds.values()):
        return Budget(ratio="auto")
    return Budget(**bounds)

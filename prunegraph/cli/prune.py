"""`prunegraph prune`: one run from a model to a smaller one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import click

from prunegraph.cli.console import console, stages
from prunegraph.cli.loading import load_data, load_model
from prunegraph.cli.options import (
    READ,
    REFIT,
    allow_io_option,
    choice_options,
    data_option,
    depth_option,
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
    threads_option,
)
from prunegraph.cli.recipe import Writes
from prunegraph.cli.results import report_writer, show_result

if TYPE_CHECKING:
    from prunegraph.selection.budget import Budget


def _ratio(
    ctx: click.Context, parameter: click.Parameter, value: str | None
) -> float | str | None:
    try:
        return value if value in (None, "auto") else float(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is neither a number nor auto") from None


@click.command(cls=Writes)
@model_argument()
@output_option()
@click.option(
    "--ratio", callback=_ratio, help="Share of channels removed from every group, or auto."
)
@macs_option()
@params_option()
@click.option(
    "--bytes",
    "size",
    help="Upper bound on bytes of weights: a fraction or an amount (12MB).",
)
@latency_option(
    "Upper bound on latency measured in ONNX Runtime: a fraction or a time (12ms)."
)
@data_option(REFIT)
@mask_input_option()
@choice_options
@allow_io_option()
@click.option(
    "--vocabulary",
    type=READ,
    metavar="FILE",
    help="Ids of the tokens that stay, one a line (or TOKEN<tab>ID); all others go first.",
)
@click.option(
    "--old-ids", is_flag=True, help="With --vocabulary: the inputs go on to take old ids."
)
@click.option(
    "--rotate",
    type=click.Choice(["never", "auto", "always"]),
    default="auto",
    show_default=True,
    help="Give channels that pass only what is linear another basis first; auto: with --data, for obs.",
)
@result_options
@depth_option()
@ranks_option()
@provider_option()
@threads_option()
@report_options
@quantize_option()
@reading_options
def prune(
    model: str,
    out: str,
    ratio: float | Literal["auto"] | None,
    macs: str | None,
    params: str | None,
    size: str | None,
    latency: str | None,
    data: str | None,
    no_verify: bool,
    report: str | None,
    sensitivity: str | None,
    **options: Any,
) -> None:
    """Make MODEL smaller, and prove that the result is the masked original."""
    from prunegraph import api

    budget = _budget(
        options["algorithm"],
        options["vocabulary"] is not None,
        ratio=ratio,
        macs=macs,
        params=params,
        bytes=size,
        latency=latency,
    )
    write_report = report_writer(report, sensitivity, model, (out, options["save_plan"]))
    api.check_model_output(out, model)
    where = console()
    with stages(where) as progress:
        progress("load")
        graph = load_model(model)
        samples = load_data(data, graph, progress)
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
    write_report(where, result)


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

"""`prunegraph compress`: the options; the work is in `prunegraph.hybrid`."""

from __future__ import annotations

from typing import Any

import click

from prunegraph.cli import (
    check_json,
    choice_options,
    console,
    load_model,
    output_option,
    quantize_option,
    reading_options,
    repair_option,
    stages,
    write_json,
)
from prunegraph.cli_recipe import Writes

FORMAT = "prunegraph/compressed@1"


@click.command(cls=Writes)
@click.argument("model")
@output_option
@click.option(
    "--macs", metavar="X", help="Upper bound on MACs: a fraction (0.5) or an amount (2.1G)."
)
@click.option(
    "--params",
    metavar="X",
    help="Upper bound on parameters: a fraction or an amount (1.2M).",
)
@click.option(
    "--method",
    type=click.Choice(["hybrid", "prune", "decompose", "source-004"]),
    default="hybrid",
    show_default=True,
    help="hybrid chooses between both; source-004 is the published rule, which needs no bound.",
)
@click.option(
    "--data",
    metavar="FILE",
    help="Unlabelled inputs to choose by and recover with: .npz or file.py:function.",
)
@click.option(
    "--rank",
    metavar="RULE",
    help="Of source-004: evbmf, evbmf:W, energy:E or ratio:R.  [default: evbmf]",
)
@click.option(
    "--cluster",
    type=click.Choice(["robust", "paper"]),
    default="robust",
    show_default=True,
    help="Of source-004: how weak filters are told.",
)
@choice_options
@click.option(
    "--allocation", help="How the budget is shared among groups, as in global:max."
)
@repair_option
@click.option(
    "--round-to",
    type=int,
    default=8,
    show_default=True,
    help="Channels and ranks are a multiple of this.",
)
@click.option(
    "--min-channels",
    type=int,
    default=1,
    show_default=True,
    help="Channels that stay in every group.",
)
@quantize_option
@click.option("--no-verify", is_flag=True, help="Skip the proof of the cut.")
@click.option(
    "--json",
    "json_path",
    metavar="FILE",
    help="Write what was done to each layer as JSON; - is stdout.",
)
@reading_options
def compress(
    model: str,
    out: str,
    data: str | None,
    no_verify: bool,
    json_path: str | None,
    **options: Any,
) -> None:
    """Keep, prune or decompose each layer of MODEL so that one budget is met. Nothing is trained."""
    from prunegraph import api
    from prunegraph.hybrid.compress import compress as run
    from prunegraph.report import compressed
    from prunegraph.runtime.data import read_data

    api.check_model_output(out, model)
    check_json(json_path, model, out)
    where = console()
    with stages(where) as progress:
        samples = read_data(data) if data else None
        progress("load")
        result = run(
            load_model(model),
            out,
            data=samples,
            verify=not no_verify,
            progress=progress,
            **options,
        )
    where.print(compressed.layers_table(result))
    if len(result.mixes) > 1:
        where.print(compressed.mixes_table(result))
    where.print(compressed.outcome(result))
    where.print(f"wrote {out}")
    write_json({"format": FORMAT, **result.to_json()}, json_path)


def command() -> click.Command:
    """The command, for `prunegraph.cli` to add."""
    return compress

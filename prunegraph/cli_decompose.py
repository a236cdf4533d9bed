"""`prunegraph decompose`: the options; the work is in `prunegraph.rewriting.decompose`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from prunegraph.cli import (
    check_json,
    console,
    load_model,
    output_option,
    reading_options,
    stages,
    write_json,
)
from prunegraph.cli_recipe import Writes

if TYPE_CHECKING:
    from prunegraph.rewriting.decompose import DecomposeResult

FORMAT = "prunegraph/decomposed@1"


@click.command(cls=Writes)
@click.argument("model")
@output_option
@click.option(
    "--method",
    type=click.Choice(["tucker2", "svd", "spatial", "auto"]),
    default="tucker2",
    show_default=True,
    help="What becomes of convolutions; matrices and 1x1 convolutions become two by SVD.",
)
@click.option(
    "--rank", metavar="RULE", help="evbmf, evbmf:W, energy:E or ratio:R.  [default: evbmf]"
)
@click.option(
    "--params", metavar="X", help="Bound on the parameters instead of a rule: 0.5, 2.1M."
)
@click.option("--macs", metavar="X", help="Bound on the MACs instead of a rule: 0.5, 2.1G.")
@click.option(
    "--latency",
    metavar="X",
    help="Bound on the measured latency instead of a rule: 0.5, 12ms.",
)
@click.option(
    "--provider",
    help="ONNX Runtime's execution provider to measure latency on.  [default: CPU]",
)
@click.option(
    "--threads",
    type=int,
    default=1,
    show_default=True,
    help="Threads to measure latency with; 0: all.",
)
@click.option("--fold", is_flag=True, help="Fold BatchNormalization into the layers first.")
@click.option("--keep", multiple=True, metavar="LAYER", help="Stays whole (repeatable).")
@click.option(
    "--round-to",
    type=int,
    default=8,
    show_default=True,
    help="Ranks are a multiple of this.",
)
@click.option(
    "--data",
    metavar="FILE",
    help="Unlabelled inputs to fit the parts to: .npz or file.py:function.",
)
@click.option(
    "--json", "json_path", metavar="FILE", help="Write the layers as JSON; - is stdout."
)
@reading_options
def decompose(
    model: str, out: str, data: str | None, json_path: str | None, **options: Any
) -> None:
    """Write layers of MODEL as chains of smaller ones of low rank. Nothing is trained."""
    from prunegraph import api
    from prunegraph.latency.low_rank import decompose as run
    from prunegraph.report import decomposed
    from prunegraph.runtime.data import read_data

    api.check_model_output(out, model)
    check_json(json_path, model, out)
    where = console()
    with stages(where) as progress:
        progress("load")
        graph = load_model(model)
        progress("decompose")
        result = run(
            graph, data=read_data(data) if data else None, progress=progress, **options
        )
        progress("write")
        api.save(result.model, out, like=graph)
    where.print(decomposed.layers_table(result))
    where.print(decomposed.outcome(result))
    where.print(f"wrote {out}")
    write_json(_content(result), json_path)


def command() -> click.Command:
    """The command, for `prunegraph.cli` to add."""
    return decompose


def _content(decomposed: DecomposeResult) -> dict[str, Any]:
    layers = [asdict(layer) for layer in decomposed.layers]
    costs = {"before": asdict(decomposed.before), "after": asdict(decomposed.after)}
    return {"format": FORMAT, "layers": layers, "left": decomposed.left, **costs}

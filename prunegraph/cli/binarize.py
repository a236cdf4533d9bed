"""`prunegraph binarize`. It needs the extra `[torch]`, which is imported when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from prunegraph.cli.console import console, stages
from prunegraph.cli.loading import load_data, load_model
from prunegraph.cli.options import (
    batch_option,
    checkpoint_option,
    data_option,
    epochs_option,
    evaluation_option,
    keep_option,
    lr_option,
    model_argument,
    output_option,
    probabilities_option,
    reading_options,
    seed_option,
)
from prunegraph.cli.recipe import Writes

if TYPE_CHECKING:
    from rich.console import Console

    from prunegraph.training.binary import BinarizeResult


@click.command(cls=Writes)
@model_argument()
@output_option("Where the binary model goes.")
@data_option("Inputs: .npz or file.py:function, with `labels` or without.", required=True)
@evaluation_option("What a metric of both models is measured on.")
@click.option(
    "--bits",
    type=click.IntRange(1, 4),
    default=2,
    show_default=True,
    help="Of activations.",
)
@click.option(
    "--deadzone",
    is_flag=True,
    help="Small positive activations become 0 too: less error without training.",
)
@click.option(
    "--backward",
    type=click.Choice(["clipped", "relu", "log"]),
    default="clipped",
    show_default=True,
    help="What stands in for the quantizer's gradient.",
)
@click.option(
    "--no-affine",
    is_flag=True,
    help="Normalisations before quantizers lose scale and shift, as published.",
)
@click.option(
    "--last",
    type=click.Choice(["float", "int8", "binary"]),
    default="float",
    show_default=True,
    help="Weights of the last layers.",
)
@keep_option("A layer that stays as it is (repeatable).")
@click.option(
    "--min-inputs",
    type=click.IntRange(1),
    default=64,
    show_default=True,
    help="Layers whose filters have fewer inputs stay as they are.",
)
@click.option(
    "--targets",
    type=click.Choice(["teacher", "descent", "latent"]),
    default="teacher",
    show_default=True,
    help="What the update wants of a layer's outputs.",
)
@click.option("--no-update", is_flag=True, help="Signs and mean magnitudes alone.")
@click.option(
    "--no-guard",
    is_flag=True,
    help="Keep a layer's update even if the loss on held-out samples rises.",
)
@click.option(
    "--samples",
    type=click.IntRange(2),
    default=2000,
    show_default=True,
    help="To update with, at most.",
)
@epochs_option("Of training after the update.", type=click.IntRange(0), default=0)
@lr_option("Highest learning rate of the training.")
@batch_option("Samples in a batch of it.", default=100)
@checkpoint_option("Written after every epoch; a run that was killed goes on from it.")
@probabilities_option()
@click.option(
    "--form",
    type=click.Choice(["arithmetic", "thresholds"]),
    default="arithmetic",
    show_default=True,
    help="Levels computed, or layers' outputs compared: whole numbers in binary layers.",
)
@click.option("--no-pack", is_flag=True, help="Write binary weights as floats.")
@seed_option()
@reading_options
def binarize(
    model: str,
    out: str,
    data: str,
    evaluation: str | None,
    checkpoint: str | None,
    **options: Any,
) -> None:
    """Give MODEL weights of one bit and activations of a few, layer by layer in closed form."""
    from prunegraph import api
    from prunegraph.training.binary import binarize as run
    from prunegraph.training.binary import measured
    from prunegraph.training.outcome import OutcomeJudge

    api.check_model_output(out, model, [checkpoint] if checkpoint else [])
    where = console()
    with stages(where) as progress:
        graph = load_model(model)
        judged = load_data(evaluation, graph, progress)
        metrics = judged.fit(graph) if judged is not None else None
        samples = load_data(data, graph, progress)
        result = run(
            graph, samples, _options(**options), checkpoint=checkpoint, progress=progress
        )
        outcome = OutcomeJudge(graph, samples)(result.model)
        api.save(result.model, out, like=graph)
    _report(where, result)
    where.print(str(outcome))
    if metrics is not None:
        where.print(
            "metric: {:.4g} -> {:.4g}".format(*measured(graph, result.trained, metrics))
        )
    if Path(model).is_file():
        size, before = Path(out).stat().st_size, Path(model).stat().st_size
        where.print(
            f"file: {before:,} -> {size:,} bytes, {before / size:.2f} times smaller"
        )
    where.print(f"wrote {out}")


def _options(
    *,
    bits: int,
    deadzone: bool,
    backward: str,
    no_affine: bool,
    no_update: bool,
    no_guard: bool,
    no_pack: bool,
    **plain: Any,
) -> Any:
    from prunegraph.training.binary import BinarizeOptions, Quantizer

    return BinarizeOptions(
        Quantizer(bits, deadzone, backward),
        affine=not no_affine,
        update=not no_update,
        guard=not no_guard,
        pack=not no_pack,
        **plain,
    )


def _report(where: Console, result: BinarizeResult) -> None:
    from rich.table import Table

    if result.updates:
        table = Table("layer", "output error", "codes changed", "held-out loss", "")
        for row in result.updates:
            table.add_row(
                row.layer,
                f"{row.error[0]:.3f} -> {row.error[1]:.3f}",
                f"{row.flips:.1%}",
                f"{row.loss[0]:.4f} -> {row.loss[1]:.4f}",
                "kept" if row.kept else "undone",
            )
        where.print(table)
    for note in result.notes:
        where.print(f"note: {note}", markup=False, soft_wrap=True)
    for name, reason in result.skipped.items():
        where.print(f"not binary: {name} ({reason})", markup=False)
    losses = ", ".join(f"{name} {loss:.4f}" for name, loss in result.losses.items())
    where.print(f"loss on held-out samples: {losses}")
    bits = result.compression
    whole = ", ".join(f"{bits.whole(last):.2f} at {last} bit" for last in (32, 8, 1))
    where.print(
        f"counted in bits: binary layers {bits.layers:.2f} times smaller; the whole, with the last layer {whole}"
    )

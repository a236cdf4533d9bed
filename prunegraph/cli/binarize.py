"""`prunegraph binarize`. It needs the extra `[torch]`, which is imported when it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from prunegraph.cli.command import Section, option
from prunegraph.cli.console import check_json, command_line, console, stages, write_json
from prunegraph.cli.loading import load_data, load_model
from prunegraph.cli.options import (
    batch_option,
    checkpoint_option,
    data_option,
    epochs_option,
    evaluation_option,
    json_option,
    keep_option,
    lr_option,
    model_argument,
    output_option,
    probabilities_option,
    reading_options,
    report_option,
    seed_option,
)
from prunegraph.cli.recipe import Writes
from prunegraph.cli.results import check_report, file_sizes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from prunegraph.graph.model import Graph
    from prunegraph.measuring.latency import Latency
    from prunegraph.training.binary import BinarizeResult, CompressionRatios, Update

#: Pairs of sessions in which the latency is measured.
PAIRS = 3


@click.command(
    cls=Writes,
    examples=[
        "binarize model.onnx -o binary.onnx --data images.npz",
        "binarize model.onnx -o binary.onnx --data images.npz --bits 1 --epochs 20",
    ],
)
@model_argument()
@output_option("Where the binary model goes.")
@data_option("Inputs: .npz or file.py:function, with `labels` or without.", required=True)
@evaluation_option("What a metric of both models is measured on.")
@option(
    Section.METHOD,
    "--bits",
    type=click.IntRange(1, 4),
    default=2,
    show_default=True,
    help="Of activations.",
)
@option(
    Section.METHOD,
    "--deadzone",
    is_flag=True,
    help="Small positive activations become 0 too: less error without training.",
)
@option(
    Section.METHOD,
    "--backward",
    type=click.Choice(["clipped", "relu", "log"]),
    default="clipped",
    show_default=True,
    help="What stands in for the quantizer's gradient.",
)
@option(
    Section.METHOD,
    "--no-affine",
    is_flag=True,
    help="Normalisations before quantizers lose scale and shift, as published.",
)
@option(
    Section.METHOD,
    "--last",
    type=click.Choice(["float", "int8", "binary"]),
    default="int8",
    show_default=True,
    help="Weights of the last layers.",
)
@option(
    Section.METHOD,
    "--shifts",
    is_flag=True,
    help="Train scale and shift of normalisations before quantizers that have none.",
)
@option(
    Section.METHOD,
    "--rprelu",
    is_flag=True,
    help="Train shifts and slopes of rectifiers that stay real-valued, before shortcuts and last layers.",
)
@keep_option("A layer that stays as it is (repeatable).")
@option(
    Section.METHOD,
    "--min-inputs",
    type=click.IntRange(1),
    default=64,
    show_default=True,
    help="Layers whose filters have fewer inputs stay as they are.",
)
@option(
    Section.METHOD,
    "--scales",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Of each filter, at most: a byte more for each, for as many input channels.",
)
@option(
    Section.METHOD,
    "--targets",
    type=click.Choice(["teacher", "descent", "latent"]),
    default="teacher",
    show_default=True,
    help="What the update wants of a layer's outputs.",
)
@option(
    Section.METHOD, "--no-update", is_flag=True, help="Signs and mean magnitudes alone."
)
@option(
    Section.METHOD,
    "--no-guard",
    is_flag=True,
    help="Keep a layer's update even if the loss on held-out samples rises.",
)
@option(
    Section.METHOD,
    "--samples",
    type=click.IntRange(2),
    default=2000,
    show_default=True,
    help="To update with, at most.",
)
@option(
    Section.METHOD,
    "--tune",
    type=click.FloatRange(0),
    default=0.0,
    show_default=True,
    help="Epochs in which the update trains what follows the layers that are done; fractions too.",
)
@epochs_option("Of training after the update.", type=click.IntRange(0), default=0)
@option(
    Section.METHOD,
    "--activations-first",
    is_flag=True,
    help="Weights become binary in the second half of the training.",
)
@lr_option("Highest learning rate of the training.")
@batch_option("Samples in a batch of it.", default=100)
@checkpoint_option("Written after every epoch; a run that was killed goes on from it.")
@probabilities_option()
@option(
    Section.METHOD,
    "--form",
    type=click.Choice(["arithmetic", "thresholds"]),
    default="arithmetic",
    show_default=True,
    help="Levels computed, or layers' outputs compared: whole numbers in binary layers.",
)
@option(
    Section.OUTPUT,
    "--runtime",
    type=click.Choice(["integers", "packed", "float"]),
    help="How binary layers multiply: in integers (default), or floats, stored in a bit or in a float each.",
)
@seed_option()
@report_option("Write an HTML page: file, latency, layers and why some are not binary.")
@json_option()
@reading_options
def binarize(
    model: str,
    out: str,
    data: str,
    evaluation: str | None,
    checkpoint: str | None,
    report: str | None,
    json_path: str | None,
    **options: Any,
) -> None:
    """Give MODEL weights of one bit and activations of a few, layer by layer in closed form."""
    from prunegraph import api
    from prunegraph.report import binarized, content
    from prunegraph.training.binary import binarize as run
    from prunegraph.training.binary import measured
    from prunegraph.training.outcome import OutcomeJudge

    api.check_model_output(out, model)
    if checkpoint:
        api.check_output(checkpoint)
    check_report(report)
    check_json(json_path)
    where = console()
    with stages(where) as progress:
        graph = load_model(model)
        judged = load_data(evaluation, graph, progress, part="val")
        metrics = judged.fit(graph) if judged is not None else None
        samples = load_data(data, graph, progress)
        result = run(
            graph, samples, _options(**options), checkpoint=checkpoint, progress=progress
        )
        progress("comparing")
        outcome = OutcomeJudge(graph, samples)(result.model)
        api.save(result.model, out, like=graph)
        progress("measuring latency")
        latency = _latency(graph, result.model)
    lines = [
        *(f"note: {note}" for note in result.notes),
        _counted(result.compression),
        str(outcome),
    ]
    if metrics is not None:
        before, after = measured(graph, result.trained, metrics)
        lines.append(f"metric: {before:.4g} -> {after:.4g}")
    sizes = file_sizes(model, out)
    _show(where, result)
    for line in [*lines, *_gains(sizes, latency)]:
        where.print(line, markup=False, soft_wrap=True)
    where.print(f"wrote {out}")
    if report:
        page = binarized.BinaryReport(
            graph,
            sizes,
            latency,
            result.updates,
            result.skipped,
            result.losses,
            lines,
            command_line(),
        )
        binarized.write(page, report)
        where.print(f"wrote {report}")
    write_json(content.binarized(result, outcome, latency, out), json_path)


def _latency(graph: Graph, binary: Graph) -> Latency | None:
    """Latency of both, None where they cannot be run on random numbers."""
    from prunegraph.errors import PrunegraphError
    from prunegraph.measuring.latency import Stopwatch

    try:
        return Stopwatch(graph).against(binary, PAIRS)
    except PrunegraphError:
        return None


def _gains(sizes: tuple[int, int] | None, latency: Latency | None) -> Iterator[str]:
    if latency is not None:
        yield (
            f"latency: {latency.first:.3g} -> {latency.second:.3g} ms at batch 1 and one thread, "
            f"{latency.kept:.2f} times the original's"
        )
    else:
        yield "latency: not measured, since the model does not run on random inputs"
    if sizes is not None:
        before, after = sizes
        yield f"file: {before:,} -> {after:,} bytes, {before / after:.2f} times smaller"


def _options(
    *,
    bits: int,
    deadzone: bool,
    backward: str,
    no_affine: bool,
    no_update: bool,
    no_guard: bool,
    **plain: Any,
) -> Any:
    from prunegraph.training.binary import BinarizeOptions, Quantizer

    return BinarizeOptions(
        Quantizer(bits, deadzone, backward),
        affine=not no_affine,
        update=not no_update,
        guard=not no_guard,
        **plain,
    )


def _show(where: Console, result: BinarizeResult) -> None:
    """Say what became of each layer."""
    from rich.table import Table

    if result.updates:
        tuned = ["after tuning"] if result.updates[0].tuned is not None else []
        table = Table("layer", "output error", "codes changed", "held-out loss", "", *tuned)
        for row in result.updates:
            table.add_row(
                row.layer,
                f"{row.error[0]:.3f} -> {row.error[1]:.3f}",
                f"{row.flips:.1%}",
                f"{row.loss[0]:.4f} -> {row.loss[1]:.4f}",
                "kept" if row.kept else "undone",
                *([] if row.tuned is None else [_tuned(row)]),
            )
        where.print(table)
    for name, reason in result.skipped.items():
        where.print(f"not binary: {name} ({reason})", markup=False)
    losses = ", ".join(f"{name} {loss:.4f}" for name, loss in result.losses.items())
    where.print(f"loss on held-out samples: {losses}")


def _tuned(row: Update) -> str:
    """The held-out loss once what follows a layer was tuned, and whether that stays."""
    return f"{row.tuned:.4f}, {'kept' if row.tuning_kept else 'undone'}"


def _counted(ratios: CompressionRatios) -> str:
    whole = ", ".join(f"{ratios.whole(last):.2f} at {last} bit" for last in (32, 8, 1))
    return f"counted in bits: binary layers {ratios.layers:.2f} times smaller; the whole, with the last layer {whole}"

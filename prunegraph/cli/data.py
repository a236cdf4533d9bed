"""`prunegraph data`: what a model gets of a source of data, in figures and as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from prunegraph.cli.command import Command, Section, option
from prunegraph.cli.console import check_json, console, stages, write_json
from prunegraph.cli.loading import load_data, load_model
from prunegraph.cli.options import (
    MODEL,
    READ,
    WRITTEN,
    json_option,
    preprocess_option,
    reading_options,
    seed_option,
)

if TYPE_CHECKING:
    from prunegraph.data.looking import Look


@click.command(
    cls=Command,
    examples=[
        "data photos --model model.onnx --show seen.png",
        "data instances.json --model detector.onnx --preprocess yolo",
    ],
)
@click.argument("source", type=READ)
@option(
    Section.READING,
    "--model",
    type=MODEL,
    required=True,
    metavar="MODEL",
    help="The model that they are for.",
)
@preprocess_option()
@option(
    Section.OUTPUT,
    "--show",
    type=WRITTEN,
    metavar="FILE",
    help="Draw samples as the model gets them, with labels and boxes: a PNG.",
)
@option(
    Section.OUTPUT,
    "--number",
    type=click.IntRange(1, 256),
    default=16,
    show_default=True,
    help="Samples that are drawn; which, --seed says.",
)
@seed_option()
@json_option()
@reading_options
def data(
    source: str,
    model: str,
    show: str | None,
    number: int,
    seed: int,
    json_path: str | None,
) -> None:
    """Show what MODEL gets of SOURCE: as many samples, which classes, and how they look."""
    from prunegraph.data.looking import look

    check_json(json_path)
    where = console()
    with stages(where) as progress:
        progress("load")
        graph = load_model(model)
        if show:
            _check_picture(show)
        samples = load_data(source, graph, progress).fit(graph)
        seen: Look = look(samples, graph)
        picture = seen.picture(number, seed) if show else b""
    for line in seen.lines():
        where.print(line, markup=False, soft_wrap=True)
    if show:
        from prunegraph.graph.onnx_io import write_whole

        write_whole(Path(show), [picture])
        where.print(f"wrote {show}")
    write_json(seen.to_json(), json_path)


def _check_picture(show: str) -> None:
    from prunegraph.api import check_output
    from prunegraph.errors import OptionError

    if Path(show).suffix.lower() != ".png":
        raise OptionError(f"{show}: a picture is a .png")
    check_output(show)

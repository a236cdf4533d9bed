"""What a MODEL is read with besides its name: kept in the command's context, taken by `loading`."""

from __future__ import annotations

import re
from typing import Any

import click

#: Where a context keeps what a front end needs besides the model.
READING = "prunegraph.reading"


def reading() -> dict[str, Any]:
    """Say what the reading options of a command say."""
    return dict(click.get_current_context().meta.get(READING, {}))


def keep_reading(ctx: click.Context, parameter: click.Parameter, value: Any) -> None:
    """Keep what an option says, for `reading`."""
    if value:
        ctx.meta.setdefault(READING, {})[parameter.name] = value


def keep_shapes(
    ctx: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> None:
    """The same for shapes, NAME=1,3,224,224 each."""
    shapes = {}
    for value in values:
        name, _, sizes = value.rpartition("=")
        if not name or not re.fullmatch(r"\d+(,\d+)*", sizes):
            raise click.BadParameter(f"{value!r} is not NAME=SIZE,SIZE,...")
        shapes[name] = tuple(int(size) for size in sizes.split(","))
    keep_reading(ctx, parameter, shapes)


def load_plugins(
    ctx: click.Context, parameter: click.Parameter, sources: tuple[str, ...]
) -> None:
    """Load plug-ins at once, so that what they register can be named by other options."""
    if ctx.resilient_parsing:  # a shell completes
        return
    from prunegraph import plugins

    for source in sources:
        plugins.load(source)

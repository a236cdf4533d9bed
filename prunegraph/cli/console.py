"""Where a command writes: tables and stages to stderr, JSON to a file or stdout."""

from __future__ import annotations

import json
import math
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from prunegraph.cli.command import QUIET, VERBOSE
from prunegraph.cli.progress import shown

if TYPE_CHECKING:
    from rich.console import Console

#: Where a context keeps the command line, quoted for a shell.
_COMMAND = "prunegraph.command"


def keep_command(ctx: click.Context, words: Sequence[str]) -> None:
    """Keep the words of the command line."""
    ctx.meta[_COMMAND] = shlex.join(["prunegraph", *words])


def command_line() -> str:
    """The command line that runs, quoted for a shell."""
    text: str = click.get_current_context().meta[_COMMAND]
    return text


def is_quiet() -> bool:
    """Tell whether the command that runs says nothing but errors."""
    return bool(click.get_current_context().meta.get(QUIET))


def is_verbose() -> bool:
    """Tell whether the command that runs says more than usual."""
    return bool(click.get_current_context().meta.get(VERBOSE))


def console() -> Console:
    """Where tables go: stderr, wide enough for them where it is no terminal; nowhere with `--quiet`."""
    from rich.console import Console

    width = None if sys.stderr.isatty() else 140
    return Console(stderr=True, width=width, highlight=False, quiet=is_quiet())


@contextmanager
def stages(where: Console) -> Iterator[Callable[[str], None]]:
    """Show the stage at work and the time left, as far as the command is to say anything."""
    with shown(where, is_verbose()) as progress:
        yield progress


def check_json(path: str | None) -> None:
    """Raise before the work what a JSON file that cannot be written would raise after it."""
    from prunegraph.api import check_output

    if path and path != "-":
        check_output(path)


def write_json(content: dict[str, Any], path: str | None) -> None:
    """Write to a file whole, to stdout for -, or not at all."""
    from pathlib import Path

    from prunegraph.graph.onnx_io import write_whole

    text = json.dumps(_finite(content), indent=1, allow_nan=False) + "\n"
    if path == "-":
        click.echo(text, nl=False)
    elif path:
        write_whole(Path(path), [text.encode()])


def _finite(value: Any) -> Any:
    """A value with null for numbers that JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return value

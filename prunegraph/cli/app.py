"""The group of all commands: the engine's errors become one line and an exit code."""

from __future__ import annotations

import os
import traceback
from typing import Any

import click
from click.shell_completion import CompletionItem

from prunegraph import __version__
from prunegraph.cli.algorithms import algorithms
from prunegraph.cli.apply import apply
from prunegraph.cli.binarize import binarize
from prunegraph.cli.command import VERBOSE
from prunegraph.cli.compare import compare
from prunegraph.cli.completion import completion
from prunegraph.cli.compress import compress
from prunegraph.cli.console import keep_command
from prunegraph.cli.convert import convert
from prunegraph.cli.data import data
from prunegraph.cli.decompose import decompose
from prunegraph.cli.init import init
from prunegraph.cli.inspect import inspect
from prunegraph.cli.overview import overview
from prunegraph.cli.prune import prune
from prunegraph.cli.quantize import quantize
from prunegraph.cli.run import run
from prunegraph.cli.search import search
from prunegraph.cli.sensitivity import sensitivity
from prunegraph.cli.train import train
from prunegraph.cli.verify import verify
from prunegraph.errors import (
    FAILED,
    INTERRUPTED,
    INTERRUPTION,
    PrunegraphError,
    is_interrupt,
)

COMMANDS: tuple[click.Command, ...] = (
    algorithms,
    apply,
    binarize,
    compare,
    completion,
    compress,
    convert,
    data,
    decompose,
    init,
    inspect,
    overview,
    prune,
    quantize,
    run,
    search,
    sensitivity,
    train,
    verify,
)


class _Group(click.Group):
    """A group whose errors are one line; it remembers the words it was called with."""

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        try:
            return super().make_context(info_name, args, parent, **extra)
        except KeyboardInterrupt:  # click would say "Aborted!", as of a failed check
            click.echo(f"\n{INTERRUPTION}", err=True)
            raise click.exceptions.Exit(INTERRUPTED) from None

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        keep_command(ctx, args)
        if args and args[0] not in self.commands and _names_a_model(args[0]):
            args = [overview.name or "", *args]
        return super().parse_args(ctx, args)

    def shell_complete(
        self, ctx: click.Context, incomplete: str
    ) -> list[CompletionItem[str]]:
        # A model may stand in the place of a command. Shells take commands or files, not both.
        commands = super().shell_complete(ctx, incomplete)
        return commands or [CompletionItem(incomplete, type="file")]

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except PrunegraphError as error:
            if ctx.meta.get(VERBOSE):
                click.echo("".join(traceback.format_exception(error)), err=True, nl=False)
            text = " ".join(str(error).split())
            click.echo(f"error: {text}", err=True)
            ctx.exit(1 if isinstance(error, FAILED) else 2)
        except (KeyboardInterrupt, click.Abort, ImportError) as error:
            if not is_interrupt(error):
                raise
            click.echo(f"\n{INTERRUPTION}", err=True)
            ctx.exit(INTERRUPTED)


def _names_a_model(word: str) -> bool:
    """Tell whether a first word is a model rather than a mistyped command: commands are plain words."""
    return not word.startswith("-") and (
        any(sign in word for sign in "./\\:") or os.path.exists(word)
    )


@click.group(
    cls=_Group,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="prunegraph")
def main() -> None:
    """Structured pruning of neural networks on the graph itself, proved exact.

    `prunegraph MODEL` shows what a model costs, what of it can be pruned, and what would help most.
    """


for _command in COMMANDS:
    main.add_command(_command)

"""`prunegraph run`: the commands of a recipe, one after the other."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from contextlib import nullcontext
from typing import cast

import click

from prunegraph.cli.command import QUIET, VERBOSE, Command, Section, option
from prunegraph.cli.console import is_quiet
from prunegraph.cli.recipe import code, lines
from prunegraph.errors import FAILED, PrunegraphError, RecipeError


@click.command(cls=Command, examples=["run recipe.toml --dry-run", "run recipe.toml"])
@click.argument("recipe")
@option(
    Section.GENERAL,
    "--dry-run",
    is_flag=True,
    help="Check the recipe and print its commands, and what code they would run.",
)
@option(
    Section.READING,
    "--trust",
    is_flag=True,
    help="Run the code that the recipe names: plug-ins, Python files, commands.",
)
def run(recipe: str, dry_run: bool, trust: bool) -> None:
    """Run the commands of a RECIPE file, one after the other."""
    from prunegraph import plugins, recipes

    group = cast(click.Group, click.get_current_context().find_root().command)
    result = lines(recipes.read(recipe), group)
    foreign = code(group, result)
    if foreign and not dry_run and not trust:
        raise RecipeError(
            f"{recipe} would run code: {'; '.join(foreign)}. Look at it, then give --trust"
        )
    with (
        nullcontext() if trust else plugins.no_code("a recipe runs no code without --trust")
    ):
        _run(group, recipe, result, dry_run)
    for each in foreign if dry_run else ():
        click.echo(f"# runs code: {each}")


def _run(
    group: click.Group, recipe: str, result: Sequence[list[str]], dry_run: bool
) -> None:
    for number, words in enumerate(result, 1):
        shown = shlex.join(["prunegraph", *(word for word in words if word != "--")])
        if dry_run:
            click.echo(shown)
            continue
        if not is_quiet():
            click.echo(f"step {number} of {len(result)}: {shown}", err=True)
        _invoke(group, words, f"{recipe}, step {number} ({words[0]})")


def _invoke(group: click.Group, words: list[str], where: str) -> None:
    """Run one command; its errors say which step they are of. Raises PrunegraphError."""
    outer = click.get_current_context()
    try:
        with group.make_context("prunegraph", words) as context:
            # What the command line of the recipe says holds for every step.
            context.meta.update(
                {key: True for key in (QUIET, VERBOSE) if outer.meta.get(key)}
            )
            click.Group.invoke(group, context)
    except click.UsageError as error:
        raise RecipeError(f"{where}: {error.format_message()}") from None
    except FAILED as error:
        raise type(error)(f"{where}: {error}") from error
    except PrunegraphError as error:
        raise RecipeError(f"{where}: {error}") from error

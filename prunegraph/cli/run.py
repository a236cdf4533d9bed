"""`prunegraph run`: the commands of a recipe, one after the other."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from contextlib import nullcontext
from typing import cast

import click

from prunegraph.cli.command import QUIET, VERBOSE, Command, Section, option
from prunegraph.cli.console import is_quiet, write_json
from prunegraph.cli.options import dry_run_option, json_option
from prunegraph.cli.recipe import code, lines
from prunegraph.errors import FAILED, PrunegraphError, RecipeError

FORMAT = "prunegraph/run@1"


@click.command(cls=Command, examples=["run recipe.toml --dry-run", "run recipe.toml"])
@click.argument("recipe")
@dry_run_option("Check the recipe and print its commands, and what code they would run.")
@json_option()
@option(
    Section.READING,
    "--trust",
    is_flag=True,
    help="Run the code that the recipe names: plug-ins, Python files, commands.",
)
def run(recipe: str, dry_run: bool, trust: bool, json_path: str | None) -> None:
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
        _run(group, recipe, result, dry_run, json_path == "-")
    if dry_run and json_path != "-":
        for each in foreign:
            click.echo(f"# runs code: {each}")
    steps = [{"command": words[0], "words": words[1:]} for words in result]
    content = {
        "format": FORMAT,
        "recipe": recipe,
        "steps": steps,
        "code": foreign,
        "ran": not dry_run,
    }
    write_json(content, json_path)


def _run(
    group: click.Group,
    recipe: str,
    result: Sequence[list[str]],
    dry_run: bool,
    silent: bool,
) -> None:
    for number, words in enumerate(result, 1):
        shown = shlex.join(["prunegraph", *(word for word in words if word != "--")])
        if dry_run:
            if not silent:
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

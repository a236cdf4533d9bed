"""Command lines as recipes: `--save-recipe` writes one, `prunegraph run` repeats it.

Both go through the commands' own parameters: an option is defined once, where its command is.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from prunegraph.cli.command import WORDS, Command, Section, SectionOption
from prunegraph.cli.console import console
from prunegraph.cli.files import ModelFile, ReadFile, WrittenFile, files, hold_apart
from prunegraph.errors import ModelError, RecipeError, UnknownNameError

if TYPE_CHECKING:
    from prunegraph.recipes import Recipe, RecipeStep, Value

#: Where a context keeps the file of `--save-recipe`.
FILE = "prunegraph.recipe"


class Writes(Command):
    """A command that writes a model: with `--save-recipe` also the recipe that repeats it."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.params.append(
            SectionOption(
                ["--save-recipe"],
                section=Section.OUTPUT,
                type=WrittenFile(),
                metavar="FILE",
                expose_value=False,
                callback=_keep_file,
                help="Write this command as a recipe (TOML), which `prunegraph run` repeats.",
            )
        )

    def invoke(self, ctx: click.Context) -> Any:
        path = ctx.meta.get(FILE)
        if path is None:
            return super().invoke(ctx)
        from prunegraph import recipes
        from prunegraph.api import check_output

        check_output(path)
        created = super().invoke(ctx)
        recipes.save([spelled(self, ctx.meta[WORDS])], path)
        console().print(f"wrote {path}", markup=False, soft_wrap=True)
        return created


def _keep_file(ctx: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value:
        ctx.meta[FILE] = value


def spelled(command: click.Command, words: Sequence[str]) -> RecipeStep:
    """A command line as a step of a recipe."""
    from prunegraph.recipes import RecipeStep

    given, _, _ = command.make_parser(click.Context(command)).parse_args(list(words))
    options: dict[str, Value] = {}
    for parameter in command.params:
        if parameter.name in given and key(parameter) != "save-recipe":
            value = given[parameter.name]
            if not isinstance(value, str | bool | list):
                # The option was given without the value that it may have.
                value = getattr(parameter, "flag_value", None)
            if isinstance(value, str | bool | list):
                options[key(parameter)] = (
                    [str(each) for each in value] if isinstance(value, list) else value
                )
    return RecipeStep(command.name or "", options)


def key(parameter: click.Parameter) -> str:
    """Say what a parameter is called in a recipe: an option's long name without dashes, an argument's name."""
    if isinstance(parameter, click.Argument):
        return parameter.name or ""
    return next(name for name in parameter.opts if name.startswith("--")).removeprefix("--")


def line(command: click.Command, step: RecipeStep, where: str) -> list[str]:
    """A step as the words of a command line. Raises RecipeError."""
    known = {
        key(parameter): parameter
        for parameter in command.params
        if key(parameter) != "save-recipe"
    }
    words, arguments = [command.name or ""], {}
    for name, value in step.options.items():
        if name not in known:
            raise RecipeError(f"{where}: {UnknownNameError('option', name, known)}")
        parameter = known[name]
        if isinstance(parameter, click.Argument):
            arguments[name] = _texts(parameter, value, f"{where}: {name!r}")[0]
        elif isinstance(parameter, click.Option) and parameter.is_flag:
            if not isinstance(value, bool):
                raise RecipeError(f"{where}: {name!r} must be true or false, got {value!r}")
            words += [f"--{name}"] if value else []
        else:
            words += [
                f"--{name}={text}"
                for text in _texts(parameter, value, f"{where}: {name!r}")
            ]
    places = [
        name for name, parameter in known.items() if isinstance(parameter, click.Argument)
    ]
    missing = next((name for name in places if name not in arguments), None)
    if missing:
        raise RecipeError(f"{where}: says no {missing!r}, and no step before it writes one")
    return [*words, "--", *(arguments[name] for name in places)]


def _texts(parameter: click.Parameter, value: Value, what: str) -> list[str]:
    """A value, or several where the option may be repeated, as words."""
    if isinstance(value, list) and not parameter.multiple:
        raise RecipeError(f"{what} must be one value, not a list")
    values = value if isinstance(value, list) else [value]
    if any(isinstance(each, bool) for each in values):
        raise RecipeError(f"{what} must be text or a number, not true or false")
    if any("\0" in str(each) for each in values):
        raise RecipeError(f"{what} must be text without null characters")
    return [str(each) for each in values]


def lines(recipe: Recipe, group: click.Group) -> list[list[str]]:
    """The command lines of a recipe, checked as far as that goes without running them.

    A step that names no model works on what the last one before it wrote.

    Raises:
        RecipeError: an unknown command or option, a value it cannot have, or a file that is not there.
    """
    from prunegraph.recipes import RecipeStep

    result: list[list[str]] = []
    written: list[str] = []
    last: str | None = None
    for number, step in enumerate(recipe.steps, 1):
        where = f"{recipe.source}, step {number} ({step.command})"
        commands = {name: each for name, each in group.commands.items() if name != "run"}
        if step.command not in commands:
            raise RecipeError(
                f"{recipe.source}, step {number}: {UnknownNameError('command', step.command, commands)}"
            )
        command = commands[step.command]
        first = next(
            (key(each) for each in command.params if isinstance(each, click.Argument)), None
        )
        options = dict(step.options)
        if first is not None and first not in options and last is not None:
            options = {first: last, **options}
        words = line(command, RecipeStep(step.command, options), where)
        given = _checked(command, words[1:], where)
        _check_files(command, given, written, where)
        written += [os.path.abspath(path) for path in files(command, WrittenFile, given)]
        last = given.get("out", last)
        result.append(words)
    return result


def _checked(command: click.Command, words: list[str], where: str) -> dict[str, Any]:
    """The words by parameter; each is of its type, and nothing that is required is missing. Raises RecipeError."""
    context = click.Context(command, info_name=command.name)
    try:
        given, _, _ = command.make_parser(context).parse_args(list(words))
        for parameter in command.params:
            if parameter.name in given:
                parameter.type_cast_value(context, given[parameter.name])
            elif parameter.required:
                raise click.MissingParameter(ctx=context, param=parameter)
    except click.UsageError as error:
        raise RecipeError(f"{where}: {error.format_message()}") from None
    return dict(given)


def _check_files(
    command: click.Command, given: Mapping[str, Any], written: Sequence[str], where: str
) -> None:
    """Files that a step reads are there, or written by a step before it, and not by itself. Raises RecipeError."""
    try:
        hold_apart(command, given)
    except ModelError as error:
        raise RecipeError(f"{where}: {error}") from None
    for path in files(command, ReadFile, given):
        # `package.module:factory` and `file.py:function` are no files.
        if ":" in path or os.path.abspath(path) in written or os.path.exists(path):
            continue
        raise RecipeError(f"{where}: {path}: no such file, and no step before it writes it")


def code(group: click.Group, matches: Sequence[list[str]]) -> list[str]:
    """Say what the command lines of a recipe would run of other people's code: one text for each option."""
    from prunegraph import frontends, plugins

    result = []
    for number, words in enumerate(matches, 1):
        command = group.commands[words[0]]
        given, _, _ = command.make_parser(click.Context(command)).parse_args(
            list(words[1:])
        )
        for parameter in command.params:
            value = given.get(parameter.name or "")
            for each in value if isinstance(value, list | tuple) else [value]:
                name = key(parameter)
                is_model = isinstance(parameter.type, ModelFile)
                if not isinstance(each, str):
                    continue
                # Schedulers and their workers exchange pickles.
                is_code = name == "plugin" or (name == "cluster" and "://" in each)
                is_code |= is_model and frontends.runs_code(each)
                if is_code or plugins.code_in(each):
                    option = name if isinstance(parameter, click.Argument) else f"--{name}"
                    result.append(f"step {number} ({words[0]}) {option} {each}")
    return result

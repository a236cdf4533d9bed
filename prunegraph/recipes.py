"""Recipes: a chain of commands as a TOML file, read and written. Which options there are says the command line."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prunegraph.errors import MALFORMED, RecipeError

FORMAT = "prunegraph/recipe@1"

#: What an option may be in a recipe.
Value = str | int | float | bool | list[str | int | float]


#: Bytes of a recipe at most.
LARGEST = 2**20

#: Keys of very many parts, for which TOML's reader takes time by the square of their number.
_LONG_KEY = re.compile(r"""(?<![\w\-"'.])(?:[\w\-"']++\s*+\.\s*+){100}""")


@dataclass(frozen=True)
class RecipeStep:
    """A command with its arguments and options, by the names they have on the command line."""

    command: str
    options: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """Steps in order; `source` is the file."""

    steps: tuple[RecipeStep, ...]
    source: str = "recipe"


def read(path: str | os.PathLike[str]) -> Recipe:
    """A recipe from its file. Raises RecipeError."""
    try:
        with open(path, "rb") as file:
            data = file.read(LARGEST + 1)
        if len(data) > LARGEST or _LONG_KEY.search(data.decode()):
            raise ValueError(f"more than {LARGEST} bytes, or a key of more than 100 parts")
        content = tomllib.loads(data.decode())
    except FileNotFoundError:
        raise RecipeError(f"{path}: no such recipe") from None
    except MALFORMED as error:  # of which tomllib's are ValueErrors
        raise RecipeError(f"{path}: not a TOML file: {error}") from error
    if content.get("format") != FORMAT:
        raise RecipeError(f'{path}: not a recipe: it must begin with format = "{FORMAT}"')
    steps = content.get("step")
    unknown = sorted(content.keys() - {"format", "version", "step"})
    if unknown:
        raise RecipeError(
            f"{path}: has {unknown[0]!r}, which means nothing there: options stand in a [[step]]"
        )
    if (
        not isinstance(steps, list)
        or not steps
        or not all(isinstance(step, dict) for step in steps)
    ):
        raise RecipeError(f"{path}: has no steps: give each command as a [[step]]")
    return Recipe(
        tuple(_step(step, f"{path}, step {i}") for i, step in enumerate(steps, 1)),
        str(path),
    )


def _step(content: dict[str, Any], where: str) -> RecipeStep:
    command = content.get("command")
    if not isinstance(command, str):
        raise RecipeError(f'{where}: says no command, as in command = "prune"')
    options = {key: value for key, value in content.items() if key != "command"}
    for key, value in options.items():
        items = value if isinstance(value, list) else [value]
        if not all(isinstance(item, str | int | float) for item in items):
            raise RecipeError(
                f"{where} ({command}): {key!r} must be text, a number, true or false, or a list of such"
            )
    return RecipeStep(command, options)


def text(steps: Sequence[RecipeStep]) -> str:
    """Steps as TOML, which `read` reads back."""
    from prunegraph import __version__

    lines = [f"format = {_literal(FORMAT)}", f"version = {_literal(__version__)}"]
    for step in steps:
        lines += ["", "[[step]]", f"command = {_literal(step.command)}"]
        lines += [f"{key} = {_literal(value)}" for key, value in step.options.items()]
    return "\n".join(lines) + "\n"


def save(steps: Sequence[RecipeStep], path: str | os.PathLike[str]) -> None:
    """Write steps as a recipe; the file appears whole or not at all. Raises ModelError."""
    from prunegraph.graph.onnx_io import write_whole

    write_whole(Path(path), [text(steps).encode()])


def _literal(value: Value) -> str:
    """A value in TOML: its basic strings are JSON's, with delete escaped too."""
    if isinstance(value, list):
        return "[" + ", ".join(_literal(item) for item in value) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return json.dumps(value)

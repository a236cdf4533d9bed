"""Files that a command reads and writes: no file that it writes is one that it reads, or another that it writes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    from prunegraph.graph.model import Graph

#: Where a context keeps the files that its command writes.
_WRITTEN = "prunegraph.written"


class _File(click.types.StringParamType):
    """The name of a file; shells complete it."""

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem[str]]:
        return [CompletionItem(incomplete, type="file")]


class ReadFile(_File):
    """A file that a command reads; or code that makes what would be in it, as in `file.py:function`."""


class ModelFile(ReadFile):
    """A model that a command reads; or a factory that makes it, as in `package.module:function`."""


class WrittenFile(_File):
    """A file that a command writes."""


def files(
    command: click.Command,
    kind: type[ReadFile] | type[WrittenFile],
    given: Mapping[str, Any],
) -> Iterator[str]:
    """The files of a kind that are given: those that a command reads, or those that it writes."""
    for parameter in command.params:
        value = given.get(parameter.name or "")
        for each in value if isinstance(value, list | tuple) else [value]:
            if isinstance(parameter.type, kind) and isinstance(each, str) and each:
                yield each


def check_files(ctx: click.Context, words: Sequence[str]) -> None:
    """Hold the files that a command line names against one another, before anything is read.

    Raises:
        ModelError: it writes a file that it reads, or one file twice.
    """
    given, _, _ = ctx.command.make_parser(click.Context(ctx.command)).parse_args(
        list(words)
    )
    ctx.meta[_WRITTEN] = hold_apart(ctx.command, given)


def hold_apart(command: click.Command, given: Mapping[str, Any]) -> list[str]:
    """The files that a command writes. Raises ModelError where one is a file that it reads, or another of them."""
    from prunegraph.errors import ModelError

    written = [path for path in files(command, WrittenFile, given) if path != "-"]
    read = [Path(path) for path in files(command, ReadFile, given)]
    # What an earlier step of a recipe writes may not be there yet.
    names = set(map(os.path.realpath, read))
    there = [path for path in read if path.is_file()]
    seen: set[str] = set()
    for path in map(Path, written):
        is_read = path.is_file() and any(path.samefile(each) for each in there)
        if is_read or os.path.realpath(path) in names:
            raise ModelError(
                f"{path}: output and input are the same file; choose another output"
            )
        if os.path.realpath(path) in seen:
            raise ModelError(
                f"{path}: two outputs are the same file; choose another name for one of them"
            )
        seen.add(os.path.realpath(path))
    return written


def check_weights(graph: Graph) -> None:
    """The same for files that hold weights of a model, once it is read. Raises ModelError."""
    from prunegraph.graph.onnx_io import check_destinations

    check_destinations(graph, *click.get_current_context().meta.get(_WRITTEN, []))

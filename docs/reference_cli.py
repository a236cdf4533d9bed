"""The reference of the command line, written from the commands when the site is built."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from prunegraph.cli import main
from prunegraph.cli.command import Command, Section, section_of

MARK = "<!-- commands -->"


def on_page_markdown(markdown: str, **others: Any) -> str:
    """Put the commands where a page asks for them; mkdocs calls this for every page."""
    return markdown.replace(MARK, "\n".join(reference())) if MARK in markdown else markdown


def reference() -> Iterator[str]:
    """All commands as lines of Markdown: what each does, its options by section, its examples."""
    parent = click.Context(main, info_name="prunegraph")
    for name, command in sorted(main.commands.items()):
        context = click.Context(command, info_name=name, parent=parent)
        usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
        yield from (f"## {name}", "", command.help or "", "", f"    {usage}", "")
        yield from _options(command, context)
        if isinstance(command, Command):
            yield from ("Examples:", "")
            yield from (f"    prunegraph {example}" for example in command.examples)
            yield ""


def _options(command: click.Command, context: click.Context) -> Iterator[str]:
    options = [each for each in command.params if isinstance(each, click.Option)]
    for section in Section:
        rows = [
            each.get_help_record(context)
            for each in options
            if section_of(each) == section and not each.hidden
        ]
        if rows:
            yield from (f"| {section} | |", "|---|---|")
            yield from (f"| `{_cell(row[0])}` | {_cell(row[1])} |" for row in rows if row)
            yield ""


def _cell(text: str) -> str:
    return text.replace("|", r"\|").replace("<", "&lt;")

"""`prunegraph algorithms`: what can be named on the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from prunegraph.cli.command import Command
from prunegraph.cli.console import write_json
from prunegraph.cli.options import json_option, plugin_option

if TYPE_CHECKING:
    from prunegraph.registry import Entry, Registry


@click.command(cls=Command, examples=["algorithms", "algorithms --plugin mine.py"])
@json_option()
@plugin_option()
def algorithms(json_path: str | None) -> None:
    """List criteria, selectors, allocations and repairs, with their options and where they come from."""
    from prunegraph.options import described
    from prunegraph.recovery.repairs import REPAIRS
    from prunegraph.report import content
    from prunegraph.selection.allocation import ALLOCATIONS
    from prunegraph.selection.criteria import CRITERIA
    from prunegraph.selection.selectors import SELECTORS

    registries: tuple[Registry[Any], ...] = (CRITERIA, SELECTORS, ALLOCATIONS, REPAIRS)
    entries = [entry for registry in registries for entry in registry.entries()]
    options = {f"{entry.kind}/{entry.name}": described(entry.thing) for entry in entries}
    write_json(content.algorithms(entries, options), json_path)
    if json_path != "-":
        _list(entries, options)
    CRITERIA.check()


def _list(entries: Sequence[Entry], options: Mapping[str, str]) -> None:
    """Print names, one a line."""
    wide = max(len(entry.name) for entry in entries)
    far = max(len(entry.origin) for entry in entries)
    for entry in entries:
        given = options[f"{entry.kind}/{entry.name}"]
        summary = entry.summary + (f" Options: {given}" if given else "")
        click.echo(
            f"{entry.kind:<10}  {entry.name:<{wide}}  {entry.origin:<{far}}  {summary}".rstrip()
        )

"""`prunegraph algorithms`: what can be named on the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from prunegraph.cli.command import Command
from prunegraph.cli.options import plugin_option

if TYPE_CHECKING:
    from prunegraph.registry import Registry


@click.command(cls=Command, examples=["algorithms", "algorithms --plugin mine.py"])
@plugin_option()
def algorithms() -> None:
    """List criteria, selectors, allocations and repairs, with their options and where they come from."""
    from prunegraph.options import described
    from prunegraph.recovery.repairs import REPAIRS
    from prunegraph.selection.allocation import ALLOCATIONS
    from prunegraph.selection.criteria import CRITERIA
    from prunegraph.selection.selectors import SELECTORS

    registries: tuple[Registry[Any], ...] = (CRITERIA, SELECTORS, ALLOCATIONS, REPAIRS)
    entries = [entry for registry in registries for entry in registry.entries()]
    wide = max(len(entry.name) for entry in entries)
    far = max(len(entry.origin) for entry in entries)
    for entry in entries:
        given = described(entry.thing)
        summary = entry.summary + (f" Options: {given}" if given else "")
        click.echo(
            f"{entry.kind:<10}  {entry.name:<{wide}}  {entry.origin:<{far}}  {summary}".rstrip()
        )
    CRITERIA.check()

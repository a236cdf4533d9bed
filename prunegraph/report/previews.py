"""Tables of what pruning would do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from prunegraph.report.tables import cost_rows, share

if TYPE_CHECKING:
    from prunegraph.preview import Preview


def widths_table(preview: Preview) -> Table:
    """Before and after: cost, latency where layers were timed before, then channels of layers that would change."""
    table = Table(title="what would be left", title_justify="left")
    for name in ("", "before", "after", "kept"):
        table.add_column(name, justify="left" if not name else "right")
    cost_rows(table, preview.before, preview.after)
    timing = preview.latency
    if timing is not None:
        table.add_row(
            "layers, ms (estimated)",
            f"{timing.before:.3f}",
            f"{timing.after:.3f}",
            share(timing.after, timing.before),
        )
    table.add_section()
    for width in preview.widths:
        after = "dropped" if width.after is None else str(width.after)
        table.add_row(
            width.name, str(width.before), after, share(width.after or 0, width.before)
        )
    return table


def remarks(preview: Preview) -> list[str]:
    """Lines on how far the real run may differ."""
    lines = []
    if preview.samples:
        lines.append(
            f"chosen on {preview.samples} samples at most, without rotation: with all data the widths of single layers "
            "may be others, within the same budget"
        )
    timing = preview.latency
    if timing is None:
        lines.append(
            "latency: no layers of this model were timed on this machine yet; --latency and --round-to auto time them"
        )
    else:
        lines.append(
            f"latency: the sum of {timing.layers} layers timed alone on this machine, {timing.guessed} of them "
            "at other widths; `compare` measures whole models"
        )
    return lines

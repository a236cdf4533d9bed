"""Tables of decomposed models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from prunegraph.graph.layer_names import shown
from prunegraph.report.tables import amount, share

if TYPE_CHECKING:
    from prunegraph.graph.model import Graph
    from prunegraph.rewriting.decompose import DecomposeResult


def layers_table(decomposed: DecomposeResult, original: Graph) -> Table:
    """One row a decomposed layer: method, ranks, what is left of its cost, error of its weight."""
    table = Table(title="decomposed layers", title_justify="left")
    for name in ("layer", "method", "ranks", "params", "MACs", "error", "output error", ""):
        table.add_column(
            name, justify="left" if name in ("layer", "method", "") else "right"
        )
    for row in decomposed.layers:
        table.add_row(
            shown(original, row.name),
            row.method,
            " x ".join(map(str, row.ranks)),
            _change(*row.params),
            _change(*row.macs),
            f"{row.error:.3f}",
            "" if row.output_error is None else f"{row.output_error:.3f}",
            row.note,
        )
    return table


def outcome(decomposed: DecomposeResult, original: Graph) -> str:
    """The cost of the whole model, and which layers stay whole."""
    reasons: dict[str, list[str]] = {}
    for name, reason in decomposed.skipped.items():
        reasons.setdefault(reason, []).append(shown(original, name))
    lines = [
        f"left whole: {', '.join(names)} ({reason})" for reason, names in reasons.items()
    ]
    lines.append(
        f"parameters: {_change(decomposed.before.params, decomposed.after.params)}"
    )
    lines.append(f"MACs: {_change(decomposed.before.macs, decomposed.after.macs)}")
    if decomposed.latency is not None:
        lines.append(
            f"latency: {decomposed.latency.kept:.3f} of the original, measured ({decomposed.latency.second:.3g} ms)"
        )
    return "\n".join(lines)


def _change(before: int, after: int) -> str:
    return f"{amount(before)} -> {amount(after)} ({share(after, before)})"

"""Tables of compressed models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from prunegraph.graph.layer_names import shown
from prunegraph.report.tables import amount, share
from prunegraph.report.text import rotated_line

if TYPE_CHECKING:
    from prunegraph.hybrid.compress import CompressResult


def layers_table(result: CompressResult) -> Table:
    """One row a layer: what was done to it, its width and cost before and after, the error of its weight, why."""
    table = Table(title="layers", title_justify="left")
    for name in (
        "layer",
        "done",
        "inputs",
        "outputs",
        "method",
        "ranks",
        "params",
        "MACs",
        "error",
        "why",
    ):
        table.add_column(
            name, justify="left" if name in ("layer", "done", "method", "why") else "right"
        )
    for row in result.layers:
        table.add_row(
            shown(result.original, row.name),
            row.action,
            _pair(*row.inputs),
            _pair(*row.outputs),
            row.method,
            " x ".join(map(str, row.ranks)),
            share(row.params[1], row.params[0]),
            share(row.macs[1], row.macs[0]),
            "" if row.error is None else f"{row.error:.3f}",
            row.reason,
        )
    return table


def mixes_table(result: CompressResult) -> Table:
    """One row a way that was tried: how much of it was pruned, what is left, the error on samples kept for that."""
    table = Table(title="ways to the budget", title_justify="left")
    for name in ("pruned", "decomposed", "params", "MACs", "error", ""):
        table.add_column(name, justify="left" if not name else "right")
    for mix in result.mixes:
        cells = [share(mix.pruned, 1), share(1 - mix.pruned, 1)]
        if mix.together:
            cells = ["together", ""]
        if mix.depth:
            cells[0] += " (branches)" if mix.depth == 1 else " (branches, channels)"
        if mix.cost is None or mix.error is None:
            table.add_row(*cells, "", "", "", mix.reason)
            continue
        remaining = [
            share(mix.cost.params, result.before.params),
            share(mix.cost.macs, result.before.macs),
        ]
        table.add_row(
            *cells, *remaining, f"{mix.error:.4g}", "chosen" if mix == result.chosen else ""
        )
    return table


def outcome(result: CompressResult) -> str:
    """The cost of the whole model, the proof of the cut, the recovery, and what quantization did."""
    lines = []
    if result.left_out:
        lines.append(
            f"left whole, because the proof failed with them: groups {', '.join(result.left_out)}"
        )
    if result.plan.is_empty:
        lines.append("nothing was cut")
    else:
        lines.append(
            f"proof of the cut: {result.proof}"
            if result.proof
            else "proof of the cut: skipped (--no-verify)"
        )
    lines.append(f"repair: {result.repair}")
    if result.rotated is not None:
        lines.append(rotated_line(result.rotated))
    for name in ("params", "macs"):
        before, after = getattr(result.before, name), getattr(result.after, name)
        label = {"params": "parameters", "macs": "MACs"}[name]
        lines.append(
            f"{label}: {amount(before)} -> {amount(after)} ({share(after, before)})"
        )
    if result.quantized is not None:
        from prunegraph.report.quantized import outcome as quantized

        lines.append(quantized(result.quantized, result.original))
    return "\n".join(lines)


def _pair(before: int, after: int) -> str:
    return str(after) if before == after else f"{before} -> {after}"

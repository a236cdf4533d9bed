"""The HTML page of a model before anything is done to it: the network, what can be pruned, what is fixed and why."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from prunegraph.coupling.outline import branch_record
from prunegraph.graph.onnx_io import write_whole
from prunegraph.ops.cost import Cost, cost
from prunegraph.report.html import filled, layer_path
from prunegraph.report.layers import unchanged_rows
from prunegraph.report.network.notes import picture
from prunegraph.report.tables import amount
from prunegraph.report.text import count_of, exact

if TYPE_CHECKING:
    from prunegraph.coupling.coupling import Coupling


def write(
    coupling: Coupling, path: str | os.PathLike[str], *, command: str | None = None
) -> None:
    """Write the page of an analysed graph, whole or not at all.

    Args:
        coupling: what `prunegraph.analyze` returned.
        path: where the page goes.
        command: the command line that repeats the work, quoted for a shell.

    Raises:
        MissingExtraError: the packages of the extra `report` are not installed.
        ModelError: the page cannot be written.
    """
    write_whole(Path(path), [render(coupling, command=command).encode()])


def render(coupling: Coupling, *, command: str | None = None) -> str:
    """The page as text; see `write`."""
    graph, rows = coupling.graph, unchanged_rows(coupling)
    total = cost(graph)
    return filled(
        "inspected.html",
        partial(layer_path, graph),
        kind="Model",
        name=Path(graph.source).name,
        command=command,
        coupling=coupling,
        rows=rows,
        cost=total,
        figures=_figures(total, coupling, len(rows)),
        branches=[branch_record(coupling, branch) for branch in coupling.branches],
        network=picture(coupling, rows) if rows else None,
        show_kept=False,
    )


def _figures(total: Cost, coupling: Coupling, layers: int) -> list[tuple[str, str, str]]:
    """Label, value and note of the cards."""
    fixed = sum(each.channels == each.of for each in coupling.fixed)
    return [
        ("Multiply-accumulates", amount(total.macs), f"{exact(total.macs)}, batch 1"),
        ("Parameters", amount(total.params), exact(total.params)),
        ("Bytes of weights", f"{amount(total.bytes)}B", exact(total.bytes)),
        (
            "Layers",
            exact(layers),
            f"{count_of(len(coupling.groups), 'group')}; {exact(fixed)} fixed",
        ),
    ]

"""The HTML page of what `quantize`, `compress` or `decompose` wrote: totals, examples, what became of layers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunegraph.graph.onnx_io import write_whole
from prunegraph.report.examples import side_by_side
from prunegraph.report.html import filled, layer_path, noise_content

if TYPE_CHECKING:
    from rich.table import Table

    from prunegraph.graph.model import Graph
    from prunegraph.quantization.quantize import QuantizeResult
    from prunegraph.runtime.data import Data


@dataclass(frozen=True)
class WrittenReport:
    """What the page shows.

    Args:
        original: the model as it was.
        model: as it was written.
        kind: what the page is called.
        command: the command line that repeats the work, quoted for a shell.
        totals: the cards.
        lines: what the terminal says, a sentence each.
        tables: those of the terminal.
        quantized: what quantization did, if it was asked for; its layers have a section of their own.
        samples: the user's data; of images, the first are shown with what both models make of them.
        metric: by name, where one was asked for: that of a detector says how its boxes are read.
    """

    original: Graph
    model: Graph
    kind: str
    command: str
    totals: Sequence[dict[str, Any]]
    lines: Sequence[str]
    tables: Sequence[Table] = ()
    quantized: QuantizeResult | None = None
    samples: Data | None = field(default=None, repr=False)
    metric: str | None = None


@dataclass(frozen=True)
class _Rows:
    """A table of the terminal as a page has it: `numbers` says which columns are set to the right."""

    title: str
    head: tuple[str, ...]
    numbers: tuple[bool, ...]
    rows: tuple[tuple[str, ...], ...]


def write(report: WrittenReport, path: str | os.PathLike[str]) -> None:
    """Write the page, whole or not at all.

    Raises:
        MissingExtraError: the packages of the extra `report` are not installed.
        ModelError: the page cannot be written.
    """
    page = filled(
        "written.html",
        partial(layer_path, report.original),
        kind=report.kind,
        name=Path(report.original.source).name,
        graph=report.original,
        command=report.command,
        totals=list(report.totals),
        lines=report.lines,
        tables=[_rows(table) for table in report.tables],
        examples=side_by_side(report.original, report.model, report.samples, report.metric),
        quantized=report.quantized,
        **noise_content(report.original, report.quantized),
    )
    write_whole(Path(path), [page.encode()])


def _rows(table: Table) -> _Rows:
    columns = [[str(cell) for cell in column.cells] for column in table.columns]
    return _Rows(
        _sentence(str(table.title)),
        tuple(_sentence(str(column.header)) for column in table.columns),
        tuple(column.justify == "right" for column in table.columns),
        tuple(zip(*columns, strict=True)),
    )


def _sentence(text: str) -> str:
    """With a capital first; the rest stays ("MACs")."""
    return text[:1].upper() + text[1:]

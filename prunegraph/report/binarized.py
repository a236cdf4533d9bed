"""The HTML page of a network that became binary: files, latency, outputs, layers, and what stays in full precision."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from prunegraph.graph.onnx_io import write_whole
from prunegraph.report.html import file_card, filled, latency_card

if TYPE_CHECKING:
    from prunegraph.graph.model import Graph
    from prunegraph.measuring.latency import Latency


class LayerUpdate(Protocol):
    """What became of a layer: error of its outputs and held-out loss, before and after; share of codes that changed."""

    @property
    def layer(self) -> str: ...
    @property
    def error(self) -> tuple[float, float]: ...
    @property
    def flips(self) -> float: ...
    @property
    def loss(self) -> tuple[float, float]: ...
    @property
    def kept(self) -> bool: ...
    @property
    def tuned(self) -> float | None: ...
    @property
    def tuning_kept(self) -> bool: ...


@dataclass(frozen=True)
class BinaryReport:
    """What the page shows.

    Attributes:
        original: the network in full precision.
        sizes: bytes of its file and of the binary one; None where it was not read from one file.
        latency: of the two, None where it was not measured.
        rows: layers that were updated.
        skipped: why the others are not binary, by name.
        losses: on held-out samples, by stage.
        lines: what else was said, a sentence each.
        command: the command line that repeats the work.
    """

    original: Graph
    sizes: tuple[int, int] | None
    latency: Latency | None
    rows: Sequence[LayerUpdate]
    skipped: Mapping[str, str]
    losses: Mapping[str, float]
    lines: Sequence[str]
    command: str


def write(report: BinaryReport, path: str | os.PathLike[str]) -> None:
    """Write the page, whole or not at all.

    Raises:
        MissingExtraError: the packages of the extra `report` are not installed.
        ModelError: the page cannot be written.
    """
    page = filled(
        "binary.html",
        kind="Report of binary weights",
        name=Path(report.original.source).name,
        report=report,
        totals=list(_totals(report)),
    )
    write_whole(Path(path), [page.encode()])


def _totals(report: BinaryReport) -> Iterator[dict[str, Any]]:
    """Say what the cards show."""
    if report.sizes is not None:
        yield file_card(report.sizes)
    if report.latency is not None:
        yield latency_card(report.latency)

"""The picture of a network with what a click on a layer tells: its width and cost, its groups, why it is as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from prunegraph.coupling.explain import ADVICE
from prunegraph.graph.layer_names import shown
from prunegraph.report.layers import LayerRow
from prunegraph.report.network.diagram import Diagram, Vertex, diagram
from prunegraph.report.network.drawing import LINE, Box, drawing
from prunegraph.report.network.layout import Size, layout
from prunegraph.report.tables import amount, share
from prunegraph.report.text import clean, exact, shorten

if TYPE_CHECKING:
    from prunegraph.coupling.coupling import Coupling
    from prunegraph.graph.model import Graph

#: Width of a layer's box, its least height, and what the dearest layer's is higher.
WIDE, LOW, HIGHER = 156, 38, 62

#: Colours for groups that several layers make; there is one more for all that is by itself.
COLORS = 8

#: Characters of a name in a box, and of an input's or output's; pixels of one.
NAME, END, LETTER = 23, 20, 6.6

#: Layers of a group that are named, and vertices before and behind a layer.
SOME = 12


@dataclass(frozen=True)
class Link:
    """The name of a layer, or of what joins layers, and the id of what a click on it shows ("" for nothing)."""

    name: str
    to: str = ""


@dataclass(frozen=True)
class GroupNote:
    """A group of coupled channels as a layer's note tells of it; `why` says how its width was chosen."""

    id: str
    text: str
    why: tuple[str, ...]
    partners: tuple[Link, ...]
    more: int


@dataclass(frozen=True)
class LayerNote:
    """What a click on a layer tells; `facts` are labels with text."""

    id: str
    name: str
    kind: str
    facts: tuple[tuple[str, str], ...]
    groups: tuple[GroupNote, ...]
    fixed: tuple[str, ...]
    before: tuple[Link, ...]
    after: tuple[Link, ...]


@dataclass(frozen=True)
class NetworkPicture:
    """The picture with its height, what clicks on it show, and what its legend needs to know."""

    svg: str
    height: int
    notes: tuple[LayerNote, ...]
    colors: int
    coupled: int
    left_out: int


@dataclass(frozen=True)
class Remarks:
    """What else is known: of layers by name a list of labels with text, of groups by id sentences."""

    layers: Mapping[str, Sequence[tuple[str, str]]] = field(default_factory=dict)
    groups: Mapping[str, Sequence[str]] = field(default_factory=dict)


NO_REMARKS = Remarks()


def picture(
    coupling: Coupling,
    rows: Sequence[LayerRow],
    removed: Mapping[str, int] | None = None,
    remarks: Remarks = NO_REMARKS,
) -> NetworkPicture:
    """Draw a network.

    Args:
        coupling: the analysis of the graph that is drawn.
        rows: its layers, before and after.
        removed: how many channels went, by group id; None where nothing was to go.
        remarks: what else is known.
    """
    content = _Content(coupling, rows, removed, remarks)
    drawn = diagram(coupling.graph)
    boxes = [content.box(vertex) for vertex in drawn.vertices]
    places = layout([box.size for box in boxes], drawn.edges)
    layers = sum(vertex.role == "layer" for vertex in drawn.vertices)
    svg, height = drawing(
        places, boxes, f"Graph of {layers} layers; each is a link to its reasons"
    )
    return NetworkPicture(
        svg,
        height,
        tuple(content.notes(drawn)),
        len(set(content.hues.values())),
        len(content.hues),
        len(places.left_out),
    )


class _Content:
    """Boxes and notes of one graph."""

    def __init__(
        self,
        coupling: Coupling,
        rows: Sequence[LayerRow],
        removed: Mapping[str, int] | None,
        remarks: Remarks,
    ):
        self._graph: Graph = coupling.graph
        self._rows = {row.layer: row for row in rows}
        self._ids = {row.layer: f"why-{i}" for i, row in enumerate(rows)}
        self._groups = {group.id: group for group in coupling.groups}
        self._fixed = {fixed.layer: fixed for fixed in coupling.fixed}
        self._removed, self._remarks = removed, remarks
        costs = [row.macs[0] or 0 for row in rows]
        self._largest, self._whole = max(costs, default=0) or 1, sum(costs) or 1
        several = [group.id for group in coupling.groups if len(group.layers) > 1]
        #: By the id of a group that several layers make, its colour.
        self.hues = {name: i % COLORS + 1 for i, name in enumerate(several)}

    # -- boxes ------------------------------------------------------------------------------

    def box(self, vertex: Vertex) -> Box:
        """How a vertex looks."""
        if vertex.role == "layer":
            return self._layer(self._rows[vertex.name])
        text = vertex.op if vertex.role == "join" else shorten(vertex.name, END)
        width = max(26.0, 14 + LETTER * len(text))
        return Box(Size(width, 20), vertex.role, (text,), str(clean(vertex.name)))

    def _layer(self, row: LayerRow) -> Box:
        macs = row.macs[0] or 0
        high = LOW + (LINE if row.ranks else 0) + HIGHER * macs / self._largest
        kinds = ["layer", f"k{self._hue(row)}"]
        kinds += ["fixed"] if row.is_fixed else []
        kinds += ["gone"] if row.is_gone else []
        width = _width(row)
        tip = f"{row.name}: {width}, {share(macs, self._whole)} of the MACs"
        lines: tuple[str, ...] = (
            shorten(row.name, NAME),
            f"{row.op} {width}" if width else row.op,
        )
        if row.ranks:
            lines = (*lines, f"low rank {' x '.join(map(str, row.ranks))}")
        return Box(
            Size(WIDE, high), " ".join(kinds), lines, tip, row.kept, self._ids[row.layer]
        )

    def _hue(self, row: LayerRow) -> int:
        return next((self.hues[name] for name in row.groups if name in self.hues), 0)

    # -- notes ------------------------------------------------------------------------------

    def notes(self, drawn: Diagram) -> Iterator[LayerNote]:
        """What clicks on the layers show."""
        before: dict[int, list[int]] = {}
        after: dict[int, list[int]] = {}
        for source, target in drawn.edges:
            before.setdefault(target, []).append(source)
            after.setdefault(source, []).append(target)
        for index, vertex in enumerate(drawn.vertices):
            if vertex.role == "layer":
                row = self._rows[vertex.name]
                yield LayerNote(
                    self._ids[row.layer],
                    row.name,
                    f"k{self._hue(row)}",
                    tuple(self._facts(row)),
                    tuple(self._group(name, row) for name in row.groups),
                    tuple(self._reason(row)),
                    self._links(drawn, before.get(index, ())),
                    self._links(drawn, after.get(index, ())),
                )

    def _links(self, drawn: Diagram, indices: Sequence[int]) -> tuple[Link, ...]:
        vertices = [drawn.vertices[index] for index in indices[:SOME]]
        return tuple(
            Link(self._rows[v.name].name, self._ids[v.name])
            if v.role == "layer"
            else Link(v.op or v.name)
            for v in vertices
        )

    def _facts(self, row: LayerRow) -> Iterator[tuple[str, str]]:
        yield "operator", row.op
        yield "channels", "gone, with its branch" if row.is_gone else _width(row)
        if not row.is_gone and row.inputs[0] is not None and row.inputs[1] is not None:
            yield "inputs", _change(row.inputs[0], row.inputs[1], exact)
        if row.macs[0]:
            after = row.macs[1] if row.macs[1] is not None else 0
            text = _change(row.macs[0], after, amount)
            yield "MACs", f"{text}; {share(row.macs[0], self._whole)} of all before"
        yield from self._remarks.layers.get(row.layer, ())

    def _group(self, name: str, row: LayerRow) -> GroupNote:
        group = self._groups[name]
        others = [layer for layer in group.layers if layer != row.layer]
        text = f"{exact(group.channels)} channels"
        if self._removed is not None:
            kept = group.channels - self._removed.get(name, 0)
            text = f"{exact(kept)} of {text} stay"
        if group.cells is not None:
            text += f", equally many in each of {len(group.cells)} blocks"
        links = [Link(self._rows[each].name, self._ids[each]) for each in others[:SOME]]
        why = tuple(self._remarks.groups.get(name, ()))
        return GroupNote(name, text, why, tuple(links), max(0, len(others) - SOME))

    def _reason(self, row: LayerRow) -> Iterator[str]:
        fixed = self._fixed.get(row.layer)
        if fixed is not None:
            count = f"{exact(fixed.channels)} of {exact(fixed.of)} channels are fixed"
            because = shown(self._graph, fixed.because)
            yield f"{count}: {fixed.reason} ({because})"
            yield ADVICE[fixed.kind]
        elif not row.groups:
            yield "no group has its channels"


def _width(row: LayerRow) -> str:
    """Output channels before and after; "" where they are not known."""
    before, after = row.outputs
    if before is None:
        return ""
    return _change(before, 0 if row.is_gone else after, exact)


def _change(before: int, after: int | None, show: Callable[[int], str]) -> str:
    if after is None or before == after:
        return show(before)
    return f"{show(before)} \u2192 {show(after)}"

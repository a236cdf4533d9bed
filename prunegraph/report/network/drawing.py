"""A layout as an SVG: boxes that are links, and the edges between them, as one path. Nothing in it is a script."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

from prunegraph.report.network.layout import BELOW, LANE, Arrangement, Element, Size
from prunegraph.report.text import clean

#: Radius of the corners of edges that go on in the next column, and what the picture has around it.
CORNER, MARGIN = 8, 12

#: Where a box begins or ends an edge, middles that are nearer to each other are joined by a straight line.
SAME = 7

#: Pixels from a box to the first line of its text, and from line to line.
FIRST_LINE, LINE = 15, 14


@dataclass(frozen=True)
class Box:
    """How a vertex looks.

    Args:
        size: in pixels.
        kind: classes of the style sheet.
        lines: of text, from the top; the first is the name.
        tip: shown where the pointer rests.
        kept: share of the width that is filled; None fills nothing.
        link: id of what a click shows; "" for nothing.
    """

    size: Size
    kind: str
    lines: tuple[str, ...]
    tip: str = ""
    kept: float | None = None
    link: str = ""


def drawing(layout: Arrangement, boxes: Sequence[Box], label: str) -> tuple[str, int]:
    """The picture and its height; `boxes` are those of the vertices, `label` says to a screen reader what it is."""
    breaks = [_lanes(layout, column.last) for column in layout.columns]
    above = MARGIN + max((LANE * len(each) for each in breaks), default=0)
    width = max((c.start + c.width for c in layout.columns), default=0) + 2 * MARGIN
    height = max((c.height for c in layout.columns), default=0) + 2 * above
    parts = [
        f'<svg class="network" role="group" aria-label={quoteattr(label)} '
        f'width="{width:.0f}" height="{height:.0f}" viewBox="{-MARGIN} {-above:.0f} {width:.0f} {height:.0f}">',
        f'<path class="edges" d="{"".join(_edges(layout, breaks))}"/>',
    ]
    order = sorted(
        (e for e in layout.elements if e.vertex is not None), key=lambda e: (e.row, e.x)
    )
    parts += [_box(e, boxes[e.vertex]) for e in order if e.vertex is not None]
    return "".join([*parts, "</svg>"]), round(height)


def _text(text: str) -> str:
    return escape(str(clean(text)))


def _box(element: Element, box: Box) -> str:
    start, top = element.x - box.size.width / 2, element.top
    w, h = box.size.width, box.size.height
    # Inside of a link positions are of its own corner: they are short, and much the same everywhere.
    parts = [f'<rect class="b" width="{w:.0f}" height="{h:.0f}" rx="5"/>']
    if box.kept is not None:
        parts.append(
            f'<rect class="f" width="{w * box.kept:.1f}" height="{h:.0f}" rx="5"/>'
        )
    if box.lines:
        first = max(FIRST_LINE, (h - LINE * (len(box.lines) - 1)) / 2 + 4)
        for i, line in enumerate(box.lines):
            place = f'x="{w / 2:.0f}" y="{first + LINE * i:.0f}"'
            parts.append(f"<text {place}>{_text(line)}</text>")
    tip = f"<title>{_text(box.tip)}</title>" if box.tip else ""
    place = f'class={quoteattr(box.kind)} transform="translate({start:.0f} {top:.0f})"'
    if box.link:
        return f'<a href="#{box.link}" {place}>{tip}{"".join(parts)}</a>'
    return f"<g {place}>{tip}{''.join(parts)}</g>"


# -- edges ----------------------------------------------------------------------------------


def _lanes(layout: Arrangement, row: int) -> list[int]:
    """Elements of a row with edges to the next one, from left to right."""
    lanes = [i for i, e in enumerate(layout.elements) if e.row == row and e.below]
    return sorted(lanes, key=lambda i: layout.elements[i].x)


def _edges(layout: Arrangement, breaks: Sequence[Sequence[int]]) -> Iterator[str]:
    elements = layout.elements
    ends = {column.last: number for number, column in enumerate(layout.columns)}
    for index, element in enumerate(elements):
        if element.vertex is None:
            yield f"M{element.x:.0f} {element.top:.0f}V{element.bottom:.0f}"
        for target in element.below:
            if element.row in ends:
                yield _around(layout, breaks[ends[element.row]], index, target)
            else:
                yield _curve(element, elements[target])


def _curve(first: Element, second: Element) -> str:
    x, y, u, v = first.x, first.bottom, second.x, second.top
    if abs(x - u) < (0.5 if first.vertex is None is second.vertex else SAME):
        middle = x if first.vertex is None else u if second.vertex is None else (x + u) / 2
        return f"M{middle:.0f} {y:.0f}V{v:.0f}"
    bend = min(BELOW, (v - y) / 2 + 4)
    return f"M{x:.0f} {y:.0f}C{x:.0f} {y + bend:.0f} {u:.0f} {v - bend:.0f} {u:.0f} {v:.0f}"


def _around(layout: Arrangement, lanes: Sequence[int], index: int, target: int) -> str:
    """The way from the end of a column, up beside it, to the start of the next one."""
    first, second = layout.elements[index], layout.elements[target]
    number = lanes.index(index)
    here = layout.columns[layout.column(first.row)]
    low = here.height + CORNER + LANE * (len(lanes) - 1 - number)
    high = -CORNER - LANE * (len(lanes) - 1 - number)
    middle = here.start + here.width + 17 + LANE * (len(lanes) - 1 - number)
    points = [
        (first.x, first.bottom),
        (first.x, low),
        (middle, low),
        (middle, high),
        (second.x, high),
        (second.x, second.top),
    ]
    return _rounded(points)


def _rounded(points: Sequence[tuple[float, float]]) -> str:
    """A path of straight pieces, alternately down and across, with round corners."""
    path = [f"M{points[0][0]:.0f} {points[0][1]:.0f}"]
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        start, end = _towards(corner, before), _towards(corner, after)
        path.append(
            f"L{start[0]:.0f} {start[1]:.0f}Q{corner[0]:.0f} {corner[1]:.0f} {end[0]:.0f} {end[1]:.0f}"
        )
    path.append(f"L{points[-1][0]:.0f} {points[-1][1]:.0f}")
    return "".join(path)


def _towards(
    corner: tuple[float, float], other: tuple[float, float]
) -> tuple[float, float]:
    """The point on the way from a corner to another point at which the curve begins."""
    dx, dy = other[0] - corner[0], other[1] - corner[1]
    distance = abs(dx) + abs(dy)
    part = min(CORNER, distance / 2) / distance if distance else 0.0
    return corner[0] + dx * part, corner[1] + dy * part

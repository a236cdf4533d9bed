"""Where the vertices of a diagram go: rows from input to output, in columns as text has them in a newspaper.

Rows are longest paths from the inputs; vertices are ordered in their rows by the mean place of their neighbours
(Sugiyama's method), and stand as near to these as the order lets them, in least squares. An edge over several rows
passes each by a point of its own, which all edges of a vertex share. Rows are broken into columns where few edges pass.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

#: Pixels between neighbours in a row, and between rows.
BESIDE, BELOW = 16, 24

#: Height of a column at most, if it can be broken, and the share of it that it fills at least.
COLUMN, FILLED = 660, 0.55

#: Points beside which long edges are left out: this many, and so many for each vertex.
POINTS, POINTS_EACH = 600, 6

#: Rounds of ordering and of placing.
ORDERINGS, PLACINGS = 8, 12

#: How much more than others an edge between two points pulls straight.
STRAIGHT = 4.0


@dataclass(frozen=True)
class Size:
    """Width and height of a vertex in pixels."""

    width: float
    height: float


@dataclass
class Element:
    """A vertex, or a point where an edge passes a row (`vertex` is None). `x` is its middle, `top` its upper edge."""

    vertex: int | None
    size: Size
    row: int
    x: float = 0.0
    top: float = 0.0
    above: list[int] = field(default_factory=list)
    below: list[int] = field(default_factory=list)

    @property
    def bottom(self) -> float:
        return self.top + self.size.height


@dataclass(frozen=True)
class Column:
    """Rows `first` to `last`; `start` is the left edge, within the picture."""

    first: int
    last: int
    start: float
    width: float
    height: float


@dataclass(frozen=True)
class Arrangement:
    """Elements with their places (those of the vertices first), columns, and edges that are not drawn."""

    elements: tuple[Element, ...]
    columns: tuple[Column, ...]
    left_out: tuple[tuple[int, int], ...]

    def column(self, row: int) -> int:
        """The column that a row is in."""
        return next(i for i, column in enumerate(self.columns) if row <= column.last)


def layout(sizes: Sequence[Size], edges: Sequence[tuple[int, int]]) -> Arrangement:
    """Places for vertices.

    Args:
        sizes: of the vertices, in topological order.
        edges: from an earlier vertex to a later one, by index.
    """
    elements, left_out = _elements(sizes, edges)
    rows = _rows(elements)
    _order(elements, rows)
    _place(elements, rows)
    return Arrangement(tuple(elements), tuple(_columns(elements, rows)), left_out)


# -- rows -----------------------------------------------------------------------------------


def _levels(count: int, edges: Sequence[tuple[int, int]]) -> list[int]:
    """The row of every vertex: longest path from the start; what nothing comes before stands above its first reader."""
    level = [0] * count
    for source, target in sorted(edges, key=lambda edge: edge[1]):
        level[target] = max(level[target], level[source] + 1)
    first: dict[int, int] = {}
    for source, target in edges:
        first[source] = min(first.get(source, level[target]), level[target])
    has_source = {target for _, target in edges}
    return [
        level[v] if v in has_source else max(0, first.get(v, 1) - 1) for v in range(count)
    ]


def _elements(
    sizes: Sequence[Size], edges: Sequence[tuple[int, int]]
) -> tuple[list[Element], tuple[tuple[int, int], ...]]:
    """Vertices, points of long edges, and their connections from row to row."""
    level = _levels(len(sizes), edges)
    result = [Element(v, size, level[v]) for v, size in enumerate(sizes)]
    ends: dict[int, list[int]] = {}  # by vertex, its element in every row from its own on
    left_out, room = [], POINTS + POINTS_EACH * len(sizes)
    for source, target in sorted(edges, key=lambda edge: level[edge[1]] - level[edge[0]]):
        chain = ends.setdefault(source, [source])
        missing = max(0, level[target] - level[source] - len(chain))
        if missing > room:
            left_out.append((source, target))
            continue
        room -= missing
        for _ in range(missing):
            point = Element(None, Size(0, 0), result[chain[-1]].row + 1)
            _connect(result, chain[-1], len(result), point)
            chain.append(len(result) - 1)
        _connect(result, chain[level[target] - level[source] - 1], target)
    return result, tuple(left_out)


def _connect(
    elements: list[Element], above: int, below: int, new: Element | None = None
) -> None:
    if new is not None:
        elements.append(new)
    elements[above].below.append(below)
    elements[below].above.append(above)


def _rows(elements: Sequence[Element]) -> list[list[int]]:
    rows: list[list[int]] = [
        [] for _ in range(1 + max((e.row for e in elements), default=-1))
    ]
    for index, element in enumerate(elements):
        rows[element.row].append(index)
    return rows


# -- order ----------------------------------------------------------------------------------


def _order(elements: Sequence[Element], rows: list[list[int]]) -> None:
    """Order each row by the mean place of neighbours in the row before, down and up; keep the fewest crossings."""
    best, least = [list(row) for row in rows], _crossings(elements, rows)
    for turn in range(ORDERINGS):
        if not least:
            break
        down = turn % 2 == 0
        for row in rows if down else reversed(rows):
            _sort(elements, rows, row, down)
        crossings = _crossings(elements, rows)
        if crossings < least:
            best, least = [list(row) for row in rows], crossings
    rows[:] = best


def _sort(
    elements: Sequence[Element], rows: list[list[int]], row: list[int], down: bool
) -> None:
    other = elements[row[0]].row + (-1 if down else 1)
    if len(row) < 2 or not 0 <= other < len(rows):
        return
    place = {index: i for i, index in enumerate(rows[other])}

    def mean(pair: tuple[int, int]) -> float:
        old, index = pair
        near = elements[index].above if down else elements[index].below
        if not near:
            return old / len(row) * len(place)
        return sum(place[each] for each in near) / len(near)

    row[:] = [index for _, index in sorted(enumerate(row), key=mean)]


def _crossings(elements: Sequence[Element], rows: Sequence[Sequence[int]]) -> int:
    return sum(
        _crossings_below(elements, rows[i], rows[i + 1]) for i in range(len(rows) - 1)
    )


def _crossings_below(
    elements: Sequence[Element], upper: Sequence[int], lower: Sequence[int]
) -> int:
    place = {index: i for i, index in enumerate(lower)}
    before: list[int] = []
    count = 0
    for index in upper:
        targets = sorted(place[each] for each in elements[index].below)
        # Edges that began further left and end further right are crossed.
        count += sum(len(before) - bisect_left(before, target + 1) for target in targets)
        for target in targets:
            insort(before, target)
    return count


# -- places ---------------------------------------------------------------------------------


def _place(elements: Sequence[Element], rows: Sequence[Sequence[int]]) -> None:
    """Set `x` of all elements: near their neighbours, in order, without overlap."""
    for row in rows:
        _spread(elements, row, [0.0] * len(row))
    both: list[Callable[[Element], list[int]]] = [
        lambda e: e.above,
        lambda e: e.below,
        lambda e: [*e.above, *e.below],
    ]
    for turn in range(PLACINGS):
        near = both[2] if turn >= PLACINGS - 3 else both[turn % 2]
        for row in rows if turn % 2 == 0 else reversed(rows):
            wanted = [_wanted(elements, elements[index], near) for index in row]
            _spread(elements, row, wanted)


def _wanted(
    elements: Sequence[Element], element: Element, near: Callable[[Element], list[int]]
) -> float:
    others = [elements[index] for index in near(element)]
    if not others:
        return element.x
    pull = [_pull(element, other) for other in others]
    return sum(p * other.x for p, other in zip(pull, others, strict=True)) / sum(pull)


def _pull(first: Element, second: Element) -> float:
    """How strongly neighbours pull at each other: more along a long edge, and where there is no other way to go."""
    if first.vertex is None and second.vertex is None:
        return STRAIGHT
    upper, lower = sorted((first, second), key=lambda e: e.row)
    return STRAIGHT if len(upper.below) == 1 == len(lower.above) else 1.0


def _spread(
    elements: Sequence[Element], row: Sequence[int], wanted: Sequence[float]
) -> None:
    """Set `x` along a row to the nearest places, in least squares, that keep order and distance.

    Distances taken off, that is isotonic regression, which pools neighbours that violate the order.
    """
    offsets, place = [], 0.0
    for i, index in enumerate(row):
        if i:
            widths = elements[row[i - 1]].size.width + elements[index].size.width
            place += widths / 2 + BESIDE
        offsets.append(place)
    pools: list[tuple[float, float, int]] = []  # sum, weight and number of what is pooled
    for index, target, offset in zip(row, wanted, offsets, strict=True):
        weight = STRAIGHT if elements[index].vertex is None else 1.0
        total, count = weight * (target - offset), 1
        while pools and pools[-1][0] / pools[-1][1] >= total / weight:
            before = pools.pop()
            total, weight, count = (
                total + before[0],
                weight + before[1],
                count + before[2],
            )
        pools.append((total, weight, count))
    levels = [total / weight for total, weight, count in pools for _ in range(count)]
    for index, level, offset in zip(row, levels, offsets, strict=True):
        elements[index].x = level + offset


# -- columns --------------------------------------------------------------------------------


def _columns(elements: Sequence[Element], rows: Sequence[Sequence[int]]) -> list[Column]:
    """Break rows into columns where few edges pass, and set `x` and `top` of the elements within the picture."""
    heights = [max((elements[i].size.height for i in row), default=0.0) for row in rows]
    passing = [
        sum(1 for index in row if elements[index].below) for row in rows
    ]  # lanes from a row to the next
    result: list[Column] = []
    first, start = 0, 0.0
    while first < len(rows):
        last = _break(heights, passing, first)
        column = _column(elements, rows, (first, last), start, heights)
        result.append(column)
        start += column.width + gutter(passing[last])
        first = last + 1
    return result


def gutter(lanes: int) -> float:
    """Width of the room behind a column, through which lanes go up to the next one."""
    return 34 + LANE * lanes


#: Pixels between two lanes from one column to the next.
LANE = 7


def _break(heights: Sequence[float], passing: Sequence[int], first: int) -> int:
    """The last row of a column that begins with row `first`."""
    height, candidates = 0.0, list[int]()
    for row in range(first, len(heights)):
        height += heights[row] + BELOW
        if height > COLUMN and candidates:
            break
        if height >= FILLED * COLUMN:
            candidates.append(row)
    else:
        return len(heights) - 1
    return min(candidates, key=lambda row: (passing[row], -row))


def _column(
    elements: Sequence[Element],
    rows: Sequence[Sequence[int]],
    span: tuple[int, int],
    start: float,
    heights: Sequence[float],
) -> Column:
    first, last = span
    inside = [elements[index] for row in rows[first : last + 1] for index in row]
    low = min(e.x - e.size.width / 2 for e in inside)
    high = max(e.x + e.size.width / 2 for e in inside)
    top = 0.0
    for number in range(first, last + 1):
        for index in rows[number]:
            element = elements[index]
            element.x += start - low
            if element.vertex is None:  # straight down through the row
                element.size = Size(0, heights[number])
            element.top = top + (heights[number] - element.size.height) / 2
        top += heights[number] + BELOW
    return Column(first, last, start, high - low, top - BELOW)

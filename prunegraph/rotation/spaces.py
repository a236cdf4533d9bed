"""Spaces: channels that one matrix may mix, with every weight that makes or reads them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from prunegraph.graph.model import Graph, Node
from prunegraph.labels.resolved import components
from prunegraph.rewriting.tied import copies
from prunegraph.rotation.notes import Notes, Reading, Touch
from prunegraph.rotation.walk import walk

Array = np.ndarray

#: What a row counts for on the side of a contraction that has the inverse of the other side's matrix.
_DUAL = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, eq=False)
class WeightPart:
    """Where a weight holds the channels of a space.

    `columns` [vectors, channels] are places on the weight's `axes`, flattened together; each row is one vector of the
    space. With the matrix R of the space, a weight that makes channels (`reads` is False) is multiplied by R, one that
    `reads` them by its inverse; on the `dual` side R is the inverse's transpose.
    """

    weight: str
    axes: tuple[int, ...]
    columns: Array = field(repr=False)
    reads: bool
    dual: bool
    node: Node = field(repr=False)
    value: str = ""


@dataclass(frozen=True, eq=False)
class ValuePart:
    """Where a value that is read holds the channels of a space; as `WeightPart`."""

    value: str
    axes: tuple[int, ...]
    columns: Array = field(repr=False)
    dual: bool
    node: Node = field(repr=False)
    partner: str = ""


@dataclass(frozen=True, eq=False)
class Space:
    """Channels that any one invertible matrix may mix, without a change of what the graph computes.

    `is_rigid` where only an orthogonal one may, or where another one would part a table of tokens from the output layer
    that is its copy. `inside` are all values that hold them, read or not.
    """

    size: int
    weights: tuple[WeightPart, ...]
    values: tuple[ValuePart, ...]
    is_rigid: bool
    inside: frozenset[str] = field(repr=False)

    @property
    def name(self) -> str:
        """The first layer that makes the channels."""
        return next(part.node.name for part in self.weights if not part.reads)

    @property
    def read_weights(self) -> frozenset[str]:
        """Names of the weights that read the channels."""
        return frozenset(part.weight for part in self.weights if part.reads)


def find_spaces(graph: Graph) -> tuple[Space, ...]:
    """All spaces of a graph that a layer makes and a layer or contraction reads, in the order of their layers.

    They are cached on the graph.
    """
    if "spaces" not in graph.cache:
        notes = walk(graph)
        spaces = _Solution(notes).spaces() if notes.channels else ()
        tied = copies(graph)
        graph.cache["spaces"] = tuple(
            replace(
                space, is_rigid=space.is_rigid or not tied.isdisjoint(space.read_weights)
            )
            for space in spaces
        )
    result: tuple[Space, ...] = graph.cache["spaces"]
    return result


class _Solution:
    """Channels as they are once all notes are read together.

    `root` is the number of the first channel that is the same as another one, `dual` tells whether it is so with the
    inverse's transpose.
    """

    def __init__(self, notes: Notes):
        self.notes = notes
        count = notes.channels + 1
        self.root, self.dual, self.rigid = _united(count, notes)
        self.fixed = np.zeros(count, bool)
        for ids in notes.fixed:
            self.fixed[self.root[ids]] = True
        self.fixed[0] = True
        self.signatures = self._sign()

    def spaces(self) -> Iterator[Space]:
        """The spaces, once channels are fixed that do not make whole vectors wherever they are."""
        blocks = self._blocks()
        while self._fix_broken(blocks):
            blocks = self._blocks()
        weights: list[list[WeightPart]] = [[] for _ in blocks]
        values: list[list[ValuePart]] = [[] for _ in blocks]
        for touch in self.notes.touches:
            for index, columns, dual in self._parts(touch, blocks):
                part = WeightPart(
                    touch.weight,
                    touch.axes,
                    columns,
                    touch.reads,
                    dual,
                    touch.node,
                    touch.value,
                )
                weights[index].append(part)
        for read in self.notes.readings:
            for index, columns, dual in self._parts(read, blocks):
                values[index].append(
                    ValuePart(read.value, read.axes, columns, dual, read.node, read.partner)
                )
        inside: list[list[str]] = [[] for _ in blocks]
        number = self._numbers(blocks)
        for value, ids in self.notes.values.items():
            for index in np.unique(number[self.root[ids]]):
                if index >= 0:
                    inside[index].append(value)
        for index, roots in enumerate(blocks):
            is_made = any(not part.reads for part in weights[index])
            if is_made and values[index]:
                yield Space(
                    len(roots),
                    tuple(weights[index]),
                    tuple(values[index]),
                    bool(self.rigid[roots].any()),
                    frozenset(inside[index]),
                )

    def _sign(self) -> tuple[Array, Array]:
        """Numbers that are equal for channels, and for roots, that are in the same rows wherever they are."""
        count = self.notes.channels + 1
        own, joint = np.zeros(count, np.uint64), np.zeros(count, np.uint64)
        random = np.random.default_rng(0)
        for ids, rows in self.notes.rows:
            _, inverse = np.unique(rows, return_inverse=True)
            most = int(inverse.max(initial=-1)) + 1
            each = random.integers(1, 2**63, most, np.uint64)[inverse]
            np.add.at(own, ids, each)
            np.add.at(joint, self.root[ids], np.where(self.dual[ids], each * _DUAL, each))
        return own, joint

    def _blocks(self) -> list[Array]:
        """Roots of each space, in order: free ones that are in the same rows."""
        joint = self.signatures[1]
        is_root = self.root == np.arange(len(self.root))
        free = np.flatnonzero(~self.fixed & is_root)
        _, groups = np.unique(joint[free], return_inverse=True)
        order = np.argsort(groups, kind="stable")
        starts = np.flatnonzero(np.diff(groups[order])) + 1
        blocks = [each for each in np.split(free[order], starts) if len(each) > 1]
        return sorted(blocks, key=lambda roots: int(roots[0]))

    def _fix_broken(self, blocks: Sequence[Array]) -> bool:
        """Fix channels of vectors that are not whole somewhere; tell whether there were any."""
        again = False
        places: list[Touch | Reading] = [*self.notes.touches, *self.notes.readings]
        for each in places:
            for index, elements in self._vectors(each, blocks):
                roots = self.root[each.ids[elements]]
                sides = self.dual[each.ids[elements]]
                if not np.array_equal(roots, blocks[index]) or (sides != sides[0]).any():
                    self.fixed[roots] = again = True
        return again

    def _vectors(
        self, each: Touch | Reading, blocks: Sequence[Array]
    ) -> Iterator[tuple[int, Array]]:
        """Space and elements of all vectors on a weight or value: what is in one row there, and everywhere else."""
        number = self._numbers(blocks)
        spaces = number[self.root[each.ids]]
        where = np.flatnonzero(spaces >= 0)
        own = self.signatures[0][each.ids]
        keys = (self.root[each.ids][where], own[where], each.rows[where], spaces[where])
        order = where[np.lexsort(keys)]
        changes = [np.diff(part[order]) != 0 for part in (own, each.rows, spaces)]
        for elements in np.split(order, np.flatnonzero(np.any(changes, axis=0)) + 1):
            if len(elements):
                yield int(spaces[elements[0]]), elements

    def _numbers(self, blocks: Sequence[Array]) -> Array:
        """The space of every root; -1 where it is in none."""
        number = np.full(len(self.root), -1)
        for index, roots in enumerate(blocks):
            number[roots] = index
        return number

    def _parts(
        self, each: Touch | Reading, blocks: Sequence[Array]
    ) -> Iterator[tuple[int, Array, bool]]:
        """Space, columns [vectors, channels], and whether it is the dual side, of what is on a weight or value."""
        columns: dict[tuple[int, bool], list[Array]] = {}
        for index, elements in self._vectors(each, blocks):
            side = bool(self.dual[each.ids[elements[0]]])
            columns.setdefault((index, side), []).append(elements)
        for (index, side), vectors in columns.items():
            stacked = np.stack(vectors)
            yield index, stacked[np.argsort(stacked[:, 0])], side


def _united(count: int, notes: Notes) -> tuple[Array, Array, Array]:
    """Root, side and rigidity of every channel.

    Every channel stands twice in the graph of ties, once for each side; a dual tie joins unlike sides. Where both
    sides of a channel meet, its matrix is its own inverse's transpose: only an orthogonal one is.
    """
    nothing = np.zeros(0, np.int64)
    same, dual = (
        [np.concatenate([nothing, *(pair[side] for pair in pairs)]) for side in (0, 1)]
        for pairs in (notes.same, notes.dual)
    )
    first = [same[0], same[0] + count, dual[0], dual[0] + count]
    second = [same[1], same[1] + count, dual[1] + count, dual[1]]
    _, cover = components(2 * count, first, second)
    _, joint = components(count, [same[0], dual[0]], [same[1], dual[1]])
    _, first_of = np.unique(joint, return_index=True)
    root = np.asarray(first_of[joint])
    rigid = cover[:count] == cover[count:]
    side = (cover[:count] != cover[root]) & ~rigid
    return root, side, rigid

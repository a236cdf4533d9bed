"""Channels: the connected components of all labels."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import TypeGuard

import numpy as np

from prunegraph.labels.blocks import Blocks
from prunegraph.labels.labels import Labels, Listed, Span, Uniform
from prunegraph.labels.reasons import Reason
from prunegraph.labels.space import LabelSpace

Array = np.ndarray


class ResolvedLabels:
    """Resolved labels: every label belongs to one channel, pinned or free.

    Blocks that nothing touches index by index stay runs; all others are expanded into
    elements whose connected components are the channels. `blocks` are the pairs of factors of which each block
    has channels of its own.
    """

    def __init__(
        self, space: LabelSpace, used: Iterable[Labels], blocks: Sequence[Blocks] = ()
    ):
        self.space = space
        self.blocks = tuple(blocks)
        self._inner = {each.inner.first: each for each in self.blocks}
        self._starts = space.starts
        # Kept with the labels they are of: a key holds the identity of an array.
        self._roots: dict[tuple[int, int], tuple[Labels, Labels]] = {}
        self._compact: dict[tuple[int, int], tuple[Labels, Labels]] = {}
        self._indices: dict[tuple[int, int], tuple[Labels, Array]] = {}
        self._whole: dict[tuple[int, int], tuple[Labels, bool]] = {}
        self._start_array = np.asarray(space.starts, np.int64)
        self._expand(used)
        self._connect()

    def _expand(self, used: Iterable[Labels]) -> None:
        """Number the elements of every block that is looked at index by index."""
        space = self.space
        queue = [labels for pair in space.ties for labels in pair]
        queue += used
        roots: set[int] = set()
        seen: set[tuple[int, int]] = set()
        self._following: list[tuple[int, Labels]] = []
        while queue:
            match = space.find(queue.pop())
            if isinstance(match, Uniform):
                roots.add(match.label)
                continue
            if space.is_block(match) or match.key in seen:
                continue
            seen.add(match.key)
            for first in self._blocks(match) - roots:
                final = space.find(space.block(first))
                if isinstance(final, Uniform):
                    roots.add(final.label)
                elif space.is_block(final):
                    roots.add(final.first)
                else:  # the block follows other labels index by index
                    roots.add(first)
                    self._following.append((first, final))
                    queue.append(final)
        self._base: dict[int, int] = {}
        self._elements = 0
        for first in sorted(roots):
            self._base[first] = self._elements
            self._elements += space.sizes[first]

    def _blocks(self, labels: Labels) -> set[int]:
        """First labels of the blocks in which labels lie."""
        if not labels.size:
            return set()
        if not isinstance(labels, Listed):
            return {self._block(_first(labels))}
        blocks = np.searchsorted(self._start_array, labels.ids, "right") - 1
        return {self._starts[block] for block in _distinct(blocks)}

    def _block(self, label: int) -> int:
        return self._starts[bisect_right(self._starts, label) - 1]

    def _elements_of(self, labels: Labels) -> Array:
        """Element numbers of labels whose blocks are all expanded; each stands for `labels.repeat` of them."""
        labels = self.space.find(labels)
        key = labels.key
        if key not in self._indices:
            self._indices[key] = labels, self._look_up(labels)
        return self._indices[key][1]

    def _all_elements_of(self, labels: Labels) -> Array:
        elements = self._elements_of(labels)
        return (
            elements
            if labels.size == len(elements)
            else np.repeat(elements, labels.size // len(elements))
        )

    def _look_up(self, labels: Labels) -> Array:
        if not labels.size:
            return np.zeros(0, np.int64)
        if not isinstance(labels, Listed):
            first = self._block(_first(labels))
            base, offset = self._locate(first)
            if base is None:
                return np.full(labels.size, offset)
            start = base + _first(labels) - first
            if isinstance(labels, Uniform):
                return np.full(labels.size, start)
            return np.arange(start, start + labels.size)
        blocks = np.searchsorted(self._start_array, labels.ids, "right") - 1
        shift, scale = np.empty((2, len(self._starts)), np.int64)
        for block in _distinct(blocks):
            base, offset = self._locate(self._starts[block])
            shift[block], scale[block] = (
                (base - self._starts[block], 1) if base is not None else (offset, 0)
            )
        return shift[blocks] + labels.ids * scale[blocks]

    def _locate(self, first: int) -> tuple[int | None, int]:
        """The base element of a block's root, or the one element of the pin it points at."""
        final = self.space.find(self.space.block(first))
        if isinstance(final, Uniform):
            return None, self._base[final.label]
        if self.space.is_block(final):
            return self._base[final.first], 0
        return self._base[first], 0

    def _connect(self) -> None:
        if not self._elements:
            self._component, self.count = np.zeros(0, np.int64), 0
            self._pinned = np.zeros(0, bool)
            self._pin_of: dict[int, Reason] = {}
            return
        remaining, right = [], []
        for a, b in self.space.ties:
            remaining.append(self._all_elements_of(a))
            right.append(self._all_elements_of(b))
        for first, final in self._following:
            base = self._base[first]
            remaining.append(np.arange(base, base + final.size))
            right.append(self._all_elements_of(final))
        self.count, self._component = components(self._elements, remaining, right)
        self._pin_of = {}
        for label, reason in self.space.reasons.items():
            if label in self._base:
                self._pin_of.setdefault(int(self._component[self._base[label]]), reason)
        self._pinned = np.zeros(self.count, bool)
        self._pinned[list(self._pin_of)] = True

    # -- questions ------------------------------------------------------------------

    def block_numbers(self, blocks: Blocks) -> Array:
        """Channel numbers of the elements of all blocks [blocks, elements of one]."""
        return self.root(blocks.elements).array().reshape(blocks.count, blocks.size)

    @cached_property
    def covers(self) -> list[tuple[Array, Array]]:
        """Channels of whole blocks [blocks], and of the elements that go with them [blocks, elements of one]."""
        result = []
        for blocks in self.blocks:
            if not self.all_pinned(blocks.factor):
                whole = self.root(blocks.factor).array()
                result.append((whole, self.block_numbers(blocks)))
        return result

    def blocks_of(self, labels: Labels) -> Blocks | None:
        """The blocks whose elements an axis counts; None for an axis that has channels itself."""
        if not self.blocks or not isinstance(labels, Span):
            return None
        before = self.blocks[0].outer.space
        root = before.find(labels)
        return self._inner.get(root.first) if before.is_block(root) else None

    def root(self, labels: Labels) -> Labels:
        """Labels as channel numbers: a run for an untouched block, else an array.

        Numbers below `count` are components of expanded blocks, the others runs.
        """
        root = self.compact(labels)
        if not isinstance(root, Listed) or root.repeat == 1:
            return root
        if root.key not in self._roots:
            self._roots[root.key] = root, Listed(root.array())
        return self._roots[root.key][1]

    def compact(self, labels: Labels) -> Labels:
        """Like `root`, but numbers that all repeat alike are given once, with their `repeat`."""
        match = self.space.find(labels)
        if isinstance(match, Uniform):
            if match.label in self._base:
                return Uniform(match.size, int(self._component[self._base[match.label]]))
            return Uniform(match.size, self.count + match.label)
        if self._is_run(match):
            return Span(match.size, self.count + match.first)
        key = match.key
        if key not in self._compact:
            ids = self._component[self._elements_of(match)].astype(np.int64)
            repeat = match.repeat if isinstance(match, Listed) else 1
            self._compact[key] = match, Listed(ids, repeat)
        return self._compact[key][1]

    def is_untouched(self, labels: Labels) -> bool:
        """Tell whether labels are a whole block that nothing looks at index by index."""
        return self._is_run(self.space.find(labels))

    def _is_run(self, labels: Labels) -> TypeGuard[Span]:
        """Tell whether labels are a block that nothing looks at index by index."""
        return self.space.is_block(labels) and labels.first not in self._base

    def numbers(self, axes: Iterable[Labels]) -> set[int]:
        """Channel numbers of some axes together."""
        result: set[int] = set()
        for labels in axes:
            root = self.compact(labels)
            if isinstance(root, Listed):
                result.update(root.ids.tolist())
            elif isinstance(root, Uniform):
                result.add(root.label)
            else:
                result.update(range(root.first, root.first + root.size))
        return result

    def free_numbers(self, axes: Iterable[Labels]) -> set[int]:
        """Channel numbers of some axes together, without those that stay."""
        return {number for number in self.numbers(axes) if not self._stays(number)}

    @property
    def pinned_components(self) -> Array:
        """Mask over the first `count` channels: those that are pinned."""
        return self._pinned

    def pinned(self, labels: Labels) -> Array | bool:
        """Channels of an axis that are pinned: False or True for all, or a mask."""
        root = self.compact(labels)
        if not isinstance(root, Listed):
            return isinstance(root, Uniform) and self._stays(root.label)
        mask: Array = self._pinned[root.ids]
        return mask if root.repeat == 1 else np.repeat(mask, root.repeat)

    def _stays(self, number: int) -> bool:
        """Tell whether the one channel of a uniform axis is pinned."""
        return (
            bool(self._pinned[number])
            if number < self.count
            else number - self.count in self.space.reasons
        )

    def all_pinned(self, labels: Labels) -> bool:
        """Tell whether nothing of an axis can go."""
        root = self.compact(labels)
        if not isinstance(root, Listed):
            return isinstance(root, Uniform) and self._stays(root.label)
        key = root.key
        if key not in self._whole:
            self._whole[key] = root, bool(self._pinned[root.ids].all())
        return self._whole[key][1]

    def reason(self, labels: Labels) -> Reason:
        """The reason of the first pinned channel of an axis. Raises LookupError if none is."""
        match = self.space.find(labels)
        if isinstance(match, Uniform) and match.label in self.space.reasons:
            return self.space.reasons[match.label]
        mask = np.asarray(self.pinned(match))
        if not mask.any():
            raise LookupError("no channel of this axis is pinned")
        return self._pin_of[int(self.root(match).array()[int(np.argmax(mask))])]


def _first(labels: Span | Uniform) -> int:
    """The first label of a run, or the one label of a uniform axis."""
    return labels.label if isinstance(labels, Uniform) else labels.first


def _distinct(numbers: Array) -> set[int]:
    """Distinct values of an array that is not empty; labels mostly come in runs, so neighbours are compared first."""
    return {*numbers[1:][numbers[1:] != numbers[:-1]].tolist(), int(numbers[0])}


def components(count: int, remaining: list[Array], right: list[Array]) -> tuple[int, Array]:
    """Connected components of `count` elements under ties `left[i] ~ right[i]`.

    Every element points at the smallest it is known to be tied to, until nothing changes. Twice
    as fast here as `scipy.sparse.csgraph`, since most ties repeat what is known.
    """
    element = np.arange(count)
    parent = element.copy()
    a, b = (np.concatenate(side) if side else parent[:0] for side in (remaining, right))
    while True:
        first, second = parent[a], parent[b]
        open_ = first != second
        if not open_.any():
            break
        a, b, first, second = a[open_], b[open_], first[open_], second[open_]
        np.minimum.at(parent, np.maximum(first, second), np.minimum(first, second))
        while not np.array_equal(parent[parent], parent):
            parent = parent[parent]
    number = np.cumsum(parent == element) - 1
    return int(number[-1]) + 1, number[parent]

"""Labels on axes: the language in which operators say what belongs together.

Every index of an axis carries an integer label. Labels are *fresh* (a block nobody else
has), *tied* (two that live or die together), *pinned* (must stay, with a reason) or
related as a *product* (an axis that merges factors: an element goes when the index of any
factor goes). `LabelSpace.resolve` turns all of it into channels: connected components.

Whole axes are tied by pointing one block at another, without touching a single index;
only partial ties (after a Concat, a Slice, a Gather) cost work per index.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from prunegraph.labels.carriers import Candidate, choose
from prunegraph.labels.reasons import Kind, Reason

Array = np.ndarray


#: The tag of an axis that repeats one element.
REPEATED = "repeated"

#: Longer axes are not followed: nobody has that many channels.
MAX_SIZE = 2**27


class Labels:
    """The labels of one axis, in order.

    Either a run `first, first+1, ...` (step 1), one label repeated (step 0), or `ids`, each
    `repeat` times in a row.
    """

    __slots__ = ("first", "ids", "repeat", "size", "step")

    def __init__(
        self,
        size: int,
        first: int = 0,
        step: int = 1,
        ids: Array | None = None,
        repeat: int = 1,
    ):
        self.size = size
        self.first = first
        self.step = step
        self.ids = ids
        self.repeat = repeat

    def __len__(self) -> int:
        return self.size

    def __repr__(self) -> str:
        if self.ids is not None:
            return f"Labels({self.ids.tolist() if self.size < 9 else self.size})"
        return f"Labels({self.first}{'' if self.step else '*'}:{self.size})"

    @property
    def is_constant(self) -> bool:
        """One label for all indices: how a pinned axis looks."""
        return self.ids is None and self.step == 0

    def array(self) -> Array:
        """Labels as an int64 array of `size`."""
        if self.ids is not None:
            return self.ids if self.repeat == 1 else np.repeat(self.ids, self.repeat)
        if self.step:
            return np.arange(self.first, self.first + self.size, dtype=np.int64)
        return np.full(self.size, self.first, np.int64)

    @property
    def key(self) -> tuple[int, int]:
        """Equal for labels that are the same object or the same run."""
        return (
            (-self.repeat, id(self.ids))
            if self.ids is not None
            else (self.first, self.size * 2 + self.step)
        )

    def take(self, index: Array | slice) -> Labels:
        """Labels at positions, as numpy indexing gives them."""
        if self.is_constant:
            size = (
                len(range(*index.indices(self.size)))
                if isinstance(index, slice)
                else len(index)
            )
            return Labels(size, self.first, 0)
        if isinstance(index, slice) and self.ids is None:
            start, stop, step = index.indices(self.size)
            if step == 1:
                return Labels(max(stop - start, 0), self.first + start)
        ids = self.array()[index]
        return Labels(len(ids), ids=ids)

    def same(self, other: Labels) -> bool:
        """Whether both say the same without looking at single indices."""
        if self is other:
            return True
        if self.ids is not None or other.ids is not None:
            return self.ids is other.ids and self.repeat == other.repeat
        return (self.first, self.step, self.size) == (other.first, other.step, other.size)


def concatenate(parts: Sequence[Labels]) -> Labels:
    """Labels of several axes one after the other."""
    if len(parts) == 1:
        return parts[0]
    ids = np.concatenate([part.array() for part in parts])
    return Labels(len(ids), ids=ids)


@dataclass(frozen=True)
class Product:
    """`whole` is the row-major product of `factors`; made at node `where`."""

    whole: Labels
    factors: tuple[Labels, ...]
    where: str

    def spread(self, index: int) -> Labels:
        """The labels of one factor, repeated to the length of the whole."""
        before = math.prod(f.size for f in self.factors[:index])
        after = math.prod(f.size for f in self.factors[index + 1 :])
        factor = self.factors[index]
        if before == after == 1:
            return factor
        ids, repeat = (
            (factor.array(), 1) if factor.ids is None else (factor.ids, factor.repeat)
        )
        spread = Labels(factor.size * after, ids=ids, repeat=repeat * after)
        return (
            spread
            if before == 1
            else Labels(spread.size * before, ids=np.tile(spread.array(), before))
        )


class LabelSpace:
    """All labels of one analysis, and what is known about them."""

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.total = 0
        self.alias: dict[int, Labels] = {}
        self.ties: list[tuple[Labels, Labels]] = []
        self.products: list[Product] = []
        self.reasons: dict[int, Reason] = {}
        self.tags: list[tuple[Labels, str]] = []
        self._stay: dict[tuple[int, int], Labels] = {}
        self._sizes: dict[int, int] = {}
        self._pins: dict[Reason, int] = {}

    def fresh(self, size: int) -> Labels:
        """A block of labels nobody else has. Raises ValueError for an impossible size."""
        if not 0 <= size <= MAX_SIZE:
            raise ValueError(f"an axis of size {size} is out of range")
        first = self.total
        self.starts.append(first)
        self._sizes[first] = size
        self.total += size
        return Labels(size, first)

    def pinned(self, size: int, reason: Reason) -> Labels:
        """An axis that must stay."""
        label = self._pins.get(reason)
        if label is None:
            label = self._pins[reason] = self.fresh(1).first
            self.reasons[label] = reason
        return Labels(size, label, 0)

    def pin(self, labels: Labels, reason: Reason) -> None:
        """Let labels stay. What stays already keeps its first reason."""
        match = self.find(labels)
        if not match.is_constant and match.key not in self._stay:
            self._stay[match.key] = match
            self.tie(labels, self.pinned(labels.size, reason))

    def tie(self, a: Labels, b: Labels) -> None:
        """Let two axes of one size live or die together, index by index."""
        if a.size != b.size:
            raise ValueError(f"cannot tie axes of sizes {a.size} and {b.size}")
        if a is b:
            return
        a, b = self.find(a), self.find(b)
        if a.same(b) or (a.is_constant and b.is_constant):
            return
        if self._is_block(a):
            self.alias[a.first] = b
        elif self._is_block(b):
            self.alias[b.first] = a
        elif a.ids is not None and b.ids is not None and a.repeat == b.repeat:
            self.ties.append((Labels(len(a.ids), ids=a.ids), Labels(len(b.ids), ids=b.ids)))
        else:
            self.ties.append((a, b))

    def product(self, whole: Labels, factors: Sequence[Labels], where: str) -> None:
        """Relate an axis to the factors it merges. Factors of size 1 do not matter."""
        factors = tuple(f for f in factors if f.size != 1)
        if whole.size != math.prod(f.size for f in factors):
            raise ValueError(
                f"{whole.size} is not the product of {[f.size for f in factors]}"
            )
        if len(factors) == 1:
            self.tie(whole, factors[0])
        elif factors:
            self.products.append(Product(whole, factors, where))

    def tag(self, labels: Labels, name: str) -> None:
        """Name a factor, so that a caller can ask for it."""
        self.tags.append((labels, name))

    def find(self, labels: Labels) -> Labels:
        """Follow whole-block ties to the end (and shorten the way for the next time)."""
        alias = self.alias
        if labels.ids is not None or labels.first not in alias:
            return labels
        passed = []
        while labels.first in alias and self._is_block(labels):
            passed.append(labels.first)
            labels = alias[labels.first]
        for first in passed[:-1]:
            alias[first] = labels
        return labels

    def _is_block(self, labels: Labels) -> bool:
        return (
            labels.ids is None
            and labels.step == 1
            and self._sizes.get(labels.first) == labels.size
        )

    # -- resolution -----------------------------------------------------------------

    def resolve(self, used: Iterable[Labels], wanted: str | None = None) -> ResolvedLabels:
        """Channels of all labels.

        Args:
            used: every `Labels` the caller will ask about.
            wanted: tag of the factors that carry their products, where several are free;
                else the factor with the most elements does.
        """
        pending = list(self.products)
        while pending:
            before = len(pending)
            pending = [
                p
                for p in pending
                if not self._settle(p, [self.find(f).is_constant for f in p.factors])
            ]
            if len(pending) == before:
                break
        carriers: list[Labels] = []
        preferred = [labels for labels, name in self.tags if name == wanted]
        tagged = [labels for labels, _ in self.tags]
        if any(name == REPEATED for _, name in self.tags):
            tagged += [factor for product in self.products for factor in product.factors]
        while pending:
            parts = [part for p in pending for part in (p.whole, *p.factors)]
            channels = ResolvedLabels(self, (*parts, *carriers, *tagged))
            pending = self._round(pending, channels, preferred, carriers)
        return ResolvedLabels(self, used)

    def _round(
        self,
        pending: list[Product],
        channels: ResolvedLabels,
        preferred: Sequence[Labels],
        carriers: list[Labels],
    ) -> list[Product]:
        """Settle all products that are clear; if none is, choose carriers. Returns what is left."""
        clear, unclear = [], []
        attention = channels.numbers(
            [labels for labels, name in self.tags if name != REPEATED]
        )
        units: list[Labels] = []
        # All questions first: settling a product changes what later questions would find.
        for product in pending:
            pinned = [channels.all_pinned(f) for f in product.factors]
            whole = channels.all_pinned(product.whole)
            first = product.whole if whole else product.factors[0]
            reason = channels.reason(first) if whole or all(pinned) else None
            if whole or sum(pinned) >= len(pinned) - 1:
                clear.append((product, pinned, whole, reason))
                # Heads that are the only free factor here are the unit of what hangs together with them, too.
                free = (
                    []
                    if whole
                    else [
                        f
                        for f, stays in zip(product.factors, pinned, strict=True)
                        if not stays
                    ]
                )
                units += [
                    factor
                    for factor in free
                    if not attention.isdisjoint(channels.numbers([factor]))
                ]
            else:
                unclear.append(
                    (product, [i for i, is_pinned in enumerate(pinned) if not is_pinned])
                )
        for product, pinned, whole, reason in clear:
            if whole and reason:
                for factor in product.factors:
                    self.pin(factor, reason)
            else:
                self._settle(product, pinned, reason)
        carriers += units
        if clear:
            return [product for product, _ in unclear]
        return self._choose(unclear, channels, preferred, carriers)

    def _choose(
        self,
        unclear: Sequence[tuple[Product, list[int]]],
        channels: ResolvedLabels,
        preferred: Sequence[Labels],
        carriers: list[Labels],
    ) -> list[Product]:
        """Choose carriers for products, each with its free factors; returns those that must wait for others."""
        repeated = channels.numbers(
            [labels for labels, name in self.tags if name == REPEATED]
        )
        parts = (
            channels.numbers(factor for p in self.products for factor in p.factors)
            if repeated
            else set()
        )
        candidates = [
            Candidate.of(product, free, channels, repeated, parts)
            for product, free in unclear
        ]
        chosen = choose(candidates, channels.numbers(carriers), channels.numbers(preferred))
        for candidate, factor in chosen:
            carriers.append(candidate.product.factors[factor])
            self._carry(candidate.product, factor, candidate.free)
        decided = {id(candidate) for candidate, _ in chosen}
        return [
            candidate.product for candidate in candidates if id(candidate) not in decided
        ]

    def _carry(self, product: Product, chosen: int, free: Sequence[int]) -> None:
        """Let one factor carry a product and pin the others."""
        for i in free:
            if i != chosen:
                self.pin(
                    product.factors[i],
                    Reason(
                        "another factor of the same axis is the unit of pruning",
                        product.where,
                        Kind.OTHER_FACTOR,
                    ),
                )
        self.tie(product.whole, product.spread(chosen))

    def _settle(
        self, product: Product, pinned: Sequence[bool], reason: Reason | None = None
    ) -> bool:
        """Tie a product to its only free factor, or pin it; False while several are free."""
        free = [i for i, is_pinned in enumerate(pinned) if not is_pinned]
        if len(free) > 1:
            return False
        if free:
            self.tie(product.whole, product.spread(free[0]))
            return True
        self.pin(product.whole, reason or self.reasons[self.find(product.factors[0]).first])
        return True


class ResolvedLabels:
    """Resolved labels: every label belongs to one channel, pinned or free.

    Blocks that nothing touches index by index stay runs; all others are expanded into
    elements whose connected components are the channels.
    """

    def __init__(self, space: LabelSpace, used: Iterable[Labels]):
        self.space = space
        self._starts = space.starts
        # Kept with the labels they are of: a key holds the identity of an array.
        self._roots: dict[tuple[int, int], tuple[Labels, Labels]] = {}
        self._compact: dict[tuple[int, int], tuple[Labels, Labels]] = {}
        self._found: dict[tuple[int, int], tuple[Labels, Array]] = {}
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
            if match.is_constant:
                roots.add(match.first)
                continue
            if space._is_block(match) or match.key in seen:
                continue
            seen.add(match.key)
            for first in self._blocks(match) - roots:
                final = space.find(Labels(space._sizes[first], first))
                if space._is_block(final) or final.is_constant:
                    roots.add(final.first)
                else:  # the block follows other labels index by index
                    roots.add(first)
                    self._following.append((first, final))
                    queue.append(final)
        self._base: dict[int, int] = {}
        self._elements = 0
        for first in sorted(roots):
            self._base[first] = self._elements
            self._elements += space._sizes[first]

    def _blocks(self, labels: Labels) -> set[int]:
        """First labels of the blocks in which labels lie."""
        if not labels.size:
            return set()
        if labels.ids is None:
            return {self._block(labels.first)}
        blocks = np.searchsorted(self._start_array, labels.ids, "right") - 1
        return {self._starts[block] for block in _distinct(blocks)}

    def _block(self, label: int) -> int:
        return self._starts[bisect_right(self._starts, label) - 1]

    def _elements_of(self, labels: Labels) -> Array:
        """Element numbers of labels whose blocks are all expanded; each stands for `labels.repeat` of them."""
        labels = self.space.find(labels)
        key = labels.key
        if key not in self._found:
            self._found[key] = labels, self._look_up(labels)
        return self._found[key][1]

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
        if labels.ids is None:
            first = self._block(labels.first)
            base, offset = self._locate(first)
            if base is not None:
                start = base + labels.first - first
                return (
                    np.arange(start, start + labels.size)
                    if labels.step
                    else np.full(labels.size, start)
                )
            return np.full(labels.size, offset)
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
        final = self.space.find(Labels(self.space._sizes[first], first))
        if final.is_constant:
            return None, self._base[final.first]
        if self.space._is_block(final):
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
        self.count, self._component = _components(self._elements, remaining, right)
        self._pin_of = {}
        for label, reason in self.space.reasons.items():
            if label in self._base:
                self._pin_of.setdefault(int(self._component[self._base[label]]), reason)
        self._pinned = np.zeros(self.count, bool)
        self._pinned[list(self._pin_of)] = True

    # -- questions ------------------------------------------------------------------

    def root(self, labels: Labels) -> Labels:
        """Labels as channel numbers: a run for an untouched block, else an array.

        Numbers below `count` are components of expanded blocks, the others runs.
        """
        root = self.compact(labels)
        if root.repeat == 1:
            return root
        if root.key not in self._roots:
            self._roots[root.key] = root, Labels(root.size, ids=root.array())
        return self._roots[root.key][1]

    def compact(self, labels: Labels) -> Labels:
        """Like `root`, but numbers that all repeat alike are given once, with their `repeat`."""
        match = self.space.find(labels)
        if match.is_constant:
            if match.first in self._base:
                return Labels(match.size, int(self._component[self._base[match.first]]), 0)
            return Labels(match.size, self.count + match.first, 0)
        if self._is_run(match):
            return Labels(match.size, self.count + match.first)
        key = match.key
        if key not in self._compact:
            ids = self._component[self._elements_of(match)].astype(np.int64)
            self._compact[key] = match, Labels(match.size, ids=ids, repeat=match.repeat)
        return self._compact[key][1]

    def _is_run(self, result: Labels) -> bool:
        """Whether labels are a block that nothing looks at index by index."""
        return result.first not in self._base and self.space._is_block(result)

    def numbers(self, axes: Iterable[Labels]) -> set[int]:
        """Channel numbers of some axes together."""
        result: set[int] = set()
        for labels in axes:
            root = self.compact(labels)
            if root.ids is None:
                result.update(
                    range(root.first, root.first + root.size)
                    if root.step
                    else (root.first,)
                )
            else:
                result.update(root.ids.tolist())
        return result

    def free_numbers(self, axes: Iterable[Labels]) -> set[int]:
        """Channel numbers of some axes together, without those that stay."""
        return {number for number in self.numbers(axes) if not self._stays(number)}

    @property
    def pinned_components(self) -> Array:
        """Which of the first `count` channels are pinned."""
        return self._pinned

    def pinned(self, labels: Labels) -> Array | bool:
        """Which channels are pinned: False or True for all, or a mask."""
        root = self.compact(labels)
        if root.ids is None:
            return root.is_constant and self._stays(root.first)
        mask: Array = self._pinned[root.ids]
        return mask if root.repeat == 1 else np.repeat(mask, root.repeat)

    def _stays(self, number: int) -> bool:
        """Whether the one channel of a constant axis is pinned."""
        return (
            bool(self._pinned[number])
            if number < self.count
            else number - self.count in self.space.reasons
        )

    def all_pinned(self, labels: Labels) -> bool:
        """Whether nothing of an axis can go."""
        root = self.compact(labels)
        if root.ids is None:
            return root.is_constant and self._stays(root.first)
        key = root.key
        if key not in self._whole:
            self._whole[key] = root, bool(self._pinned[root.ids].all())
        return self._whole[key][1]

    def reason(self, labels: Labels) -> Reason:
        """Why the first pinned channel of an axis is pinned. Raises LookupError if none is."""
        match = self.space.find(labels)
        if match.is_constant and match.first in self.space.reasons:
            return self.space.reasons[match.first]
        mask = np.asarray(self.pinned(match))
        if not mask.any():
            raise LookupError("no channel of this axis is pinned")
        return self._pin_of[int(self.root(match).array()[int(np.argmax(mask))])]


def _distinct(numbers: Array) -> set[int]:
    """Distinct values of an array that is not empty; labels mostly come in runs, so neighbours are compared first."""
    return {*numbers[1:][numbers[1:] != numbers[:-1]].tolist(), int(numbers[0])}


def _components(
    count: int, remaining: list[Array], right: list[Array]
) -> tuple[int, Array]:
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

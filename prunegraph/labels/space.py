"""All labels of one analysis: which are tied, pinned, or products of others.

Whole axes are tied by pointing one block at another, without touching a single index;
only partial ties (after a Concat, a Slice, a Gather) cost work per index.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeGuard

from prunegraph.labels.labels import Labels, Listed, Span, Uniform
from prunegraph.labels.products import Product
from prunegraph.labels.reasons import Reason

#: The tag of an axis that repeats one element.
REPEATED = "repeated"

#: Longer axes are not followed: nobody has that many channels.
MAX_SIZE = 2**27


class LabelSpace:
    """All labels of one analysis, and what is known about them."""

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.sizes: dict[int, int] = {}
        self.total = 0
        self.alias: dict[int, Labels] = {}
        self.ties: list[tuple[Labels, Labels]] = []
        self.products: list[Product] = []
        self.reasons: dict[int, Reason] = {}
        self.tags: list[tuple[Labels, str]] = []
        self._stay: dict[tuple[int, int], Labels] = {}
        self._pins: dict[Reason, int] = {}

    def copy(self) -> LabelSpace:
        """The same labels, to which more can be added without a trace in these."""
        result = LabelSpace()
        result.starts, result.sizes, result.total = (
            list(self.starts),
            dict(self.sizes),
            self.total,
        )
        result.alias, result.ties = dict(self.alias), list(self.ties)
        result.products, result.tags = list(self.products), list(self.tags)
        result.reasons = dict(self.reasons)
        result._stay, result._pins = dict(self._stay), dict(self._pins)
        return result

    def fresh(self, size: int) -> Span:
        """A block of labels nobody else has. Raises ValueError for an impossible size."""
        if not 0 <= size <= MAX_SIZE:
            raise ValueError(f"an axis of size {size} is out of range")
        first = self.total
        self.starts.append(first)
        self.sizes[first] = size
        self.total += size
        return Span(size, first)

    def pinned(self, size: int, reason: Reason) -> Uniform:
        """An axis that must stay."""
        label = self._pins.get(reason)
        if label is None:
            label = self._pins[reason] = self.fresh(1).first
            self.reasons[label] = reason
        return Uniform(size, label)

    def pin(self, labels: Labels, reason: Reason) -> None:
        """Let labels stay. What stays already keeps its first reason."""
        match = self.find(labels)
        if not isinstance(match, Uniform) and match.key not in self._stay:
            self._stay[match.key] = match
            self.tie(labels, self.pinned(labels.size, reason))

    def tie(self, a: Labels, b: Labels) -> None:
        """Let two axes of one size live or die together, index by index."""
        if a.size != b.size:
            raise ValueError(f"cannot tie axes of sizes {a.size} and {b.size}")
        if a is b:
            return
        a, b = self.find(a), self.find(b)
        if a.same(b) or (isinstance(a, Uniform) and isinstance(b, Uniform)):
            return
        if self.is_block(a):
            self.alias[a.first] = b
        elif self.is_block(b):
            self.alias[b.first] = a
        elif isinstance(a, Listed) and isinstance(b, Listed) and a.repeat == b.repeat:
            self.ties.append((Listed(a.ids), Listed(b.ids)))
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
        if not isinstance(labels, Span) or labels.first not in alias:
            return labels
        passed = []
        while self.is_block(labels) and labels.first in alias:
            passed.append(labels.first)
            labels = alias[labels.first]
        for first in passed[:-1]:
            alias[first] = labels
        return labels

    def block(self, first: int) -> Span:
        """The block that begins with a label."""
        return Span(self.sizes[first], first)

    def is_block(self, labels: Labels) -> TypeGuard[Span]:
        """Tell whether labels are one whole block."""
        return isinstance(labels, Span) and self.sizes.get(labels.first) == labels.size

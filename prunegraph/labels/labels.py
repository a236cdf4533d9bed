"""Labels on axes: the language in which operators say what belongs together.

Every index of an axis carries an integer label. Labels are *fresh* (a block nobody else
has), *tied* (two that live or die together), *pinned* (must stay, with a reason) or
related as a *product* (an axis that merges factors: an element goes when the index of any
factor goes). Here are the labels of one axis, in three forms; `labels.space` says what is
known about them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

Array = np.ndarray


class _Form(ABC):
    """The common part of the three forms of labels."""

    __slots__ = ("size",)

    size: int

    def __len__(self) -> int:
        return self.size

    @abstractmethod
    def array(self) -> Array:
        """Labels as an int64 array of `size`."""

    @property
    @abstractmethod
    def key(self) -> tuple[int, int]:
        """Equal for labels that say the same without a look at single indices."""

    def take(self, index: Array | slice) -> Labels:
        """Labels at positions, as numpy indexing gives them."""
        return Listed(self.array()[index])

    def same(self, other: Labels) -> bool:
        """Tell whether both say the same without a look at single indices."""
        return self is other or (type(self) is type(other) and self.key == other.key)


class Span(_Form):
    """Labels `first, first + 1, ...`: a block of labels, or a part of one."""

    __slots__ = ("first",)

    def __init__(self, size: int, first: int):
        self.size, self.first = size, first

    def __repr__(self) -> str:
        return f"Span({self.first}:{self.size})"

    def array(self) -> Array:
        return np.arange(self.first, self.first + self.size, dtype=np.int64)

    @property
    def key(self) -> tuple[int, int]:
        return self.first, self.size * 2 + 1

    def take(self, index: Array | slice) -> Labels:
        if isinstance(index, slice):
            start, stop, step = index.indices(self.size)
            if step == 1:
                return Span(max(stop - start, 0), self.first + start)
        return super().take(index)


class Uniform(_Form):
    """One label for all indices: how a pinned axis looks."""

    __slots__ = ("label",)

    def __init__(self, size: int, label: int):
        self.size, self.label = size, label

    def __repr__(self) -> str:
        return f"Uniform({self.label}*{self.size})"

    def array(self) -> Array:
        return np.full(self.size, self.label, np.int64)

    @property
    def key(self) -> tuple[int, int]:
        return self.label, self.size * 2

    def take(self, index: Array | slice) -> Labels:
        if isinstance(index, slice):
            return self.resized(len(range(*index.indices(self.size))))
        return self.resized(len(index))

    def resized(self, size: int) -> Uniform:
        """The same label on an axis of another size."""
        return Uniform(size, self.label)


class Listed(_Form):
    """Labels one by one, each `repeat` times in a row."""

    __slots__ = ("ids", "repeat")

    def __init__(self, ids: Array, repeat: int = 1):
        self.size = len(ids) * repeat
        self.ids, self.repeat = ids, repeat

    def __repr__(self) -> str:
        return f"Listed({self.array().tolist() if self.size < 9 else self.size})"

    def array(self) -> Array:
        return self.ids if self.repeat == 1 else np.repeat(self.ids, self.repeat)

    @property
    def key(self) -> tuple[int, int]:
        return -self.repeat, id(self.ids)


#: The labels of one axis, in order.
Labels = Span | Uniform | Listed


def concatenate(parts: Sequence[Labels]) -> Labels:
    """Labels of several axes one after the other."""
    if len(parts) == 1:
        return parts[0]
    return Listed(np.concatenate([part.array() for part in parts]))

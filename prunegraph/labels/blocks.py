"""Axes whose elements are channels of their own in every block of another axis.

A product `whole = outer x inner` (heads x head size, groups x channels of a group) may lose whole indices of
a factor: the same ones in every block. Where nothing reads `inner` without `outer`, its elements can also go
one by one, as long as equally many are left in every block: then `inner` says how many there are, and each element of
the whole is a channel. Source: ALGORITHMS 9.2.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from prunegraph.labels.labels import Labels, Span
from prunegraph.labels.products import Product
from prunegraph.labels.space import LabelSpace

Array = np.ndarray

#: Products nested in one another that are looked into.
DEPTH = 4


class Outer:
    """Indices of a block along any axis: the outer factor itself, and axes that merge or repeat it.

    Args:
        space: the labels before products are settled.
        first: the first label of the outer factor's block.
        merged: products by the first label of their whole.
    """

    def __init__(
        self, space: LabelSpace, first: int, merged: Mapping[int, Sequence[Product]]
    ):
        self.space, self.first, self.merged = space, first, merged
        #: First labels of the factor: an axis that is split twice in the same way has two names for it.
        self.names = {first}
        for products in merged.values():
            self.names |= self._twins(products)
        self._known: dict[tuple[int, int], Array | None] = {}

    def _twins(self, products: Sequence[Product]) -> set[int]:
        """First labels of what stands where the factor does, in products with one whole and the same sizes."""
        result: set[int] = set()
        for product in products:
            for place, factor in enumerate(product.factors):
                if self.space.find(factor).key == self.space.block(self.first).key:
                    sizes = [each.size for each in product.factors]
                    same = [
                        self.space.find(other.factors[place])
                        for other in products
                        if [each.size for each in other.factors] == sizes
                    ]
                    result |= {root.first for root in same if self.space.is_block(root)}
        return result

    def along(self, labels: Labels, depth: int = DEPTH) -> Array | None:
        """The block of every index of an axis [size]; None for an axis that has nothing to do with blocks."""
        root = self.space.find(labels)
        if not self.space.is_block(root) or not depth:
            return None
        if root.key not in self._known:
            self._known[root.key] = self._along(root, depth)
        return self._known[root.key]

    def _along(self, root: Span, depth: int) -> Array | None:
        if root.first in self.names:
            return np.arange(root.size)
        for product in self.merged.get(root.first, ()):
            for which, factor in enumerate(product.factors):
                index = self.along(factor, depth - 1)
                if index is not None:
                    return index[coordinates(product)[which]]
        return None


def coordinates(product: Product) -> tuple[Array, ...]:
    """For every element of a product's whole, its index along each factor."""
    sizes = [factor.size for factor in product.factors]
    return tuple(np.unravel_index(np.arange(math.prod(sizes)), sizes))


@dataclass(frozen=True, eq=False)
class Blocks:
    """A pair of factors, whose product's elements are channels.

    `elements` are labels of their own, row-major [blocks, size of a block]; `inner` is the axis that says how
    many of each block there are. `wholes` says for each product with the inner factor which elements its
    whole is made of.
    """

    elements: Span
    inner: Span
    outer: Outer = field(repr=False)
    wholes: Mapping[int, tuple[Product, Array]] = field(repr=False)

    @property
    def factor(self) -> Span:
        """The outer factor: the axis of the blocks themselves."""
        return self.outer.space.block(self.outer.first)

    @property
    def size(self) -> int:
        """Elements of a block, before anything goes."""
        return self.inner.size

    @property
    def count(self) -> int:
        """Number of blocks."""
        return self.elements.size // self.inner.size

    def is_inner(self, labels: Labels) -> bool:
        """Tell whether an axis has the channels of one block."""
        root = self.outer.space.find(labels)
        return self.outer.space.is_block(root) and root.first == self.inner.first

    def over(self, axes: Sequence[Labels]) -> tuple[int, Array] | None:
        """The axis that says which block it is, and the block of each of its indices; None without just one."""
        candidates = [
            (axis, index)
            for axis, labels in enumerate(axes)
            if (index := self.outer.along(labels)) is not None
        ]
        return candidates[0] if len(candidates) == 1 else None

    def table(self, index: Array) -> Array:
        """Numbers of the elements at some blocks [*index, size]."""
        return np.asarray(index)[..., None] * self.size + np.arange(self.size)

    def labels_of(self, product: Product) -> Labels | None:
        """Labels of a product's whole, element by element; None for a product of something else."""
        if id(product) not in self.wholes:
            return None
        index = self.wholes[id(product)][1]
        if np.array_equal(index, np.arange(self.elements.size)):
            return self.elements
        return self.elements.take(index)


def pair(
    space: LabelSpace,
    inner: Span,
    first: int,
    products: Iterable[Product],
    merged: Mapping[int, Sequence[Product]],
) -> Blocks | None:
    """Blocks of an inner and an outer factor; None where a product has the one without the other, or in turn.

    Args:
        space: the labels; those of the elements are added.
        inner: the whole block of labels of the inner factor.
        first: the first label of the outer factor's block.
        products: those with the inner factor.
        merged: all products by the first label of their whole.
    """
    outer = Outer(space, first, merged)
    count = space.sizes[first]
    wholes = {}
    for product in products:
        at = coordinates(product)
        inside = [
            i
            for i, factor in enumerate(product.factors)
            if space.find(factor).key == inner.key
        ]
        around = [
            (i, index)
            for i, factor in enumerate(product.factors)
            if i not in inside and (index := outer.along(factor)) is not None
        ]
        if len(inside) != 1 or len(around) != 1:
            return None
        if inside[0] < around[0][0]:
            # What stays of a block would not lie together in the whole: it would have to be put in another order.
            return None
        which, index = around[0]
        wholes[id(product)] = (product, index[at[which]] * inner.size + at[inside[0]])
    return Blocks(space.fresh(count * inner.size), inner, outer, wholes)

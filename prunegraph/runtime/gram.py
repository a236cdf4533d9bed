"""Gram matrices of layer inputs: gathered in a stream, and kept as one half of each (`runtime.triangles`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from prunegraph.runtime import patches
from prunegraph.runtime.row_mask import counted
from prunegraph.runtime.triangles import Triangles, stripes

Array = np.ndarray

#: Rows that are multiplied with each other at a time, at least.
BUFFER = 512


@dataclass(frozen=True, eq=False)
class Gram:
    """Means of a layer's input rows [groups, inputs], and of products of the centred rows [groups, inputs, inputs].

    Args:
        count: of the rows.
        mean: of the rows.
        is_finite: whether all of the products are numbers.
        name: of the matrices where they are kept.
        triangles: where that is.
    """

    count: int
    mean: Array
    is_finite: bool
    name: str
    triangles: Triangles = field(repr=False)

    @property
    def size(self) -> int:
        """How many inputs there are."""
        return int(self.mean.shape[1])

    def matrix(self, group: int, dtype: type[np.floating[Any]] = np.float32) -> Array:
        """Means of products of one group's centred rows [inputs, inputs]; the caller's own."""
        return self.triangles.get(self.name, group, self.size, dtype)

    @property
    def centred(self) -> Array:
        """Means of products of the centred rows [groups, inputs, inputs], in single precision; the caller's own."""
        return self._whole(np.float32)

    @property
    def covariance(self) -> Array:
        """The same in double precision."""
        return self._whole(np.float64)

    @property
    def products(self) -> Array:
        """Means of products of the rows as they are [groups, inputs, inputs], in double precision."""
        result = self.covariance
        for matrix, mean in zip(result, self.mean, strict=True):
            matrix += np.outer(mean, mean)
        return result

    def _whole(self, dtype: type[np.floating[Any]]) -> Array:
        result = np.empty((len(self.mean), self.size, self.size), dtype)
        for group, matrix in enumerate(result):
            self.triangles.read(self.name, group, matrix)
        return result


class GramSum:
    """Accumulates the Gram matrix of what layers read, all of them the same rows.

    Rows are collected until there are `BUFFER` of them: a matrix is not touched for a few rows. The mean of the
    first of them is subtracted from all: means that are large beside what varies would leave nothing of it.
    """

    def __init__(self, values: tuple[str, ...], rows: patches.Rows):
        self.values = values
        self.rows = rows
        self.count = 0
        self._shift: Array | None = None
        self._sum: Array | float = 0.0
        #: Products of some rows with those up to them [groups, rows, inputs].
        self._products: list[Array] = []
        self._waiting: list[Array] = []

    def add(self, batch: int, *arrays: Array) -> None:
        counts = counted(arrays[1], arrays[0]) if len(arrays) > 1 else None
        x = self.rows.inputs(arrays[0], batch, counts)
        x = np.ascontiguousarray(x.swapaxes(0, 1), np.float32)
        self.count += x.shape[1]
        self._waiting.append(x)
        if sum(each.shape[1] for each in self._waiting) >= BUFFER:
            self._multiply()

    def _multiply(self) -> None:
        x = np.concatenate(self._waiting, axis=1)
        self._waiting = []
        with np.errstate(invalid="ignore", over="ignore"):  # said once, at the end
            if self._shift is None:
                mean = x.sum(axis=1, keepdims=True, dtype=np.float64) / max(x.shape[1], 1)
                self._shift = mean.astype(np.float32)
            x -= self._shift
            self._sum = self._sum + x.sum(axis=1, dtype=np.float64)
            for index, (low, high) in enumerate(stripes(x.shape[2])):
                products = x[:, :, low:high].swapaxes(1, 2) @ x[:, :, :high]
                if index == len(self._products):
                    self._products.append(products)
                else:
                    self._products[index] += products

    def result(self, triangles: Triangles, name: str) -> Gram | None:
        """The means, the matrices kept under a name; None of no rows. What was accumulated is given up."""
        if self._waiting:
            self._multiply()
        if not self.count or not self._products or self._shift is None:
            return None
        rest = np.asarray(self._sum) / self.count
        is_finite = True
        with np.errstate(invalid="ignore", over="ignore"):
            for low, high in stripes(rest.shape[1]):
                products = self._products.pop(0)
                products /= self.count
                for group, (stripe, each) in enumerate(zip(products, rest, strict=True)):
                    stripe -= np.outer(each[low:high], each[:high])
                    # By themselves: a part of an array holds all of it.
                    own = stripe if len(products) == 1 else stripe.copy()
                    triangles.put_stripe(name, group, low, own)
                is_finite = is_finite and bool(np.isfinite(products).all())
            return Gram(self.count, rest + self._shift[:, 0], is_finite, name, triangles)

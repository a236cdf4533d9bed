"""Symmetric matrices that are kept: one half of each, in stripes, beyond a few megabytes in a temporary file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from prunegraph.runtime.store import Store

Array = np.ndarray

#: Rows of a matrix in a stripe.
STRIPE = 512


def stripes(size: int) -> Iterator[tuple[int, int]]:
    """Where the rows of each stripe of a matrix begin and end; a stripe has the columns up to that end."""
    for low in range(0, size, STRIPE):
        yield low, min(low + STRIPE, size)


def triangle_bytes(size: int) -> int:
    """Bytes of the stripes of a matrix of single precision."""
    return 4 * sum((high - low) * high for low, high in stripes(size))


class Triangles:
    """Symmetric matrices by name, several under each.

    Args:
        store: where they are kept.
    """

    def __init__(self, store: Store | None = None):
        self._store = Store() if store is None else store

    @property
    def held(self) -> int:
        """Bytes that are in memory."""
        return self._store.held

    def put(self, name: str, which: int, matrix: Array) -> None:
        """Keep a matrix [n, n]."""
        for low, high in stripes(len(matrix)):
            self.put_stripe(name, which, low, matrix[low:high, :high].copy())

    def put_stripe(self, name: str, which: int, low: int, stripe: Array) -> None:
        """Keep one of the stripes of a matrix, that which begins at a row; it is not to be changed any more."""
        self._store.put(which, f"{name} {low}", stripe)

    def get(self, name: str, which: int, size: int, dtype: type[np.floating[Any]]) -> Array:
        """A matrix of so many rows; the caller's own. Raises KeyError."""
        result = np.empty((size, size), dtype)
        self.read(name, which, result)
        return result

    def read(self, name: str, which: int, matrix: Array) -> None:
        """Write a matrix that was kept into one of the same size. Raises KeyError."""
        for low, high in stripes(len(matrix)):
            stripe = self._store.get(which, f"{name} {low}")
            matrix[low:high, :high] = stripe
            matrix[:low, low:high] = stripe[:, :low].T

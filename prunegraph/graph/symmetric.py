"""Inverses of symmetric positive definite matrices, by blocks, and factors of them.

Of inverses nearly all the work is in products of matrices, and it is less than LU factorization and n right sides take.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray

#: Rows of a factor that are inverted at a time.
BLOCK = 128

#: Rows of an inverse that are added to at a time.
STRIPE = 256


def inverse(
    matrix: Array, *, in_place: bool = False, dtype: type[np.floating[Any]] = np.float64
) -> Array:
    """The inverse of a symmetric positive definite matrix [..., n, n].

    With the Cholesky factor L and `X = L^-1`, by forward substitution, it is `X' X`. (Inverting blocks of the matrix
    itself loses digits with every level of halving.) A matrix that rounding has made indefinite is inverted as it is.

    Args:
        matrix: the matrix, or several.
        in_place: whether they may be overwritten, which they are if they are of that precision.
        dtype: the precision of all that is computed.

    Raises:
        np.linalg.LinAlgError: a matrix is singular.
    """
    result: Array = (np.asarray if in_place else np.array)(matrix, dtype)
    for index in np.ndindex(*result.shape[:-2]):
        whole = result[index]
        try:
            factor = np.linalg.cholesky(whole)
        except np.linalg.LinAlgError:
            whole[...] = np.linalg.inv(whole)
        else:
            whole[...] = 0
            _invert(factor, whole)
    return result


def root(matrix: Array, damping: float = 0.0) -> Array:
    """A factor L with `L L' = matrix` [n, n], of a symmetric matrix without negative eigenvalues.

    `damping` is added to the diagonal, relative to its mean; a matrix of zeros has none.
    """
    whole = np.asarray(matrix, np.float64)
    level = float(np.trace(whole)) / max(len(whole), 1)
    whole = whole + damping * level * np.eye(len(whole))
    try:
        return np.linalg.cholesky(whole)
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(whole)
        return np.asarray(vectors * np.sqrt(np.maximum(values, 0)))


def _invert(factor: Array, result: Array) -> None:
    """Add the inverse of `factor @ factor.T` to `result`; the factor becomes its own inverse."""
    for start in range(0, len(factor), BLOCK):
        stop = min(start + BLOCK, len(factor))
        rows = factor[start:stop, :stop]
        own = np.linalg.inv(rows[:, start:])
        rows[:, :start] = -own @ (rows[:, :start] @ factor[:start, :start])
        rows[:, start:] = own
        # In stripes, up to the diagonal: the product as a whole would take as much memory as the matrix.
        for low in range(0, stop, STRIPE):
            high = min(low + STRIPE, stop)
            result[low:high, :high] += rows[:, low:high].T @ rows[:, :high]
    for low in range(0, len(factor), STRIPE):
        stripe = result[low : low + STRIPE, :low]
        result[:low, low : low + STRIPE] = stripe.T

"""Symmetric positive definite matrices: factors, inverses and solutions, by blocks.

Nearly all the work is in products of matrices, and it is less than LU factorization and its right sides take. (LAPACK's
own factorizations reach a third of the speed of products in single precision.)
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray

#: Rows of a factor that are inverted at a time.
BLOCK = 128

#: Rows of a matrix that are factorized at a time; one of fewer rows than `LARGE` is left to LAPACK.
PANEL, LARGE = 256, 1024

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
            factor = cholesky(whole)
        except np.linalg.LinAlgError:
            whole[...] = np.linalg.inv(whole)
        else:
            whole[...] = 0
            _invert(factor, whole)
    return result


def cholesky(matrix: Array) -> Array:
    """The lower factor L with `L L' = matrix` [n, n]; only the lower triangle is read. Of its own precision.

    Raises:
        np.linalg.LinAlgError: it is not positive definite.
    """
    if len(matrix) < LARGE:
        return np.linalg.cholesky(matrix)
    result = np.tril(matrix)
    _factorize(result)
    return result


def solve(matrix: Array, right: Array) -> Array:
    """The solution X of `matrix X = right`, of symmetric positive definite matrices [..., n, n].

    One that rounding has made indefinite, or that is small, is solved as any other.

    Args:
        matrix: the matrix, or several.
        right: right sides [..., n, columns], of the same precision.

    Raises:
        np.linalg.LinAlgError: a matrix is singular.
    """
    if matrix.shape[-1] < LARGE:
        return np.linalg.solve(matrix, right)
    result = np.array(right)
    for index in np.ndindex(*matrix.shape[:-2]):
        try:
            factor = cholesky(matrix[index])
        except np.linalg.LinAlgError:
            result[index] = np.linalg.solve(matrix[index], right[index])
        else:
            _substitute(factor, result[index])
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


def _factorize(matrix: Array) -> None:
    """Put the lower factor of a matrix, whose upper triangle is zero, in its place."""
    size = len(matrix)
    for start in range(0, size, PANEL):
        stop = min(start + PANEL, size)
        rows = matrix[start:stop, :start]
        own = matrix[start:stop, start:stop]
        own[...] = np.linalg.cholesky(own - rows @ rows.T)
        if stop < size:
            below = matrix[stop:, start:stop]
            below -= matrix[stop:, :start] @ rows.T
            below[...] = below @ np.linalg.inv(own).T


def _substitute(factor: Array, right: Array) -> None:
    """Put the solution X of `factor factor' X = right` in the place of the right sides [n, columns]."""
    size = len(factor)
    parts = [(start, min(start + PANEL, size)) for start in range(0, size, PANEL)]
    inverses = [np.linalg.inv(factor[start:stop, start:stop]) for start, stop in parts]
    for (start, stop), own in zip(parts, inverses, strict=True):
        right[start:stop] = own @ (
            right[start:stop] - factor[start:stop, :start] @ right[:start]
        )
    for (start, stop), own in zip(parts[::-1], inverses[::-1], strict=True):
        right[start:stop] = own.T @ (
            right[start:stop] - factor[stop:, start:stop].T @ right[stop:]
        )


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

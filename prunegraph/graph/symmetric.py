"""Inverses of symmetric positive definite matrices, by blocks.

Nearly all the work is in products of matrices. The triangular factor is inverted and not the matrix itself: blocks of
an ill-conditioned matrix, such as a covariance of fewer rows than columns, lose digits with every level of halving.
"""

from __future__ import annotations

import numpy as np

Array = np.ndarray

#: Triangular matrices up to this size are inverted as a whole.
BLOCK = 256


def inverse(matrix: Array) -> Array:
    """The inverse of a symmetric positive definite matrix [..., n, n], in double precision.

    With the Cholesky factor L it is `L^-T L^-1`, and with `L = [[A, 0], [C, D]]` the inverse of that is
    `[[A^-1, 0], [-D^-1 C A^-1, D^-1]]`.

    Raises:
        np.linalg.LinAlgError: a matrix is singular.
    """
    if matrix.ndim > 2:
        result = np.empty(matrix.shape)
        for index in np.ndindex(*matrix.shape[:-2]):
            result[index] = inverse(matrix[index])
        return result
    matrix = np.asarray(matrix, np.float64)
    try:
        factor = np.linalg.cholesky(matrix)
    except np.linalg.LinAlgError:  # rounding has made it indefinite
        return np.linalg.inv(matrix)
    _invert(factor)
    return np.asarray(factor.T @ factor)


def _invert(factor: Array) -> None:
    """Invert a lower triangular matrix in place."""
    size = len(factor)
    if size <= BLOCK:
        factor[...] = np.tril(np.linalg.inv(factor))
        return
    half = size // 2
    first, corner, last = factor[:half, :half], factor[half:, :half], factor[half:, half:]
    _invert(first)
    _invert(last)
    np.negative(last @ (corner @ first), out=corner)

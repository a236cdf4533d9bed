"""Inverses of symmetric positive definite matrices, by blocks.

Nearly all the work is in products of matrices, about half of what LU factorization and n right sides take.
"""

from __future__ import annotations

import numpy as np

Array = np.ndarray

#: Matrices up to this size are inverted as a whole.
BLOCK = 256


def inverse(matrix: Array) -> Array:
    """The inverse of a symmetric positive definite matrix [..., n, n], in double precision.

    With `[[A, B], [B', D]]` and `S = D - B' A^-1 B` it is
    `[[A^-1 + T S^-1 T', -T S^-1], [-S^-1 T', S^-1]]`, T = A^-1 B.

    Raises:
        np.linalg.LinAlgError: a matrix is singular.
    """
    if matrix.ndim > 2:
        result = np.empty(matrix.shape)
        for index in np.ndindex(*matrix.shape[:-2]):
            result[index] = inverse(matrix[index])
        return result
    result = np.array(matrix, np.float64, order="C")
    _invert(result)
    return result


def _invert(matrix: Array) -> None:
    size = len(matrix)
    if size <= BLOCK:
        matrix[...] = np.linalg.inv(matrix)
        return
    half = size // 2
    first, corner, last = matrix[:half, :half], matrix[:half, half:], matrix[half:, half:]
    _invert(first)
    reduced = first @ corner
    last -= corner.T @ reduced
    _invert(last)
    np.negative(reduced @ last, out=corner)
    first -= corner @ reduced.T
    matrix[half:, :half] = corner.T

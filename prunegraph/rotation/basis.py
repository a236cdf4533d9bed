"""The basis of a space: directions in the order of what is lost with them.

Of a row z of channels with covariance C, readers see what `M = sum of W W'` measures. With
`C^1/2 M^1/2 = U S V'` the basis `R = M^1/2 V S^-1/2` has the inverse `S^-1/2 U' C^1/2`; in z R channels are
uncorrelated, readers see each by itself, and leaving out the last ones loses the sum of their squared
singular values, which no other choice of as many directions goes below (ALGORITHMS 9.1). For a contraction of two
values M is the second moment of the other one: the same basis is the best pair of factors of the product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Array = np.ndarray

#: Added to the diagonals of C and M, relative to their mean, so that the basis has an inverse.
DAMPING = 1e-4


@dataclass(frozen=True)
class Basis:
    """A basis of a space: the matrix R [channels, channels], and the singular values [channels], falling."""

    matrix: Array
    strengths: Array


def best_basis(
    makers: Array, readers: Array, *, rigid: bool = False, damping: float = DAMPING
) -> Basis:
    """The basis in which the last channels carry the least.

    Args:
        makers: covariance C of the channels [channels, channels].
        readers: what is read of them, M [channels, channels].
        rigid: whether the basis has to be orthogonal; the first channels span the same.
        damping: added to the diagonals of both, relative to their mean.
    """
    left_root, right_root = (_root(_damped(each, damping)) for each in (makers, readers))
    _, strengths, right = np.linalg.svd(left_root @ right_root)
    matrix = right_root @ right.T / np.sqrt(strengths)
    if rigid:
        matrix, triangle = np.linalg.qr(matrix)
        matrix = matrix * np.where(np.diag(triangle) < 0, -1.0, 1.0)
    return Basis(matrix, strengths)


def mean_of(matrices: Sequence[Array]) -> Array:
    """The mean of matrices, each in double precision and symmetric."""
    mean = np.mean(matrices, axis=0, dtype=np.float64)
    return np.asarray((mean + mean.T) / 2)


def _damped(matrix: Array, damping: float) -> Array:
    """A matrix with a little of the identity; one of zeros says that all directions are alike."""
    size = len(matrix)
    level = float(np.trace(matrix)) / size
    return matrix + damping * level * np.eye(size) if level > 0 else np.eye(size)


def _root(matrix: Array) -> Array:
    """The symmetric square root of a positive matrix."""
    values, vectors = np.linalg.eigh(matrix)
    return np.asarray((vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T)

"""Inverses of symmetric matrices by blocks, against what an inverse is."""

from __future__ import annotations

import numpy as np
import pytest

from prunegraph.graph import symmetric


@pytest.mark.parametrize("size", [1, 2, 7, 40, 65])
def test_inverse(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of well and of badly conditioned matrices, in float32 as well, several at a time; what is given stays."""
    monkeypatch.setattr(symmetric, "BLOCK", 4)
    monkeypatch.setattr(symmetric, "STRIPE", 6)
    rng = np.random.default_rng(size)
    rows = rng.standard_normal((4, size + 2, size))
    rows[1] *= np.geomspace(1, 1e-3, size)
    rows[2] *= 1e4
    # Directions of all sizes, none along an axis: errors of one block must not be multiplied by the next.
    rows[3] = (
        np.geomspace(1, 1e-4, size + 2)[:, None] * rows[3] @ np.linalg.qr(rows[3][:size])[0]
    )
    matrices = rows.swapaxes(1, 2) @ rows + 1e-9 * np.eye(size)
    given = matrices.copy()
    inverses = symmetric.inverse(matrices)
    np.testing.assert_array_equal(matrices, given)
    for matrix, inverse in zip(matrices, inverses, strict=True):
        limit = 1e-15 * np.linalg.cond(matrix) * size
        np.testing.assert_allclose(matrix @ inverse, np.eye(size), atol=limit)
        np.testing.assert_array_equal(symmetric.inverse(matrix), inverse)
    assert symmetric.inverse(matrices, in_place=True) is matrices
    np.testing.assert_array_equal(matrices, inverses)
    np.testing.assert_array_equal(symmetric.inverse(-np.eye(size)), -np.eye(size))
    with pytest.raises(np.linalg.LinAlgError):
        symmetric.inverse(np.zeros((size, size)))
    single = symmetric.inverse(np.eye(size, dtype=np.float32) * 4)
    assert single.dtype == np.float64
    np.testing.assert_array_equal(single, np.eye(size) / 4)


@pytest.mark.parametrize("size", [300, 700])
@pytest.mark.parametrize("rank", [20, 1000])
def test_a_covariance_of_few_rows_keeps_its_digits(size: int, rank: int) -> None:
    """Damped by a hundredth of its mean, as for `obs`; by halving, digits could be lost with every level."""
    rows = np.random.default_rng(0).standard_normal((rank, size))
    matrix = rows.T @ rows / rank
    matrix += 1e-2 * np.trace(matrix) / size * np.eye(size)
    inverse = symmetric.inverse(matrix)
    assert abs(inverse @ matrix - np.eye(size)).max() < 1e-11

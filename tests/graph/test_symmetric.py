"""Factors, inverses and solutions of symmetric matrices by blocks, against what these are."""

from __future__ import annotations

import numpy as np
import pytest

from prunegraph.graph import symmetric


@pytest.mark.parametrize("size", [1, 2, 7, 40, 65])
def test_inverse(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of well and of badly conditioned matrices, in float32 as well, several at a time; what is given stays."""
    monkeypatch.setattr(symmetric, "BLOCK", 4)
    monkeypatch.setattr(symmetric, "STRIPE", 6)
    monkeypatch.setattr(symmetric, "PANEL", 5)
    monkeypatch.setattr(symmetric, "LARGE", 7)
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


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1, 9, 10, 11, 64])
def test_solutions_and_factors(
    size: int, dtype: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By LAPACK and by panels, several at a time, in the precision that is given; what is given stays."""
    rng = np.random.default_rng(size)
    rows = rng.standard_normal((3, size + 2, size))
    matrices = (rows.swapaxes(1, 2) @ rows + 0.1 * np.eye(size)).astype(dtype)
    right = rng.standard_normal((3, size, 4)).astype(dtype)
    given = matrices.copy(), right.copy()
    expected = np.linalg.solve(matrices.astype(np.float64), right.astype(np.float64))
    factors = np.linalg.cholesky(matrices.astype(np.float64))
    close = 2e4 * size * np.finfo(dtype).eps
    monkeypatch.setattr(symmetric, "PANEL", 5)
    for large in (1000, 1):
        monkeypatch.setattr(symmetric, "LARGE", large)
        result = symmetric.solve(matrices, right)
        assert result.dtype == dtype
        np.testing.assert_allclose(result, expected, rtol=close, atol=close)
        # Above the diagonal nothing is read.
        noisy = [np.tril(each) + np.triu(np.full_like(each, 9), 1) for each in matrices]
        for one, factor in zip(noisy, factors, strict=True):
            own = symmetric.cholesky(one)
            assert own.dtype == dtype
            np.testing.assert_allclose(own, factor, rtol=close, atol=close)
    np.testing.assert_array_equal(matrices, given[0])
    np.testing.assert_array_equal(right, given[1])


def test_what_is_not_positive_is_solved_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(symmetric, "PANEL", 3)
    monkeypatch.setattr(symmetric, "LARGE", 1)
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((8, 8))
    matrix, right = rows + rows.T, rng.standard_normal((8, 2))
    with pytest.raises(np.linalg.LinAlgError):
        symmetric.cholesky(matrix)
    np.testing.assert_allclose(matrix @ symmetric.solve(matrix, right), right, atol=1e-10)
    with pytest.raises(np.linalg.LinAlgError):
        symmetric.solve(np.zeros((8, 8)), right)

"""Inverses of symmetric matrices by blocks, against what an inverse is."""

from __future__ import annotations

import numpy as np
import pytest

from prunegraph.graph import symmetric


@pytest.mark.parametrize("size", [1, 2, 7, 40, 65])
def test_inverse(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of well and of badly conditioned matrices, in float32 as well, several at a time; what is given stays."""
    monkeypatch.setattr(symmetric, "BLOCK", 4)
    rng = np.random.default_rng(size)
    rows = rng.standard_normal((3, size + 2, size))
    rows[1, :, size // 2 :] *= 1e-3
    rows[2] *= 1e4
    matrices = rows.swapaxes(1, 2) @ rows + 1e-6 * np.eye(size)
    given = matrices.copy()
    inverses = symmetric.inverse(matrices)
    np.testing.assert_array_equal(matrices, given)
    for matrix, inverse in zip(matrices, inverses, strict=True):
        limit = 1e-13 * np.linalg.cond(matrix) * size
        np.testing.assert_allclose(matrix @ inverse, np.eye(size), atol=limit)
        np.testing.assert_array_equal(symmetric.inverse(matrix), inverse)
    single = symmetric.inverse(np.eye(size, dtype=np.float32) * 4)
    assert single.dtype == np.float64
    np.testing.assert_array_equal(single, np.eye(size) / 4)

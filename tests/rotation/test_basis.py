"""The basis of a space: nothing that is as narrow loses less."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from prunegraph.rotation.basis import DAMPING, best_basis

Array = np.ndarray


def problem(size: int, outputs: int, seed: int) -> tuple[Array, Array]:
    """A covariance, and the weights of a layer that reads the channels [channels, outputs]."""
    rng = np.random.default_rng(seed)
    factor = rng.standard_normal((size, size)) * rng.uniform(0.05, 2, size)
    return factor @ factor.T, rng.standard_normal((size, outputs)) * rng.uniform(
        0.1, 2, (size, 1)
    )


def damped(matrix: Array) -> Array:
    return matrix + DAMPING * np.trace(matrix) / len(matrix) * np.eye(len(matrix))


def lost(covariance: Array, weights: Array, kept: Array) -> float:
    """Squared error of a layer's outputs if it is fitted to what `kept` [channels, directions] lets through."""
    through = kept.T @ covariance @ kept
    fitted = kept @ np.linalg.solve(through, kept.T @ covariance @ weights)
    change = weights - fitted
    return float(np.trace(change.T @ covariance @ change))


@given(size=st.integers(2, 6), outputs=st.integers(1, 6), seed=st.integers(0, 2**16))
@settings(deadline=None, max_examples=40)
def test_no_choice_of_channels_loses_less(size: int, outputs: int, seed: int) -> None:
    covariance, weights = problem(size, outputs, seed)
    covariance, reading = damped(covariance), damped(weights @ weights.T)
    # Weights of which the damped products are those that the basis was made for.
    weights = np.linalg.cholesky(reading)
    for rigid in (False, True):
        basis = best_basis(covariance, reading, rigid=rigid, damping=0)
        for width in range(1, size):
            own = lost(covariance, weights, basis.matrix[:, :width])
            np.testing.assert_allclose(
                own, (basis.strengths[width:] ** 2).sum(), rtol=1e-6, atol=1e-9
            )
            others = [
                lost(covariance, weights, np.eye(size)[:, list(chosen)])
                for chosen in combinations(range(size), width)
            ]
            assert own <= min(others) * (1 + 1e-9)


@given(size=st.integers(2, 8), seed=st.integers(0, 2**16))
@settings(deadline=None, max_examples=20)
def test_channels_are_uncorrelated_and_read_by_themselves(size: int, seed: int) -> None:
    covariance, weights = problem(size, 5, seed)
    basis = best_basis(covariance, weights @ weights.T)
    inverse = np.linalg.inv(basis.matrix)
    for matrix, side in (
        (damped(covariance), basis.matrix),
        (damped(weights @ weights.T), inverse.T),
    ):
        turned = side.T @ matrix @ side
        np.testing.assert_allclose(
            turned, np.diag(basis.strengths), atol=1e-7 * turned.max()
        )
    assert (np.diff(basis.strengths) <= 0).all()


def test_the_best_pair_of_factors_of_a_product() -> None:
    """Queries and keys: the tail of the basis leaves what the singular value decomposition of all logits leaves."""
    rng = np.random.default_rng(0)
    queries, keys = (
        rng.standard_normal((200, 6)) @ rng.standard_normal((6, 6)) for _ in range(2)
    )
    basis = best_basis(queries.T @ queries, keys.T @ keys, damping=0)
    first, second = queries @ basis.matrix, keys @ np.linalg.inv(basis.matrix).T
    strengths = np.linalg.svd(queries @ keys.T, compute_uv=False)
    for width in range(1, 6):
        change = queries @ keys.T - first[:, :width] @ second[:, :width].T
        np.testing.assert_allclose(
            np.linalg.norm(change), np.linalg.norm(strengths[width:6]), rtol=1e-6
        )


def test_what_nothing_tells_of_is_mixed_by_no_one() -> None:
    basis = best_basis(np.zeros((3, 3)), np.zeros((3, 3)))
    assert np.isfinite(basis.matrix).all()
    assert np.linalg.cond(basis.matrix) < 1.01

"""Two clusters among points of one or two dimensions: k-means, and a mixture of two Gaussians.

A few lines of numpy each; scipy and scikit-learn are no dependencies.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Array = np.ndarray

#: Random starts of k-means.
STARTS = 10

ITERATIONS = 200

#: Variances of a component stay above this share of the whole variance: a point by itself is no cluster.
FLOOR = 0.01


def two_means(points: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Centres [2, dimensions] of k-means with k = 2, and which of them each point belongs to [points].

    Lloyd's iteration from ten k-means++ starts and one from the points of least and greatest norm;
    the least sum of squares wins. The first centre is the one nearer to the origin; ties belong to the second.
    """
    best: tuple[float, Array] = np.inf, points[:2]
    norms = np.linalg.norm(points, axis=1)
    starts = [points[[norms.argmin(), norms.argmax()]]]
    for _ in range(STARTS):
        first = points[rng.integers(len(points))]
        far = np.square(points - first).sum(axis=1)
        if far.any():
            starts.append(
                np.stack([first, points[rng.choice(len(points), p=far / far.sum())]])
            )
    for start in starts:
        centres = _lloyd(points, start)
        error = float(_distances(points, centres).min(axis=1).sum())
        if error < best[0]:
            best = error, centres
    centres = best[1][np.argsort(np.linalg.norm(best[1], axis=1), kind="stable")]
    near, far = _distances(points, centres).T
    return centres, np.where(near < far, 0, 1)


def _distances(points: Array, centres: Array) -> Array:
    return np.square(points[:, None] - centres).sum(axis=2)


def _lloyd(points: Array, centres: Array) -> Array:
    before = None
    for _ in range(ITERATIONS):
        nearest = _distances(points, centres).argmin(axis=1)
        if before is not None and np.array_equal(nearest, before):
            break
        before = nearest
        centres = np.stack(
            [
                points[nearest == i].mean(axis=0) if (nearest == i).any() else centres[i]
                for i in (0, 1)
            ]
        )
    return centres


@dataclass(frozen=True)
class Mixture:
    """Two Gaussians with diagonal covariances: means [2, dimensions], `share` of the second in every point.

    `gain` is how much lower its Bayesian information criterion is than that of one Gaussian.
    """

    means: Array
    share: Array
    gain: float


def two_gaussians(points: Array, start: Array) -> Mixture:
    """A mixture fitted by expectation maximisation from means `start` [2, dimensions]."""
    count, dimensions = points.shape
    floor = FLOOR * points.var(axis=0) + np.finfo(np.float64).tiny
    share = _distances(points, start).argmin(axis=1).astype(np.float64)
    likelihood = -np.inf
    for _ in range(ITERATIONS):
        weights = np.stack([1 - share, share])
        sizes = np.maximum(weights.sum(axis=1), np.finfo(np.float64).tiny)
        means = weights @ points / sizes[:, None]
        variances = np.stack(
            [
                w @ np.square(points - m) / s
                for w, m, s in zip(weights, means, sizes, strict=True)
            ]
        )
        logs = np.log(sizes / count) + _log_density(
            points, means, np.maximum(variances, floor)
        )
        total = np.logaddexp(logs[:, 0], logs[:, 1])
        share = np.exp(logs[:, 1] - total)
        if total.sum() - likelihood < 1e-9 * count:
            break
        likelihood = float(total.sum())
    one = _log_density(
        points, points.mean(axis=0)[None], np.maximum(points.var(axis=0), floor)[None]
    ).sum()
    gain = 2 * (total.sum() - one) - (2 * dimensions + 1) * np.log(count)
    return Mixture(means, share, float(gain))


def _log_density(points: Array, means: Array, variances: Array) -> Array:
    """Log density of every point under diagonal Gaussians [points, Gaussians]."""
    squares = np.square(points[:, None] - means) / variances
    return -0.5 * (squares + np.log(2 * np.pi * variances)).sum(axis=2)

"""Normalisations: how scores of different groups are made comparable.

Each takes the scores of one group and leaves their order as it is. Infinite scores (channels
that must stay) do not count and stay infinite.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

Array = np.ndarray

Norm = Literal["mean", "none", "sum", "max", "standardise", "gaussian", "median", "lamp"]


def lamp(scores: Array) -> Array:
    """Every score as a share of those that are not smaller (Lee et al. 2021). Scores are not negative."""
    order = np.argsort(scores, kind="stable")
    rising = np.asarray(scores, np.float64)[order]
    rest = np.cumsum(rising[::-1])[::-1]
    values = np.empty(len(rising))
    values[order] = np.divide(rising, rest, out=np.zeros(len(rising)), where=rest > 0)
    values[order[-1]] = 1.0
    return values


def _multiple(size: Callable[[Array], float]) -> Callable[[Array], Array]:
    """Scores as multiples of a number; of 1 where that is zero."""
    return lambda scores: scores / (size(np.abs(scores)) or 1.0)


def _from_to(
    start: Callable[[Array], float], length: Callable[[Array], float]
) -> Callable[[Array], Array]:
    return lambda scores: (scores - start(scores)) / (length(scores) or 1.0)


NORMS: dict[Norm, Callable[[Array], Array]] = {
    "none": lambda scores: scores,
    "mean": _multiple(np.mean),
    "sum": _multiple(np.sum),
    "max": _multiple(np.max),
    "median": _multiple(np.median),
    "standardise": _from_to(np.min, np.ptp),
    "gaussian": _from_to(np.mean, np.std),
    "lamp": lamp,
}


def normalised(scores: Array, norm: Norm) -> Array:
    """Scores of one group after a normalisation: divided by the sum, mean, median or maximum of their
    absolute values, moved and scaled to 0 to 1 (`standardise`) or to mean 0 and deviation 1
    (`gaussian`), or as shares of those that are not smaller (`lamp`)."""
    finite = np.isfinite(scores)
    values = np.array(scores, np.float64)
    if finite.any():
        values[finite] = NORMS[norm](values[finite])
    return values

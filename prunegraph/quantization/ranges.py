"""Ranges from histograms, by name: min-max, percentile, entropy, and the mean squared error (the default).

Sources: ALGORITHMS 6.4; Migacz 2017 (entropy). All but min-max may clip what is rare, to have finer steps for the rest.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from prunegraph.errors import OptionError, UnknownNameError
from prunegraph.quantization.histogram import BINS, Histogram
from prunegraph.quantization.scheme import IntType, Params, params_of

Array = np.ndarray
Range = tuple[float, float]

#: Ranges tried in a sweep of the mean squared error.
POINTS = 64

#: Of the entropy method: levels that a distribution is merged into, bins at most, and bins between two thresholds.
LEVELS = 128
ENTROPY_BINS = 2048
STRIDE = 8

METHODS = ("mse", "minmax", "percentile", "entropy")


def find(
    seen: Histogram,
    method: str,
    kind: IntType,
    *,
    symmetric: bool = False,
    percentile: float = 99.99,
) -> Params:
    """Scale and zero point of what a histogram has seen.

    Args:
        seen: with counts, unless the method is "minmax".
        method: one of `METHODS`.
        kind: the integer type.
        symmetric: whether the zero point is the middle of the type.
        percentile: share of the elements, in percent, that "percentile" does not clip.

    Raises:
        UnknownNameError: no such method.
        OptionError: the percentile is not between 50 and 100.
    """
    check(method, percentile)
    low, high = min(seen.low, 0.0), max(seen.high, 0.0)
    if not low < high:
        return params_of(0.0, 0.0, kind, symmetric=symmetric)
    # Steps of 16 bits are finer than the bins, and have nothing to gain from a smaller range.
    if method == "minmax" or (kind.bits > 8 and method != "percentile"):
        return params_of(low, high, kind, symmetric=symmetric)
    if method == "percentile":
        low, high = _percentile(seen, percentile)
    elif method == "entropy":
        low, high = _entropy(seen)
    else:
        low, high = _least_squares(seen, kind, symmetric)
    return params_of(low, high, kind, symmetric=symmetric)


def check(method: str, percentile: float = 99.99) -> None:
    """Raise what `find` raises, before any data are run."""
    if method not in METHODS:
        raise UnknownNameError("calibration method", method, METHODS)
    if not 50 < percentile <= 100:
        raise OptionError(
            f"percentile must be above 50 and at most 100, got {percentile:g}"
        )


def _percentile(seen: Histogram, percentile: float) -> Range:
    counts = seen.counts.astype(np.float64)
    counts[BINS] += seen.zeros
    total, share = np.cumsum(counts), (1 - percentile / 100) / 2 * seen.elements
    low = (int(np.searchsorted(total, share, side="right")) - BINS) * seen.width
    above = int(np.searchsorted(np.cumsum(counts[::-1]), share, side="right"))
    high = (BINS - above) * seen.width
    return max(low, seen.low), min(high, seen.high)


def _entropy(seen: Histogram) -> Range:
    """The threshold whose clipped distribution of magnitudes loses the least when it is merged into `LEVELS` levels.

    Zeros, which every scale represents exactly, do not count. With few samples, bins are empty by chance, and the
    method clips too much.
    """
    magnitudes = (seen.counts[BINS:] + seen.counts[BINS - 1 :: -1]).astype(np.float64)
    together = BINS // ENTROPY_BINS
    magnitudes = magnitudes.reshape(-1, together).sum(axis=1)
    used = int(np.flatnonzero(magnitudes)[-1]) + 1
    tried = [*range(LEVELS, used, STRIDE), used]
    best = min(tried, key=lambda bins: _divergence(magnitudes, bins, LEVELS))
    threshold = best * seen.width * together
    return max(seen.low, -threshold), min(seen.high, threshold)


def _divergence(counts: Array, bins: int, levels: int) -> float:
    """Kullback-Leibler divergence between a clipped distribution and the same in `levels` levels."""
    kept = counts[:bins]
    p = kept.copy()
    p[-1] += counts[bins:].sum()
    level = np.arange(bins) * levels // bins
    filled = kept > 0
    sums = np.bincount(level, weights=kept, minlength=levels)
    sizes = np.bincount(level, weights=filled, minlength=levels)
    q = np.where(filled, (sums / np.maximum(sizes, 1))[level], 0)
    if not q.sum():
        return np.inf
    p, q = p / p.sum(), q / q.sum()
    there = p > 0
    return float(np.sum(p[there] * np.log(p[there] / np.maximum(q[there], 1e-12))))


def _least_squares(seen: Histogram, kind: IntType, symmetric: bool) -> Range:
    """The range with the smallest sum of squared errors of the binned values."""
    full = (min(seen.low, 0.0), max(seen.high, 0.0))
    where = np.flatnonzero(seen.counts)
    error = _Error(
        seen.centres[where], seen.counts[where].astype(np.float64), kind, symmetric
    )
    if symmetric or not (full[0] < 0 < full[1]):
        return _sweep(error, lambda share: (full[0] * share, full[1] * share))
    best = _sweep(error, lambda share: (full[0] * share, full[1] * share))
    for _ in range(2):
        high = best[1]
        best = _sweep(error, lambda share, high=high: (full[0] * share, high))  # type: ignore[misc]
        low = best[0]
        best = _sweep(error, lambda share, low=low: (low, full[1] * share))  # type: ignore[misc]
    return best


class _Error:
    """Squared error of values in bins, quantized with a range."""

    def __init__(self, values: Array, counts: Array, kind: IntType, symmetric: bool):
        self.values, self.counts, self.kind, self.symmetric = (
            values,
            counts,
            kind,
            symmetric,
        )

    def __call__(self, tried: Range) -> float:
        given = params_of(*tried, self.kind, symmetric=self.symmetric)
        codes = np.clip(
            np.rint(self.values / given.scale),
            self.kind.lowest - given.zero_point,
            self.kind.highest - given.zero_point,
        )
        return float(self.counts @ np.square(codes * given.scale - self.values))


def _sweep(error: _Error, at: Callable[[float], Range]) -> Range:
    """The best range of a coarse search over shares of the full one, then of a fine one around it."""
    coarse = [at((k + 1) / POINTS) for k in range(POINTS)]
    errors = [error(tried) for tried in coarse]
    k = int(np.argmin(errors))
    fine = [
        at((k + 1 + step / 8) / POINTS)
        for step in range(-7, 8)
        if (k + 1 + step / 8) / POINTS <= 1
    ]
    return min([coarse[k], *fine], key=error)

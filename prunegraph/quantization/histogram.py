"""Streaming histograms: what was seen of a value, in constant memory, whatever the order of the batches.

Bins have one power of two as their width and begin at zero, so that a wider range is two bins made one:
nothing is lost or guessed, and histograms of several values add up.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

Array = np.ndarray

#: Bins on either side of zero.
BINS = 4096

#: Elements looked at together: what fits into a processor's cache.
CHUNK = 2**18


@dataclass
class Histogram:
    """Counts of a value's elements: `counts[BINS + i]` are those in [i * width, (i + 1) * width) that are not zero.

    `counting` off keeps the lowest and the highest only.
    """

    counting: bool = True
    exponent: int | None = None
    counts: Array = field(default_factory=lambda: np.zeros(2 * BINS, np.int64), repr=False)
    zeros: int = 0
    elements: int = 0
    low: float = np.inf
    high: float = -np.inf

    @property
    def width(self) -> float:
        """Width of a bin; 0 where only zeros were seen."""
        return 0.0 if self.exponent is None else 2.0**self.exponent

    @property
    def centres(self) -> Array:
        """The middle of every bin [2 * BINS]."""
        return (np.arange(-BINS, BINS) + 0.5) * self.width

    def add(self, x: Array) -> None:
        """Take in an array. Raises FloatingPointError for values that are infinite or not a number."""
        flat = np.ascontiguousarray(x).reshape(-1)
        if not flat.size:
            return
        low, high = float(flat.min()), float(flat.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise FloatingPointError("not a number" if np.isnan(low) else "infinite")
        self.low, self.high = min(self.low, low), max(self.high, high)
        self.elements += flat.size
        largest = max(-low, high)
        if not self.counting or not largest:
            self.zeros += flat.size if not largest else 0
            return
        self._widen(_exponent(largest))
        for start in range(0, flat.size, CHUNK):
            self._count(flat[start : start + CHUNK])

    def merge(self, other: Histogram) -> None:
        """Take in what another histogram has seen."""
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        self.elements += other.elements
        self.zeros += other.zeros
        if other.exponent is not None:
            self._widen(other.exponent)
            assert self.exponent is not None
            self.counts += _coarser(other.counts, self.exponent - other.exponent)

    def _widen(self, exponent: int) -> None:
        if self.exponent is None:
            self.exponent = exponent
        elif exponent > self.exponent:
            self.counts = _coarser(self.counts, exponent - self.exponent)
            self.exponent = exponent

    def _count(self, x: Array) -> None:
        places = np.floor(x * x.dtype.type(1 / self.width)).astype(np.int32)
        places += BINS
        self.counts += np.bincount(places, minlength=2 * BINS)
        zeros = x.size - int(np.count_nonzero(x))
        self.zeros += zeros
        self.counts[BINS] -= zeros


def _exponent(largest: float) -> int:
    """Of the smallest width with which a magnitude lies within the bins."""
    # A subnormal width would have no inverse.
    return max(int(np.frexp(largest)[1]) - int(np.log2(BINS)), -120)


def _coarser(counts: Array, steps: int) -> Array:
    """Counts in bins that are 2**steps times as wide."""
    if not steps:
        return counts
    wide = np.zeros_like(counts)
    places = (np.arange(-BINS, BINS) >> min(steps, 30)) + BINS
    np.add.at(wide, places, counts)
    return wide

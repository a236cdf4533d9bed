"""Sums of a layer in integers -> codes of the quantizer behind it, by what 8-bit layers can do: scale, shift, saturate.

A layer gives y = base + round(16 x / step + 1/2), saturated to [0, 255], x being what the quantizer would get: the
1/2 lets thresholds of a half-wave quantizer, which lie at multiples of step / 2, fall between two values of y. A
look-up makes codes of y: it rounds, with two slopes, since the first threshold (0, as published) is not where the
others' spacing would have it. `base` lets y saturate at the highest code; the look-up saturates at code 0. Nothing is
lost by the 8 bits in between, and the look-up is a DequantizeLinear, a LeakyRelu and a QuantizeLinear, which ONNX
Runtime runs as one table.

Weights are +-127 and not +-1, so that a shift, which is a whole number too, can be as fine as 1/127 of a product; where
groups of inputs have sizes of their own, those times 8. A channel for which no whole shift is right at all thresholds
gets another scale, as near as is, with which one is.
Products of two pairs still fit in 16 bits by far: 2 * 15 * 127 = 3,810 with 4-bit codes, against 32,767 that processors
without VNNI saturate at (they add up pairs of 8-bit products in 16 bits).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from prunegraph.training.binary.thresholds import AffineMap, as_thresholds

Array = np.ndarray

#: Values of y to a step.
FINE = 16

#: Magnitude of weights.
MAGNITUDE = 127

#: Sums above this are not exact in the single precision in which they are scaled.
EXACT = 2**24

#: The look-up's steps are this much wider than 1, so that what is half way in y is rounded down.
WIDER = 1 + 1 / 512

#: The least scale from a sum to y: below it a channel's code hardly depends on its input, and shifts would not fit.
LEAST = 2.0**-22

#: Shifts are at most this: y has long been saturated there.
MOST = 2**30


@dataclass(frozen=True)
class CodeTable:
    """The look-up from y to the codes 0 ... top of a half-wave quantizer with steps of that size."""

    step: float
    top: int
    deadzone: bool

    @property
    def scale(self) -> np.float32:
        """Of y."""
        return np.float32(np.float32(self.step) / np.float32(FINE))

    @property
    def base(self) -> int:
        """The y of x = 0; that of x = top * step is 255."""
        return 255 - FINE * self.top

    @property
    def kink(self) -> int:
        """The y of x = step, where slopes meet."""
        return self.base + FINE

    @property
    def slope(self) -> float:
        """Below the kink: the first threshold (0, or step / 2 with a dead zone) is half way from code 0 to 1."""
        first = 0.5 if self.deadzone else 0.0
        return WIDER * 0.5 / (1 - first - 0.5 / FINE)

    @property
    def code_scale(self) -> np.float32:
        """Of codes, a little above the step."""
        return np.float32(self.step * WIDER)


@dataclass(frozen=True)
class Requantization:
    """What an 8-bit layer needs to give y: which filters change their sign, scales of weights, and shifts.

    All have shape [channels]; scales are those of whole weights times the factor, for inputs in codes with the scale
    `step`.
    """

    turned: Array
    scales: Array
    shifts: Array

    @classmethod
    def of(
        cls,
        affine: AffineMap,
        step: float,
        table: CodeTable,
        reach: int,
        magnitude: int = MAGNITUDE,
    ) -> Requantization:
        """From the map of sums of codes times whole weights to x.

        Args:
            affine: that map; its scale has the inputs' step in it.
            step: of the inputs.
            table: of the quantizer of x.
            reach: the largest sum.
            magnitude: by which whole weights are multiplied.
        """
        scales = (np.abs(affine.scale) / (step * magnitude)).astype(np.float32)
        dead = _factor(scales, step, table) < LEAST
        scales[dead] = np.float32(LEAST) * table.scale / np.float32(step)
        factor = _factor(scales, step, table)
        wanted = affine.shift / table.step * FINE
        # In the middle between two thresholds, whatever a dead channel's sums are.
        middle = FINE / 2 * (np.floor(wanted / FINE * 2) + 0.5)
        fitting = _Fit(affine, table, reach, magnitude)
        fitted, unsettled = fitting.shifts(factor)
        for channel in np.flatnonzero(unsettled & ~dead).tolist():
            better = fitting.rescaled(channel, fitted[channel])
            if better is not None:
                fitted[channel] = better[0]
                scales[channel] = np.float32(better[1] * table.scale / np.float32(step))
        shifts = np.where(dead, (middle + 0.5) / factor, fitted)
        rounded = np.clip(np.rint(shifts), -MOST, MOST).astype(np.int32)
        return cls(affine.scale < 0, scales, rounded)


def _factor(scales: Array, step: float, table: CodeTable) -> Array:
    """From a sum to y, as runtimes compute it in single precision."""
    return (np.float32(step) * scales / table.scale).astype(np.float64)


class _Fit:
    """Shifts, and scales, with which all thresholds lie between the whole sums that they lie between exactly.

    A threshold at y = e, with sums n and n + 1 on its sides, is right for a factor f from sums to y and a shift s if
    n M + s <= e / f < (n + 1) M + s, M being the magnitude of weights.
    """

    def __init__(self, affine: AffineMap, table: CodeTable, reach: int, magnitude: int):
        _, limits = as_thresholds(affine, table.step, table.top, table.deadzone)
        first = 0.5 if table.deadzone else 0.0
        inner = np.array([first, *(i + 0.5 for i in range(1, table.top))])
        self.edges, self.limits = inner * FINE + 0.5, np.array(limits)
        self.reach, self.magnitude = reach, magnitude
        self.wanted = affine.shift / table.step * FINE + 0.5

    def shifts(self, factor: Array) -> tuple[Array, Array]:
        """Shifts [channels] for factors, and whether no whole number is right there.

        Each threshold leaves a range of shifts, `magnitude` wide; the middle of what all leave is farthest from
        changing a code.
        """
        least, most = np.full(len(factor), -np.inf), np.full(len(factor), np.inf)
        for value, limit in zip(self.edges[:, None] / factor, self.limits, strict=True):
            reached = np.abs(limit) <= self.reach + 1
            upper = value - self.magnitude * np.floor(np.where(reached, limit, 0))
            most = np.where(reached, np.minimum(most, upper), most)
            least = np.where(reached, np.maximum(least, upper - self.magnitude), least)
        shifts = self.wanted / factor
        # What no sum reaches does not have to be exact.
        bound = np.isfinite(least)
        shifts[bound] = (least[bound] + most[bound]) / 2
        whole = np.rint(shifts)
        return shifts, bound & ~((least < whole) & (whole <= most))

    def rescaled(self, channel: int, near: float) -> tuple[float, float] | None:
        """The whole shift and the factor that are right at all of a channel's thresholds, by the widest margin."""
        below = np.floor(np.clip(self.limits[:, channel], -self.reach - 1, self.reach))
        tried = np.rint(near) + np.arange(-self.magnitude, self.magnitude + 1)
        sums = below[:, None] * self.magnitude + tried
        most = (sums + self.magnitude) / self.edges[:, None]
        most[below == self.reach] = np.inf
        least = sums / self.edges[:, None]
        least[below == -self.reach - 1] = -np.inf
        low, high = least.max(0), most.min(0)
        fits = np.isfinite(low) & np.isfinite(high) & (low > 0) & (low < high)
        if not fits.any():
            return None
        best = int(np.argmax(np.where(fits, high - low, -1.0)))
        return float(tried[best]), 2 / float(low[best] + high[best])


def is_exact(reach: int, magnitude: int) -> bool:
    """Tell whether sums up to a largest one are exact in single precision, weights having a magnitude."""
    return reach * magnitude < EXACT

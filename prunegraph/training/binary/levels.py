"""Levels of quantizers for normally distributed numbers: of rectified activations, and of weights.

For x ~ N(0, 1) the half-wave quantizer takes the place of max(x, 0): it is 0 for x <= 0 and q_i for
t_i < x <= t_(i+1), with t_1 = 0 (so that every positive input gets at least q_1) and t_i half way between levels. With
a dead zone t_1 = q_1 / 2: plain rounding. Levels minimise E[(Q(x) - max(x, 0))^2].
Sources: Cai, He, Sun, Vasconcelos 2017 (HWGQ); Lloyd 1982; Max 1960.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from itertools import pairwise

from prunegraph.errors import OptionError

#: Bits that a half-wave quantizer of a network may have.
BITS = (1, 2, 3, 4)

#: Change of a level below which the iteration has converged, and the most rounds it gets.
SETTLED, ROUNDS = 1e-12, 100_000


def density(x: float) -> float:
    """Of the standard normal distribution; 0 at infinity."""
    return math.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)


def share(low: float, high: float) -> float:
    """Probability of (low, high] under the standard normal distribution."""
    return 0.5 * (math.erf(high / math.sqrt(2)) - math.erf(low / math.sqrt(2)))


def thresholds(levels: Sequence[float], deadzone: bool = False) -> list[float]:
    """Inputs above which each of the positive levels starts, then infinity."""
    first = levels[0] / 2 if deadzone else 0.0
    return [first, *((a + b) / 2 for a, b in pairwise(levels)), math.inf]


@cache
def half_wave_step(bits: int, deadzone: bool = False) -> float:
    """The best step of uniform levels i * step, i = 1 ... 2^bits - 1, for rectified N(0, 1).

    Raises:
        OptionError: `bits` is not between 1 and 8.
    """
    if not 1 <= bits <= 8:
        raise OptionError(f"a half-wave quantizer has 1 to 8 bits, not {bits}")
    count, step = 2**bits - 1, 2.0 / 2**bits
    for _ in range(ROUNDS):
        edges = thresholds([i * step for i in range(1, count + 1)], deadzone)
        cells = list(zip(range(1, count + 1), edges, edges[1:], strict=False))
        better = sum(i * (density(a) - density(b)) for i, a, b in cells)
        better /= sum(i * i * share(a, b) for i, a, b in cells)
        step, change = better, abs(better - step)
        if change < SETTLED:
            break
    return step


@cache
def half_wave_levels(count: int, deadzone: bool = False) -> tuple[float, ...]:
    """The best `count` positive levels for rectified N(0, 1), free of a common step (Lloyd's iteration)."""
    levels = [3.0 * (i + 1) / (count + 1) for i in range(count)]
    for _ in range(ROUNDS):
        edges = thresholds(levels, deadzone)
        better = [(density(a) - density(b)) / share(a, b) for a, b in pairwise(edges)]
        change = max(abs(new - old) for new, old in zip(better, levels, strict=True))
        levels = better
        if change < SETTLED:
            break
    return tuple(levels)


def half_wave_error(levels: Sequence[float], deadzone: bool = False) -> float:
    """E[(Q(x) - max(x, 0))^2] for x ~ N(0, 1), over the whole line; E[max(x, 0)^2] is 0.5."""
    edges = thresholds(levels, deadzone)
    cells = zip((0.0, *levels), (0.0, *edges), edges, strict=False)
    return sum(_cell_error(level, low, high) for level, low, high in cells)


def _cell_error(level: float, low: float, high: float) -> float:
    """The integral of (x - level)^2 times the density over a cell."""
    top = 0.0 if math.isinf(high) else high * density(high)
    second = share(low, high) + low * density(low) - top
    return second - 2 * level * (density(low) - density(high)) + level**2 * share(low, high)


@cache
def signed_step(bits: int) -> float:
    """The best step of 2^bits uniform levels (i - 1/2) * step, both signs, for N(0, 1): a mid-rise quantizer."""
    count, step = 2 ** (bits - 1), 2.0 / 2 ** (bits - 1)
    for _ in range(ROUNDS):
        edges = [*(i * step for i in range(count)), math.inf]
        cells = [(i + 0.5, edges[i], edges[i + 1]) for i in range(count)]
        better = sum(i * (density(a) - density(b)) for i, a, b in cells) / sum(
            i * i * share(a, b) for i, a, b in cells
        )
        step, change = better, abs(better - step)
        if change < SETTLED:
            break
    return step

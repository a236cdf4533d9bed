"""Searches for the largest strength that is accepted. Strengths are whole hundredths, 1 to 99.

`grid` is the source's fast compression (ALGORITHMS 2.5): coarse steps until three fail in a
row, then fine ones behind the last that was accepted. It expects no monotony. `bisection`
does, and needs seven trials. Both give the same answer whatever number of trials is made at
a time; those made ahead that are not needed are not looked at.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Protocol

COARSE = range(5, 100, 5)
FINE = range(1, 6)
FAILURES = 3


class Strengths(Protocol):
    """What is searched. `width` trials can be made at a time."""

    width: int

    def fetch(self, strengths: Sequence[int]) -> None:
        """Make trials that are likely to be asked for."""

    def accepts(self, strength: int) -> bool:
        """Tell whether a strength is accepted; makes the trial if it has not been made."""


def grid(trials: Strengths) -> int:
    """The largest accepted strength of a coarse and a fine grid; 0 if there is none."""
    best = _coarse(trials)
    fine = [best + step for step in FINE if best + step < 100]
    trials.fetch(fine)
    return max([best, *(strength for strength in fine if trials.accepts(strength))])


def _coarse(trials: Strengths) -> int:
    best = failures = 0
    for start in range(0, len(COARSE), trials.width):
        now = COARSE[start : start + trials.width]
        trials.fetch(now)
        for strength in now:
            if trials.accepts(strength):
                best, failures = strength, 0
            else:
                failures += 1
            if failures == FAILURES:
                return best
    return best


def bisection(trials: Strengths) -> int:
    """The largest accepted strength if every smaller one is accepted too; 0 if there is none."""
    low, high = 0, 100
    while high - low > 1:
        trials.fetch(_ahead(low, high, trials.width))
        middle = (low + high) // 2
        low, high = (middle, high) if trials.accepts(middle) else (low, middle)
    return low


def _ahead(low: int, high: int, count: int) -> list[int]:
    """The middle of an interval, and those that are asked for next, whatever the answers: `count` in all."""
    result: list[int] = []
    intervals = deque([(low, high)])
    while intervals and len(result) < count:
        low, high = intervals.popleft()
        if high - low > 1:
            middle = (low + high) // 2
            result.append(middle)
            intervals += [(low, middle), (middle, high)]
    return result


METHODS = {"grid": grid, "bisection": bisection}

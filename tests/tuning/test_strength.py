"""Grid search and bisection on synthetic accuracy curves (ALGORITHMS 2.5, 2.7, 8)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from prunegraph.tuning.strength import bisection, grid


class Curve:
    """Accuracy by strength; remembers what was computed and what was asked for."""

    def __init__(self, accepts: Callable[[int], bool], width: int = 1):
        self.width = width
        self.made: set[int] = set()
        self.asked: list[int] = []
        self._accepts = accepts

    def fetch(self, strengths: Sequence[int]) -> None:
        self.made.update(strengths)

    def accepts(self, strength: int) -> bool:
        assert 1 <= strength <= 99
        self.asked.append(strength)
        self.made.add(strength)
        return self._accepts(strength)


def cliff(at: int) -> Callable[[int], bool]:
    """93 % up to a strength, then a fall of two points a hundredth; half a point is tolerated."""
    return lambda strength: 93.0 - 2.0 * max(0, strength - at) >= 93.0 - 0.5


@pytest.mark.parametrize("width", [1, 2, 3, 8])
def test_both_find_the_cliff(width: int) -> None:
    for at in range(100):
        curve = Curve(cliff(at), width)
        assert grid(curve) == at
        assert len(curve.asked) <= 19 + 5
        curve = Curve(cliff(at), width)
        assert bisection(curve) == at
        assert len(curve.asked) <= 7


def test_grid_looks_at_what_the_source_says() -> None:
    curve = Curve(cliff(42))
    grid(curve)
    assert curve.asked == [5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 55, 41, 42, 43, 44, 45]


@pytest.mark.parametrize("width", [1, 2, 4])
def test_a_dip_does_not_stop_the_grid_but_three_failures_do(width: int) -> None:
    def dips(strength: int) -> bool:
        return strength <= 12 or 24 <= strength <= 31 or strength in (50, 70)

    # 15 and 20 fail, 25 and 30 do not; 35, 40 and 45 end it before 50 is seen.
    curve = Curve(dips, width)
    assert grid(curve) == 31
    assert curve.asked == [5, 10, 15, 20, 25, 30, 35, 40, 45, 31, 32, 33, 34, 35]


def test_what_is_asked_does_not_depend_on_how_many_trials_are_made_at_a_time() -> None:
    for search in (grid, bisection):
        curves = [Curve(cliff(37), width) for width in (1, 2, 3, 7, 64)]
        assert len({search(curve) for curve in curves}) == 1
        assert len({tuple(curve.asked) for curve in curves}) == 1
        assert all(set(curve.asked) <= curve.made for curve in curves)


def test_bisection_makes_as_many_trials_at_a_time_as_there_are_workers() -> None:
    curve = Curve(cliff(37), 3)
    first: list[int] = []

    def fetch(strengths: Sequence[int]) -> None:
        first.append(len(strengths))
        curve.made.update(strengths)

    curve.fetch = fetch  # type: ignore[method-assign]
    bisection(curve)
    assert first[0] == 3
    assert {25, 50, 75} <= curve.made

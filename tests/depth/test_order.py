"""The order in which branches go, with damages that are computed."""

from __future__ import annotations

from collections.abc import Collection

import pytest

from prunegraph.coupling.branches import Branch
from prunegraph.depth.order import greedy


def branches(count: int) -> list[Branch]:
    return [
        Branch(str(i), 10 * i + 9, 1, "x", "y", frozenset({10 * i}), ("layer",))
        for i in range(count)
    ]


def names(order: list[str]) -> str:
    return "".join(name.removeprefix("branch:") for name in order)


def total(gone: Collection[str], values: dict[str, float]) -> float:
    return sum(values[name.removeprefix("branch:")] for name in gone)


def test_the_least_damage_for_what_is_saved_goes_first() -> None:
    damages = {"0": 3.0, "1": 1.0, "2": 2.0}
    savings = {"0": 0.6, "1": 0.1, "2": 0.3}
    order = greedy(
        branches(3),
        lambda gone: total(gone, damages),
        lambda gone: total(gone, savings),
        lambda gone: False,
    )
    assert names(order) == "021"


def test_a_branch_that_others_have_made_dear_waits() -> None:
    """Alone 0 and 1 cost little; without one of them the other one costs much."""
    damages = {"0": 1.0, "1": 1.1, "2": 2.0}

    def damage(gone: Collection[str]) -> float:
        both = {"branch:0", "branch:1"} <= set(gone)
        return total(gone, damages) + (5.0 if both else 0.0)

    order = greedy(branches(3), damage, lambda gone: 0.1 * len(gone), lambda gone: False)
    assert names(order) == "021"


@pytest.mark.parametrize("count", [0, 1, 2])
def test_it_ends_when_enough_have_gone(count: int) -> None:
    order = greedy(
        branches(3),
        lambda gone: float(len(gone)),
        lambda gone: 0.1 * len(gone),
        lambda gone: len(gone) >= count,
    )
    assert len(order) == count


def test_what_is_inside_one_that_went_is_gone() -> None:
    inner = Branch("inner", 5, 1, "x", "y", frozenset({4}), ("layer",))
    outer = Branch("outer", 9, 1, "x", "z", frozenset({4, 5, 6}), ("layer", "other"))
    order = greedy(
        [inner, outer],
        lambda gone: 1.0 if inner.id in gone else 0.1,
        lambda gone: 0.1 * len(gone),
        lambda gone: False,
    )
    assert order == [outer.id]


def test_what_saves_nothing_stays() -> None:
    order = greedy(
        branches(2),
        lambda gone: 0.0,
        lambda gone: 0.5 if "branch:1" in gone else 0.0,
        lambda gone: False,
    )
    assert names(order) == "1"

"""Rules for ranks, and the allocation under a budget."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from prunegraph.errors import BudgetError, OptionError
from prunegraph.ops.cost import Cost
from prunegraph.rewriting.factorize import Svd, Tucker2
from prunegraph.rewriting.ranks import RankChoice, RankRule, allocate, hull, rounded
from prunegraph.selection.budget import Budget


def test_rules() -> None:
    rng = np.random.default_rng(0)
    low = rng.standard_normal((64, 12)) @ rng.standard_normal(
        (12, 90)
    ) + 0.01 * rng.standard_normal((64, 90))
    assert RankRule.parse("evbmf:0").ranks(Svd(low)) == (12,)
    assert RankRule.parse("evbmf").ranks(Svd(low)) == (28,), "12 + 0.3 (64 - 12) = 27.6"
    assert RankRule.parse("evbmf:1").ranks(Svd(low)) == (64,)
    assert RankRule.parse("evbmf:0").ranks(Svd(rng.standard_normal((64, 90)))) == (8,), (
        "noise has rank 0; 8 are the least"
    )
    assert RankRule.parse("ratio:0.3").ranks(
        Tucker2(rng.standard_normal((20, 11, 3, 3)))
    ) == (
        6,
        4,
    )
    with pytest.raises(OptionError):
        RankRule.parse("ratio:0")


def test_rounding_goes_up_to_the_full_rank() -> None:
    assert rounded((1, 8, 9, 20), 8, (64, 64, 64, 20)) == (8, 8, 16, 20)


def cloud(seed: int, count: int = 40) -> list[RankChoice]:
    rng = np.random.default_rng(seed)
    saved = rng.integers(1, 1000, count)
    errors = (saved / 1000) ** 2 + rng.uniform(0, 0.5, count)
    return [
        RankChoice("svd", (i,), float(e), int(s), int(s))
        for i, (s, e) in enumerate(zip(saved, errors, strict=True))
    ]


@pytest.mark.parametrize("seed", range(20))
def test_the_hull_lies_below_all_candidates(seed: int) -> None:
    candidates = cloud(seed)
    steps = hull(candidates, "params")
    assert all(first[0] < second[0] for first, second in itertools.pairwise(steps))
    points = [(0, 0.0), *((each.params, each.error) for _, each in steps)]
    at, errors = zip(*points, strict=True)
    assert at[-1] == max(each.params for each in candidates)
    for each in candidates:
        assert each.error >= np.interp(each.params, at, errors) - 1e-12


def last_step(options: dict[str, list[RankChoice]], needed: int) -> float:
    """Error that the step adds with which steps along the hulls, cheapest first, save enough."""
    taken: dict[str, RankChoice] = {}
    steps = [
        (slope, name, each)
        for name, match in options.items()
        for slope, each in hull(match, "params")
    ]
    steps.sort(key=lambda step: step[0])
    for _, name, each in steps:
        before = taken.get(name)
        taken[name] = each
        if sum(now.params for now in taken.values()) >= needed:
            return each.error - (before.error if before else 0.0)
    raise AssertionError("the budget cannot be met")


@pytest.mark.parametrize("seed", range(10))
def test_allocation_is_near_the_best_of_all(seed: int) -> None:
    """Against every combination for three layers."""
    options = {name: cloud(10 * seed + i, 12) for i, name in enumerate("abc")}
    original = Cost(4000, 4000, 16000)
    chosen = allocate(options, Budget(params=0.7), original)
    saved = sum(each.params for each in chosen.values())
    assert saved >= 1200
    nothing = RankChoice("", (), 0.0, 0, 0)
    everything = itertools.product(*([nothing, *match] for match in options.values()))
    best = min(
        sum(e.error for e in each)
        for each in everything
        if sum(e.params for e in each) >= 1200
    )
    # Steps along the hulls, and a part of the last one, solve the problem with parts of steps allowed: no more error
    # than `best`. Taking all of the last step adds at most its error.
    assert (
        best
        <= sum(each.error for each in chosen.values()) + 1e-12
        <= best + last_step(options, 1200) + 2e-12
    )


def test_a_budget_that_cannot_be_met_says_what_is_left() -> None:
    with pytest.raises(BudgetError, match="are left"):
        allocate({"a": cloud(0)}, Budget(macs=0.1), Cost(4000, 4000, 16000))
    assert allocate({"a": cloud(0)}, Budget(macs=1.0), Cost(4000, 4000, 16000)) == {}

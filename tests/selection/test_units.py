"""Units of several groups and branches: they go together, in the order of their steps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import prunegraph as pg
from prunegraph.coupling.coupling import Coupling
from prunegraph.errors import BudgetError
from prunegraph.ops.cost import Cost
from prunegraph.selection import knapsack
from prunegraph.selection.allocation import allocate
from prunegraph.selection.budget import Meter
from prunegraph.selection.units import (
    Limits,
    Step,
    Unit,
    collect,
    forced_share,
    make_units,
    up_to,
)
from tests.training.mixed import chain

ALLOCATIONS = ("uniform", "global", "global:per=macs", "isomorphic")


def together(coupling: Coupling) -> list[Unit]:
    """The first two groups (16 channels each) as one unit of steps of 4 + 4 channels, the third one alone."""
    rng = np.random.default_rng(0)
    scores = {group.id: rng.random(group.channels) for group in coupling.groups}
    first, second, third = make_units(coupling, scores, Limits(round_to=4))
    steps = tuple(
        Step("both", {**a.gone, **b.gone}, a.share, {**a.scores, **b.scores})
        for a, b in zip(first.steps, second.steps, strict=True)
    )
    return [Unit("both", (*first.groups, *second.groups), 32, steps), third]


@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_groups_of_a_unit_go_together(allocation: str) -> None:
    coupling = pg.analyze(chain(widths=(16, 16, 16)))
    units = together(coupling)
    seen = set()
    for macs in (0.9, 0.6, 0.4):
        removal = allocate(coupling, units, pg.Budget(macs=macs), Limits(), allocation)
        first, second = (len(removal.get(g, ())) for g in units[0].groups)
        assert first == second
        seen.add(first)
        meter = Meter(coupling)
        assert meter.measure(removal).macs <= macs * meter.original.macs
    assert len(seen) > 1


def test_the_knapsack_takes_units_whole() -> None:
    coupling = pg.analyze(chain(widths=(16, 16, 16)))
    units = together(coupling)
    curves = {"both": [(0.5, 0.1)], units[1].id: [(0.5, 10.0)]}
    removal = knapsack.allocate(coupling, units, pg.Budget(macs=0.6), Limits(), curves)
    first, second = (removal[group] for group in units[0].groups)
    assert len(first) == len(second) > 0 and not len(removal.get(units[1].groups[0], ()))
    kept = Limits(ratios={units[0].groups[1]: 0.25})
    assert forced_share(units[0], kept) == 0.25 and forced_share(units[1], kept) is None
    removal = knapsack.allocate(coupling, units, pg.Budget(macs=0.9), kept, curves)
    assert [len(removal[group]) for group in units[0].groups] == [4, 4]


def test_steps_collect_channels() -> None:
    scores = {"a": np.arange(4.0)}
    steps = [
        Step("a", {"a": (3, 1)}, 0.5, scores),
        Step("a", {"a": (0, 2)}, 1.0, scores),
    ]
    assert [step.count for step in steps] == [2, 2]
    removal = collect(steps)
    assert removal["a"].tolist() == [0, 1, 2, 3]
    assert collect(up_to(steps, 0.5))["a"].tolist() == [1, 3]


KINDS = ("macs", "params", "bytes")


@pytest.mark.parametrize("allocation", ["uniform", "global", "isomorphic", "knapsack"])
@settings(max_examples=8, deadline=None)
@given(
    shares=st.dictionaries(
        st.sampled_from(KINDS), st.floats(0.3, 1.0), min_size=2, max_size=3
    )
)
def test_all_of_several_bounds_are_met_and_one_binds(
    allocation: str, shares: dict[str, float]
) -> None:
    coupling = pg.analyze(chain(widths=(16, 24, 32)))
    rng = np.random.default_rng(0)
    scores = {group.id: rng.random(group.channels) for group in coupling.groups}
    units, limits = make_units(coupling, scores, Limits(round_to=1)), Limits(round_to=1)
    meter = Meter(coupling)

    def removed(budget: pg.Budget) -> Cost:
        if allocation == "knapsack":
            curves = {unit.id: [(0.5, 0.1)] for unit in units}
            removal = knapsack.allocate(coupling, units, budget, limits, curves)
        else:
            removal = allocate(coupling, units, budget, limits, allocation)
        return meter.measure(removal)

    budget = pg.Budget(**shares)
    remaining = removed(budget)
    for kind, bound in budget.bounds(meter.original).items():
        assert getattr(remaining, kind) <= bound
    assert budget.binding(remaining, meter.original) in shares
    if allocation != "knapsack":
        # One order of steps, and no step more than the bound that binds asks for.
        assert remaining in [removed(pg.Budget(**{k: v})) for k, v in shares.items()]


def test_budgets_of_several_bounds_and_their_mistakes() -> None:
    budget = pg.Budget(macs=0.7, bytes="20MB", latency="8ms")
    assert budget.kinds == ("macs", "bytes", "latency")
    assert budget.counted == ("macs", "bytes")
    assert budget.given() == {"macs": 0.7, "bytes": "20MB", "latency": "8ms"}
    original = Cost(1000, 10, 50_000_000)
    assert budget.bounds(original) == {"macs": 700, "bytes": 20_000_000}
    assert budget.binding(Cost(600, 10, 20_000_000), original) == "bytes"
    with pytest.raises(BudgetError, match="bounds on macs and bytes and latency together"):
        _ = budget.kind
    with pytest.raises(BudgetError, match="not both; got ratio, macs"):
        pg.Budget(ratio=0.5, macs=0.5)
    with pytest.raises(BudgetError, match="params must be a positive fraction"):
        pg.Budget(macs=0.5, params=-1)
    coupling = pg.analyze(chain())
    with pytest.raises(BudgetError, match="params cannot fall to"):
        pg.select(coupling.graph, budget=pg.Budget(macs=0.9, params=0.001))

"""Units of several groups and branches: they go together, in the order of their steps."""

from __future__ import annotations

import numpy as np
import pytest

import prunegraph as pg
from prunegraph.coupling.coupling import Coupling
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
        first, second = (len(removal.channels.get(g, ())) for g in units[0].groups)
        assert first == second
        seen.add(first)
        meter = Meter(coupling)
        assert meter.measure(removal.channels).macs <= macs * meter.original.macs
    assert len(seen) > 1


def test_the_knapsack_takes_units_whole() -> None:
    coupling = pg.analyze(chain(widths=(16, 16, 16)))
    units = together(coupling)
    curves = {"both": [(0.5, 0.1)], units[1].id: [(0.5, 10.0)]}
    removal = knapsack.allocate(coupling, units, pg.Budget(macs=0.6), Limits(), curves)
    first, second = (removal.channels[group] for group in units[0].groups)
    assert len(first) == len(second) > 0 and not len(
        removal.channels.get(units[1].groups[0], ())
    )
    kept = Limits(ratios={units[0].groups[1]: 0.25})
    assert forced_share(units[0], kept) == 0.25 and forced_share(units[1], kept) is None
    removal = knapsack.allocate(coupling, units, pg.Budget(macs=0.9), kept, curves)
    assert [len(removal.channels[group]) for group in units[0].groups] == [4, 4]


def test_steps_collect_channels_and_branches() -> None:
    scores = {"a": np.arange(4.0)}
    steps = [
        Step("a", {"a": (3, 1)}, 0.5, scores),
        Step("a", {"a": (0, 2)}, 1.0, scores, branches=("block",)),
    ]
    assert [step.count for step in steps] == [2, 2]
    removal = collect(steps)
    assert removal.channels["a"].tolist() == [0, 1, 2, 3]
    assert removal.branches == ("block",)
    assert collect(up_to(steps, 0.5)).branches == ()

"""What a budget does not need comes back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hypothesis import given
from hypothesis import strategies as st

import prunegraph as pg
from prunegraph.errors import BudgetError
from prunegraph.graph.model import Graph
from prunegraph.ops.cost import cost
from prunegraph.selection.budget import Meter
from prunegraph.selection.plan import make_plan
from tests.builders import Builder
from tests.oracle import random_plan
from tests.random_graphs import draw_graph

ALLOCATIONS = ("uniform", "global", "isomorphic")


def chain(*widths: int) -> Graph:
    b = Builder(3)
    x, before = b.input("n", 3, 8, 8), 3
    for number, width in enumerate(widths):
        x = b.relu(b.conv(x, before, width, name=f"conv{number}"))
        before = width
    return b.graph(b.head(x, before))


def costs(graph: Graph, remove: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """Say what the model costs that is cut, which nothing predicts here."""
    return vars(cost(pg.apply(graph, make_plan(pg.analyze(graph), remove))))


def test_a_step_comes_back_when_a_larger_one_was_needed_after_it() -> None:
    """At a half of the MACs conv0 and conv1 both lose their half, and one of them is enough."""
    graph = chain(16, 16, 96, 16)
    plan = pg.select(graph, algorithm="l2", budget=pg.Budget(macs=0.5))
    pruned = pg.apply(graph, plan)
    widths = [pruned.node(f"conv{i}").channels.outputs for i in range(4)]
    assert cost(pruned).macs <= 0.5 * cost(graph).macs
    assert widths == [16, 8, 56, 16]
    assert pg.verify(graph, plan, pruned)


@given(
    draw_graph(grouped=False, most=5),
    st.sampled_from(ALLOCATIONS),
    st.sampled_from([0.5, 0.7, 0.9]),
    st.booleans(),
)
def test_no_channel_more_could_stay(
    graph: Graph, allocation: str, share: float, has_two: bool
) -> None:
    bounds = {"macs": share, **({"params": share} if has_two else {})}
    budget = pg.Budget(**bounds)
    try:
        plan = pg.select(
            graph, algorithm="l2", allocation=allocation, budget=budget, round_to=1
        )
    except BudgetError:
        return
    whole = costs(graph, {})
    remaining = costs(graph, plan.remove)
    assert all(remaining[kind] <= share * whole[kind] for kind in bounds)
    cells = {group.id: group.cells for group in pg.analyze(graph).groups}
    for group in plan.remove:
        if cells[group] is not None:  # several go at a time
            continue
        more = {**plan.remove, group: plan.remove[group][:-1]}
        now = costs(graph, more)
        assert any(now[kind] > share * whole[kind] for kind in bounds)


def test_what_has_a_ratio_of_its_own_does_not_come_back() -> None:
    graph = chain(16, 16, 96, 16)
    plan = pg.select(
        graph,
        algorithm="l2",
        budget=pg.Budget(macs=0.9),
        ratio_for={"conv2": 0.75},
    )
    assert pg.apply(graph, plan).node("conv2").channels.outputs == 24
    assert len(plan.remove) == 1


@given(draw_graph(), st.sampled_from(["alike", "own"]), st.integers(0, 999))
def test_what_a_group_touches_is_all_that_its_channels_change(
    graph: Graph, blocks: str, seed: int
) -> None:
    coupling = pg.analyze(graph, blocks=blocks)
    remove = random_plan(coupling, seed).remove
    meter = Meter(coupling)
    whole = vars(meter.measure(remove))
    pruned = vars(cost(pg.apply(graph, make_plan(coupling, remove))))
    # Bytes of sizes that a cut graph computes anew are not the choice's.
    assert (whole["macs"], whole["params"]) == (pruned["macs"], pruned["params"])
    for group, channels in remove.items():
        others = {name: gone for name, gone in remove.items() if name != group}
        touched = meter.touched({group: channels})
        before = vars(meter.measure_part(remove, touched))
        after = vars(meter.measure_part(others, touched))
        without = vars(meter.measure(others))
        assert {k: whole[k] + after[k] - before[k] for k in whole} == without

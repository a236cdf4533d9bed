"""Latency budgets: the logic of the search with a timer that computes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import prunegraph as pg
from prunegraph.errors import BudgetError
from prunegraph.latency.bench import PAIRS
from prunegraph.latency.blends import blends
from prunegraph.latency.search import TOLERANCE
from prunegraph.measuring import latency as timing
from prunegraph.measuring.latency import Latency
from prunegraph.ops.cost import cost
from prunegraph.selection.budget import Budget
from prunegraph.selection.plan import Plan
from tests.builders import Builder
from tests.latency.staircase import Staircase, chain, choose


@pytest.mark.parametrize("bound", [0.8, 0.5, 0.3])
@pytest.mark.parametrize("round_to", [1, 8])
@pytest.mark.parametrize("allocation", ["uniform", "global"])
def test_the_measured_latency_is_at_the_bound(
    bound: float, round_to: int, allocation: str
) -> None:
    graph = chain()
    timer = Staircase(graph, stair=8, penalty=1.3, fixed=0.5)
    options: dict[str, Any] = {"round_to": round_to, "allocation": allocation}
    result = choose(graph, timer, budget=Budget(latency=bound), **options)
    kept = timer.against(pg.apply(graph, result.plan)).kept
    assert bound * (1 - TOLERANCE) <= kept <= bound
    assert result.latency is not None
    assert result.latency.kept == kept
    assert result.plan.provenance["budget"] == {"latency": bound}
    assert result.plan.provenance["latency"]["share"] == kept


def test_a_time_is_a_bound_in_milliseconds() -> None:
    graph = chain()
    timer = Staircase(graph, fixed=0.5)
    bound = timer.original() * 0.6
    result = choose(graph, timer, budget=Budget(latency=f"{bound}ms"), round_to=1)
    assert result.latency is not None
    assert bound * (1 - TOLERANCE) <= result.latency.second <= bound
    assert result.latency.first == timer.original()


@pytest.mark.parametrize("latency", [1, "1s"])
def test_nothing_goes_where_the_original_meets_the_bound(latency: float | str) -> None:
    graph = chain()
    result = choose(graph, Staircase(graph), budget=Budget(latency=latency))
    assert not result.plan.remove
    assert result.latency is not None
    assert result.latency.kept == 1


@pytest.mark.parametrize("fixed", [0.0, 20.0])
def test_the_measurement_corrects_a_table_that_is_wrong(fixed: float) -> None:
    """Layers alone say nothing of what else a model costs; few whole models are measured all the same."""
    graph = chain()
    timer = Staircase(graph, stair=16, fixed=fixed, bias=3.0)
    bound = 0.9
    result = choose(graph, timer, budget=Budget(latency=bound), round_to=4)
    assert result.latency is not None
    assert bound * (1 - TOLERANCE) <= result.latency.kept <= bound
    assert len(timer.models) <= 5


def test_the_result_is_measured_in_several_sessions() -> None:
    """One pair of sessions is off by some percent; what is returned and promised comes from several."""
    graph = chain()

    class Shaky(Staircase):
        def against(self, pruned: pg.Graph, pairs: int = 1) -> Latency:
            result = super().against(pruned, pairs)
            off = 1.03 if len(self.models) % 2 else 0.97
            return result if pairs > 1 else replace(result, ratio=result.ratio * off)

    timer = Shaky(graph, stair=4)
    for bound in (0.8, 0.6, 0.4):
        result = choose(graph, timer, budget=Budget(latency=bound), round_to=4)
        assert result.latency is not None
        assert (
            result.latency.kept == timer.against(pg.apply(graph, result.plan), PAIRS).kept
        )
        assert bound * (1 - TOLERANCE) <= result.latency.kept <= bound


def test_several_pairs_make_one_figure() -> None:
    parts = [
        Latency(4.0, 2.0, 2.0, runs=9, threads=1, error=0.1),
        Latency(9.0, 2.0, 4.5, runs=3, threads=1),
    ]
    result = timing.combined(parts)
    assert (result.first, result.second, result.ratio, result.runs) == (
        6.5,
        2.0,
        pytest.approx(3.0),
        12,
    )
    assert result.error == pytest.approx(np.log(4.5 / 2) / 2)
    assert timing.combined(parts[:1]) is parts[0]


def test_a_bound_below_what_must_stay_says_what_is_possible() -> None:
    graph = chain()
    timer = Staircase(graph, fixed=30.0)
    with pytest.raises(
        BudgetError,
        match=r"latency cannot fall to 0.1 of the original: .* 0\.\d+ of the original",
    ):
        choose(graph, timer, budget=Budget(latency=0.1))
    with pytest.raises(
        BudgetError,
        match=r"latency cannot fall to 2 ms \(0\.\d+ of the original's \d+\.\d+ ms\)",
    ):
        choose(graph, timer, budget=Budget(latency="2ms"))


class Cliff(Staircase):
    """Half the time as soon as anything is removed, and nothing more."""

    def cost(self, graph: pg.Graph) -> float:
        return 1.0 if cost(graph).macs == cost(self.graph).macs else 0.5


def test_where_every_step_jumps_over_the_bound_the_result_is_faster_and_says_so() -> None:
    graph = chain((64, 64))
    timer = Cliff(graph)
    result = choose(graph, timer, budget=Budget(latency=0.7), round_to=8)
    assert result.latency is not None
    assert result.latency.kept == 0.5
    assert result.plan.provenance["latency"]["note"] == (
        "0.500 of the original is faster than 0.7 of the original: "
        "the next slower choice that was measured takes 1.000"
    )
    near = choose(graph, timer, budget=Budget(latency=0.52), round_to=8)
    assert "note" not in near.plan.provenance["latency"]


def test_of_several_plans_below_the_bound_the_slowest_is_taken() -> None:
    """Of a wide group's steps the last one above the bound and the first one below it are next to one another."""
    graph = chain((64, 64))

    class Coarse(Staircase):
        """Milliseconds are the widths of all layers together in steps of a quarter."""

        def cost(self, graph: pg.Graph) -> float:
            widths = [n.channels.outputs or 0 for n in graph.nodes if n.op == "Conv"]
            return float(-(-sum(widths) // 32))

    timer = Coarse(graph)
    result = choose(graph, timer, budget=Budget(latency=0.65), round_to=8)
    assert timer.original() == 4
    assert result.latency is not None
    assert result.latency.kept == 0.5
    assert "takes 0.750" in result.plan.provenance["latency"]["note"]


def test_a_plan_that_is_below_in_one_pair_of_sessions_alone_is_no_result() -> None:
    graph = chain((64, 64))

    class Optimist(Cliff):
        """One pair of sessions shows less than several do."""

        def against(self, pruned: pg.Graph, pairs: int = 1) -> Latency:
            result = super().against(pruned, pairs)
            return replace(result, ratio=result.ratio * (1.0 if pairs == 1 else 0.6))

    with pytest.raises(
        BudgetError, match=r"stays below 0.7 of the original: .* 0.833 of the original"
    ):
        choose(graph, Optimist(graph), budget=Budget(latency=0.7), round_to=8)


def test_steps_are_reordered_where_the_next_one_jumps_over_the_bound() -> None:
    """The wide group's step is a third of the model; without the narrow group's steps before it there is no way."""
    b = Builder()
    wide = b.relu(b.conv(b.input("n", 3, 8, 8), 3, 256, k=1, name="wide"))
    narrow = b.relu(b.conv(wide, 256, 64, name="narrow"))
    graph = b.graph(b.head(narrow, 64))

    class Blocks(Staircase):
        """Milliseconds are the widths in blocks: of 64 in the wide group, of 8 in the narrow one."""

        def cost(self, graph: pg.Graph) -> float:
            widths = {
                n.name: n.channels.outputs or 0 for n in graph.nodes if n.op == "Conv"
            }
            return 4.0 * -(-widths.get("wide", 0) // 64) + -(-widths.get("narrow", 0) // 8)

    timer = Blocks(graph)
    assert timer.original() == 24
    for bound in (23 / 24, 20.5 / 24, 17 / 24, 15 / 24):
        result = choose(graph, timer, budget=Budget(latency=bound), round_to=8)
        assert result.latency is not None
        assert bound * (1 - TOLERANCE) <= result.latency.kept <= bound


def test_mixes_take_groups_from_other_plans() -> None:
    start = Plan("", {"a": (0,), "b": (1, 2)})
    others = [
        Plan("", {"a": (0, 3), "b": (1, 2)}),
        Plan("", {"a": (0, 3), "b": (1, 2, 4)}),
        Plan("", {"c": (5,)}),
    ]
    assert list(blends(start, others)) == [
        {"a": (0, 3), "b": (1, 2)},
        {"a": (), "b": (1, 2)},
        {"a": (0,), "b": (1, 2, 4)},
        {"a": (0,), "b": ()},
        {"a": (0,), "b": (1, 2), "c": (5,)},
        {"a": (0, 3), "b": (1, 2, 4)},
        {"a": (0, 3), "b": (1, 2), "c": (5,)},
        {"a": (0,), "b": (1, 2, 4), "c": (5,)},
    ]


def test_limits_hold_under_a_latency_budget() -> None:
    graph = chain()
    timer = Staircase(graph)
    result = choose(
        graph,
        timer,
        budget=Budget(latency=0.5),
        keep=["conv1"],
        ratio_for={"conv0": 0.5},
        round_to=8,
    )
    pruned = pg.apply(graph, result.plan)
    assert [pruned.node(f"conv{i}").channels.outputs for i in range(2)] == [24, 64]
    assert all(pruned.node(f"conv{i}").channels.outputs % 8 == 0 for i in (2, 3))  # type: ignore[operator]


def test_a_model_without_layers_has_no_latency_budget() -> None:
    b = Builder()
    graph = b.graph(b.relu(b.input("n", 3, 8, 8)))
    with pytest.raises(BudgetError, match="no layer that can be timed by itself"):
        choose(graph, Staircase(graph, fixed=1.0), budget=Budget(latency=0.5))

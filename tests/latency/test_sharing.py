"""A latency shared by damage: times between those that are measured, and channels that go where time is saved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import prunegraph as pg
from prunegraph.coupling.survivors import Survivors
from prunegraph.errors import BudgetError
from prunegraph.latency.bench import Bench, TimedPlan
from prunegraph.latency.cache import Cache
from prunegraph.latency.layers import LayerTable
from prunegraph.latency.measured import select_by_measuring
from prunegraph.latency.search import TOLERANCE
from prunegraph.latency.sharing import PathOfTime, correction
from prunegraph.latency.times import LayerTimes
from prunegraph.ops.cost import node_macs
from prunegraph.selection.budget import Budget
from prunegraph.selection.knapsack import allocate
from prunegraph.selection.options import SelectionOptions
from prunegraph.selection.select import Ranking, rank
from prunegraph.selection.units import Contender
from tests.builders import Builder, residual_net
from tests.latency.counting import count_instead_of_time
from tests.latency.staircase import Staircase, chain


class Lazy(Staircase):
    """Layers take what their MACs say, but one with a kernel of one element as long however narrow it is."""

    def cost(self, graph: pg.Graph) -> float:
        shapes = pg.analyze(graph).shape_info.shapes
        return sum(
            1.0
            if node.op == "Conv" and graph.weights[node.inputs[1]].shape[2:] == (1, 1)
            else node_macs(node, shapes) / 1e6
            for node in graph.nodes
        )


def network() -> pg.Graph:
    b = Builder()
    x = b.relu(b.conv(b.input("n", 3, 16, 16), 3, 64, name="conv0"))
    x = b.relu(b.conv(x, 64, 64, k=1, name="lazy"))
    x = b.relu(b.conv(x, 64, 64, name="conv2"))
    return b.graph(b.head(x, 64))


def ranking(graph: pg.Graph, bound: float = 0.5, allocation: str | None = None) -> Ranking:
    """Every group does as much damage as any other for the share of its channels that is gone."""
    coupling = pg.analyze(graph)
    choice = SelectionOptions(
        Budget(latency=bound), algorithm="l2", allocation=allocation, round_to=1
    )
    shares = [i / 64 for i in range(1, 65)]
    curve = [(share, share**2) for share in shares]
    return replace(
        rank(coupling, choice), curves={group.id: curve for group in coupling.groups}
    )


def test_between_measured_widths_times_are_as_macs_are() -> None:
    graph = chain((64, 48))
    ranked, timer, cache = ranking(graph), Staircase(graph), Cache()
    options = {
        unit.id: [{}, *({unit.id: list(range(n))} for n in range(1, 48))]
        for unit in ranked.units
    }
    table = LayerTable(ranked.coupling, timer, cache)
    times = LayerTimes(table, options)
    first, second = options
    node = graph.node("conv1")
    for chosen in ({first: 0, second: 0}, {first: 7, second: 31}, {first: 47, second: 30}):
        gone = {
            group: channels
            for unit, option in chosen.items()
            for group, channels in options[unit][option].items()
        }
        expected = LayerTable(ranked.coupling, timer, cache).net(
            node, Survivors(ranked.coupling, gone)
        )
        assert times(node, chosen) == pytest.approx(expected, rel=1e-4)
    # Ticks of both units, and what the comparison asked for itself.
    assert len([model for model in timer.timed if model.source == "conv1"]) <= 25


def test_channels_go_where_that_saves_time() -> None:
    """All save MACs, and do the same damage; narrowing `lazy` saves no time by itself."""
    graph = network()
    ranked, timer = ranking(graph), Lazy(graph)
    path = PathOfTime(ranked, Bench(ranked.coupling, timer, Cache()), "damage")
    assert not path.at(1.0).plan.remove
    plan = path.at(0.7)
    assert plan.predicted == pytest.approx(0.7, abs=0.02)
    pruned = pg.apply(graph, plan.plan)
    assert timer.cost(pruned) / timer.cost(graph) == pytest.approx(plan.predicted, rel=1e-4)
    by_macs = ranked.by("damage", Budget(macs=plan.macs))
    assert timer.cost(pg.apply(graph, by_macs)) > timer.cost(pruned)
    with pytest.raises(BudgetError):
        path.at(0.01)


def test_a_predicted_latency_is_met_beside_other_bounds() -> None:
    graph = network()
    ranked, timer = ranking(graph), Lazy(graph)
    bench = Bench(ranked.coupling, timer, Cache())
    path = PathOfTime(ranked, bench, "damage", Budget(params=0.5))
    plan = path.at(0.9)
    pruned = pg.apply(graph, plan.plan)
    assert plan.predicted <= 0.9
    params = [sum(w.size for w in each.weights.values()) for each in (graph, pruned)]
    assert params[1] <= 0.5 * params[0]


def test_a_path_without_a_plan_leaves_the_first_measurement_to_the_next() -> None:
    graph = network()
    ranked, timer = ranking(graph), Lazy(graph)
    bench = Bench(ranked.coupling, timer, Cache())
    able = PathOfTime(ranked, bench, "damage")

    class Without(PathOfTime):
        def strongest(self) -> TimedPlan:
            raise BudgetError("nothing may go")

    unable = Without(ranked, bench, "damage")
    wanted = correction(bench, [able], 0.5)
    assert correction(bench, [unable, able], 0.5) == wanted
    assert correction(bench, [unable], 0.5) == 1.0


def test_a_latency_without_times_is_not_shared() -> None:
    ranked = ranking(chain((64, 64)))
    with pytest.raises(BudgetError, match="cannot bound latency"):
        allocate(
            ranked.coupling,
            ranked.units,
            Budget(latency=0.5),
            ranked.limits,
            ranked.curves or {},
        )


@pytest.mark.parametrize("repaired", [False, True])
@pytest.mark.parametrize("best", ["damage", "damage:power=0.5", "uniform"])
def test_what_does_the_least_damage_is_taken_and_measured(
    best: str, repaired: bool
) -> None:
    """Behind the repair where that is measured: it does not matter then what was left before."""
    graph = network()
    timer = Lazy(graph)
    names = ["damage", "damage:power=0.5", "uniform"]

    def damage(contenders: Sequence[Contender]) -> list[float]:
        assert len(contenders) == len(names)
        return [0.5 if name == best else 1.0 for name in names]

    def before(contenders: Sequence[Contender]) -> list[float]:
        return [1.0 - each for each in damage(contenders)]

    measures = {"damage": before, "trial": damage} if repaired else {"damage": damage}
    ranked = ranking(graph, 0.7, "uniform")
    chosen = select_by_measuring(
        ranked.coupling,
        ranked.choice,
        timer=timer,
        cache=Cache(),
        competing=lambda _: replace(ranked, **measures),
    )
    assert chosen.latency is not None
    assert 0.7 * (1 - TOLERANCE) <= chosen.latency.kept <= 0.7
    measured = chosen.plan.provenance["repaired" if repaired else "damage"]
    assert measured == {name: 0.5 if name == best else 1.0 for name in names}


def test_prune_shares_a_latency_by_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count_instead_of_time(monkeypatch)
    monkeypatch.setenv("PRUNEGRAPH_CACHE", str(tmp_path))
    rng = np.random.default_rng(0)
    data = {"x": rng.standard_normal((32, 3, 8, 8)).astype(np.float32)}
    options: dict[str, Any] = {
        "budget": Budget(latency=0.6), "data": data, "round_to": 1, "repair": "none", "curvature": "never",
    }  # fmt: skip
    result = pg.prune(residual_net(width=16), **options)
    assert result.latency is not None
    assert 0.6 * (1 - TOLERANCE) <= result.latency.kept <= 0.6
    damage = result.plan.provenance["repaired"]
    assert set(damage) == {"damage", "damage:power=0.5", "isomorphic"}
    assert result.plan.provenance["allocation"] == min(damage, key=damage.__getitem__)
    assert result.proof is not None
    asked = pg.prune(residual_net(width=16), allocation="isomorphic", **options)
    assert not {"damage", "repaired"} & set(asked.plan.provenance)

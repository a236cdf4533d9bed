"""Criteria, allocations and budgets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import prunegraph as pg
from prunegraph.errors import BudgetError, PluginError, UnknownNameError
from prunegraph.ops.cost import cost
from prunegraph.registry import Registry
from prunegraph.selection.budget import Budget, Meter, parse_amount
from prunegraph.selection.criteria.base import CRITERIA, Context, score
from tests.builders import Builder, residual_net
from tests.oracle import random_plan


def chain(widths: tuple[int, ...] = (16, 24, 32)) -> pg.Graph:
    b = Builder()
    x, c = b.input("n", 3, 16, 16), 3
    for i, width in enumerate(widths):
        x, c = b.relu(b.conv(x, c, width, name=f"conv{i}")), width
    return b.graph(b.head(x, c))


def test_l2_by_hand() -> None:
    graph = residual_net()
    coupling = pg.analyze(graph)
    group = next(g for g in coupling.groups if g.layers == ("block1",))
    context = Context(coupling)
    output, read = (
        graph.weights[graph.node(n).inputs[1]].read() for n in ("block1", "block2")
    )
    np.testing.assert_allclose(
        CRITERIA.get("l2")(group, context),
        np.sqrt((output**2).sum((1, 2, 3)) + (read**2).sum((0, 2, 3))),
        rtol=1e-6,
    )
    np.testing.assert_allclose(
        CRITERIA.get("l1")(group, context),
        abs(output).sum((1, 2, 3)) + abs(read).sum((0, 2, 3)),
        rtol=1e-6,
    )


def test_lowest_scores_go_first() -> None:
    graph = residual_net()
    coupling = pg.analyze(graph)
    scores = score("l2", Context(coupling))
    plan = pg.select(graph, coupling, budget=pg.Budget(ratio=0.5), round_to=1)
    for group in coupling.groups:
        gone = list(plan.remove[group.id])
        kept = sorted(set(range(group.channels)) - set(gone))
        assert len(gone) == group.channels // 2
        assert scores[group.id][gone].max() <= scores[group.id][kept].min()


def test_bn_scale_by_hand_and_without_bn() -> None:
    graph = residual_net()
    coupling = pg.analyze(graph)
    group = next(g for g in coupling.groups if g.layers == ("block1",))
    gamma = next(
        n for n in graph.nodes if n.op == "BatchNormalization" and n.layer == "block1"
    ).inputs[1]
    values = abs(graph.weights[gamma].read())
    np.testing.assert_allclose(
        score("bn_scale", Context(coupling))[group.id], values, rtol=1e-6
    )
    with pytest.raises(BudgetError, match="needs BatchNormalization nodes or --data"):
        pg.select(chain(), algorithm="bn_scale", budget=pg.Budget(ratio=0.5))


def test_random_depends_on_the_seed_only() -> None:
    coupling = pg.analyze(residual_net())
    first, again, other = (score("random", Context(coupling, seed)) for seed in (1, 1, 2))
    for group in coupling.groups:
        np.testing.assert_array_equal(first[group.id], again[group.id])
        assert not np.array_equal(first[group.id], other[group.id])


@pytest.mark.parametrize("allocation", ["uniform", "global"])
@pytest.mark.parametrize("kind", ["macs", "params", "bytes"])
@pytest.mark.parametrize("share", [0.3, 0.5, 0.75, 0.9])
def test_budgets_are_met_and_used(kind: str, share: float, allocation: str) -> None:
    graph = chain((48, 64, 96))
    plan = pg.select(
        graph, budget=pg.Budget(**{kind: share}), allocation=allocation, round_to=1
    )
    before, after = cost(graph), cost(pg.apply(graph, plan))
    part = getattr(after, kind) / getattr(before, kind)
    assert share - 0.02 <= part <= share


def test_absolute_budget() -> None:
    graph = chain((48, 64, 96))
    bound = cost(graph).macs // 3
    pruned = pg.apply(graph, pg.select(graph, budget=pg.Budget(macs=bound), round_to=1))
    assert 0.98 * bound < cost(pruned).macs <= bound


def test_the_meter_says_what_the_cut_costs() -> None:
    for graph in (residual_net(), chain()):
        coupling = pg.analyze(graph)
        for seed in range(3):
            plan = random_plan(coupling, seed, 0.4)
            assert Meter(coupling).measure(plan.remove) == cost(pg.apply(graph, plan))


def test_impossible_budget_says_what_is_possible() -> None:
    with pytest.raises(BudgetError, match=r"macs cannot fall to .* are left"):
        pg.select(chain(), budget=pg.Budget(macs=0.001))


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"ratio": 1.0},
        {"ratio": -0.1},
        {"ratio": "half"},
        {"macs": "x"},
        {"macs": 0},
        {"ratio": 0.5, "macs": 0.5},
    ],
)
def test_malformed_budgets(kwargs: dict[str, object]) -> None:
    with pytest.raises(BudgetError):
        Budget(**kwargs)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "value"),
    [("2.1G", 2.1e9), ("12MB", 12e6), (0.5, 0.5), ("300k", 3e5), ("1e6", 1e6)],
)
def test_amounts(text: str | float, value: float) -> None:
    assert parse_amount(text, "macs") == pytest.approx(value)


def test_round_to_and_min_channels() -> None:
    graph = chain((20, 24, 32))
    plan = pg.select(graph, budget=pg.Budget(ratio=0.6), round_to=8)
    pruned = pg.apply(graph, plan)
    assert [pruned.node(f"conv{i}").channels.outputs for i in range(3)] == [8, 16, 16]
    plan = pg.select(graph, budget=pg.Budget(ratio=0.9), round_to=1, min_channels=10)
    pruned = pg.apply(graph, plan)
    assert [pruned.node(f"conv{i}").channels.outputs for i in range(3)] == [10, 10, 10]


def test_round_to_counts_whole_convolution_groups() -> None:
    b = Builder()
    x = b.relu(b.conv(b.input("n", 3, 8, 8), 3, 64, name="a"))
    graph = b.graph(b.head(b.relu(b.conv(x, 64, 64, group=16, name="grouped")), 64))
    pruned = pg.apply(graph, pg.select(graph, budget=pg.Budget(ratio=0.4), round_to=8))
    assert pruned.node("a").channels.outputs == 40
    assert pruned.node("grouped").attributes["group"] == 10


def test_protected_layers_and_own_ratios() -> None:
    graph = chain((16, 32, 32))
    plan = pg.select(
        graph,
        budget=pg.Budget(ratio=0.5),
        round_to=1,
        keep=["conv1"],
        ratio_for={"conv2": 0.25},
    )
    pruned = pg.apply(graph, plan)
    assert [pruned.node(f"conv{i}").channels.outputs for i in range(3)] == [8, 32, 24]
    with pytest.raises(UnknownNameError, match="did you mean 'conv1'"):
        pg.select(graph, budget=pg.Budget(ratio=0.5), keep=["conv_1"])
    with pytest.raises(BudgetError, match="conv2"):
        pg.select(graph, budget=pg.Budget(ratio=0.5), ratio_for={"conv2": 1.5})


def test_global_allocation_takes_where_it_hurts_least() -> None:
    graph = chain((16, 16, 16))
    name = graph.node("conv1").inputs[1]
    weak = graph.weights[name].read().copy()
    weak[:8] *= 1e-3
    for tensor in graph.model.graph.initializer:
        if tensor.name == name:
            tensor.raw_data = weak.tobytes()
    graph = pg.load(graph.model)
    pruned = pg.apply(
        graph,
        pg.select(graph, budget=pg.Budget(ratio=1 / 6), allocation="global", round_to=1),
    )
    assert pruned.node("conv1").channels.outputs == 8


def test_unknown_algorithm_suggests_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"did you mean 'random'\? Known: .*l2"):
        pg.select(chain(), algorithm="randon", budget=pg.Budget(ratio=0.5))


def test_a_criterion_of_ones_own_and_its_mistakes() -> None:
    @pg.criterion("test_last")
    def last(group: object, context: object) -> np.ndarray:
        return np.arange(group.channels)[::-1]  # type: ignore[attr-defined]

    @pg.criterion("test_short")
    def short(group: object, context: object) -> np.ndarray:
        return np.zeros(1)

    @pg.criterion("test_nan")
    def nan(group: object, context: object) -> np.ndarray:
        return np.full(group.channels, np.nan)  # type: ignore[attr-defined]

    graph = chain()
    plan = pg.select(graph, algorithm="test_last", budget=pg.Budget(ratio=0.5), round_to=1)
    assert plan.remove["g0"] == tuple(range(8, 16))
    for name, message in (("test_short", "one score for each"), ("test_nan", "NaN")):
        with pytest.raises(PluginError, match=f"{name}.*{message}"):
            pg.select(graph, algorithm=name, budget=pg.Budget(ratio=0.5))


def test_registering_twice_is_an_error() -> None:
    registry: Registry[int] = Registry("thing")
    registry.register("a")(1)
    with pytest.raises(PluginError, match="registered twice"):
        registry.register("a")(2)


def test_macs_behind_an_operator_without_shape_inference_count(tmp_path: Path) -> None:
    b = Builder()
    x = b.op("QuickGelu", b.linear(b.input("n", 12), 12, 32), domain="com.microsoft")
    graph = b.graph(b.linear(x, 32, 4), domains=[("com.microsoft", 1)])
    result = pg.prune(graph, tmp_path / "small.onnx", budget=pg.Budget(ratio=0.5))
    assert result.before.macs == 12 * 32 + 32 * 4
    assert result.after.macs == 12 * 16 + 16 * 4
    matches = pg.compare(pg.load(graph.model), pg.load(tmp_path / "small.onnx"), runs=1)
    assert [cost.macs for cost in matches.costs] == [result.before.macs, result.after.macs]

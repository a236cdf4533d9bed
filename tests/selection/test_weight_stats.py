"""Statistics of weights, clustered: golden figures of ALGORITHMS 5.3 and the tests of 5.10."""

from __future__ import annotations

import numpy as np
import pytest

import prunegraph as pg
from prunegraph.errors import BudgetError, OptionError
from prunegraph.graph.model import Graph
from prunegraph.selection.criteria.base import Context
from prunegraph.selection.criteria.clusters import two_gaussians, two_means
from prunegraph.selection.criteria.weight_stats import statistics, weak_channels
from tests.builders import Builder

Array = np.ndarray
TRIALS = 20


def layer(
    seed: int, spread: float, factor: float = 1.0, share: float = 0.0
) -> tuple[Array, Array]:
    """64 filters of 288 weights with log-normal scales; a share of them weaker by a factor, and which."""
    rng = np.random.default_rng(seed)
    weak = np.arange(64) < 64 * share
    scale = np.exp(spread * rng.standard_normal(64)) / np.where(weak, factor, 1)
    return rng.standard_normal((64, 288)) * scale[:, None], weak


def found(weights: Array, mode: str) -> Array:
    rng = np.random.default_rng(0)
    return weak_channels(weights.mean(axis=1), weights.std(axis=1), mode, rng)  # type: ignore[arg-type]


@pytest.mark.parametrize("spread", [0.1, 0.3, 0.6])
def test_robust_leaves_an_even_layer_whole(spread: float) -> None:
    assert not any(found(layer(seed, spread)[0], "robust").any() for seed in range(TRIALS))


@pytest.mark.parametrize(("spread", "share"), [(0.3, 0.68), (0.6, 0.76)])
def test_the_published_rule_always_splits(spread: float, share: float) -> None:
    """A documented difference: a layer without weak filters loses most of them."""
    shares = [found(layer(seed, spread)[0], "paper").mean() for seed in range(TRIALS)]
    assert min(shares) > 0
    assert np.mean(shares) == pytest.approx(share, abs=0.05)


def test_the_published_rule_takes_a_few_strong_filters_for_the_other_cluster() -> None:
    """A quarter is ten times weaker, yet far more are marked."""
    shares = [
        found(layer(seed, 0.6, 10, 0.25)[0], "paper").mean() for seed in range(TRIALS)
    ]
    assert np.mean(shares) > 0.6


@pytest.mark.parametrize(
    ("spread", "factor", "least", "right"),
    [
        (0.1, 10, 1.0, 0.99),
        (0.3, 10, 1.0, 0.97),
        (0.6, 10, 0.6, 0.95),
        (0.1, 50, 1.0, 0.99),
        (0.6, 50, 1.0, 0.97),
    ],
)
def test_robust_finds_weak_filters(
    spread: float, factor: float, least: float, right: float
) -> None:
    accepted, labels = 0, []
    for seed in range(TRIALS):
        weights, weak = layer(seed, spread, factor, 0.25)
        chosen = found(weights, "robust")
        accepted += chosen.any()
        if chosen.any():
            labels.append((chosen == weak).mean())
    assert accepted >= least * TRIALS
    assert np.mean(labels) >= right


def test_means_and_deviations_are_the_root_mean_square() -> None:
    """mu^2 + sigma^2 = |W|^2 / n, over all producers together and behind BatchNormalization."""
    b = Builder()
    x = b.input("n", 3, 8, 8)
    remaining, right = (
        b.bn(b.conv(x, 3, 12, 3, name="left"), 12),
        b.conv(x, 3, 12, 1, name="right"),
    )
    graph = b.graph(b.head(b.relu(b.op("Add", remaining, right)), 12))
    group = next(g for g in pg.analyze(graph).groups if "left" in g.layers)
    normal = next(n for n in graph.nodes if n.op == "BatchNormalization")
    scale, _, _, variance = (
        graph.weights[name].read().astype(np.float64) for name in normal.inputs[1:]
    )
    first, second = (
        graph.weights[graph.node(n).inputs[1]].read().reshape(12, -1)
        for n in ("left", "right")
    )
    rows = np.hstack([first * (scale / np.sqrt(variance + 1e-5))[:, None], second])
    means, deviations = statistics(group, Context(pg.analyze(graph)))
    np.testing.assert_allclose(
        means**2 + deviations**2, np.square(rows).mean(axis=1), rtol=1e-6
    )


def weak_quarter() -> Graph:
    """Two layers of 64; a quarter of the first one's filters is ten times weaker, those of the second are even."""
    b = Builder()
    first = layer(0, 0.1, 10, 0.25)[0]
    x = b.conv(b.input("n", 32, 6, 6), 32, 32, name="before")
    x = b.op(
        "Conv",
        b.relu(x),
        b.const(first.reshape(64, 32, 3, 3), np.float32),
        pads=[1] * 4,
        name="quarter",
    )
    x = b.conv(b.relu(x), 64, 64, name="even")
    return b.graph(b.head(b.relu(x), 64))


def test_the_ratio_of_its_own() -> None:
    graph = weak_quarter()
    groups = {g.layers[0]: g.id for g in pg.analyze(graph).groups}
    plan = pg.select(
        graph, algorithm="weight_stats", budget=pg.Budget(ratio="auto"), round_to=1
    )
    assert plan.remove == {groups["quarter"]: tuple(range(16))}
    plan = pg.select(
        graph, algorithm="weight_stats:cap=0.1", budget=pg.Budget(ratio="auto"), round_to=1
    )
    assert len(plan.remove[groups["quarter"]]) == 6
    plan = pg.select(
        graph, algorithm="weight_stats:paper", budget=pg.Budget(ratio="auto"), round_to=1
    )
    removed = {name: len(plan.remove[group]) for name, group in groups.items()}
    assert all(removed.values())
    assert removed["even"] <= 32
    assert removed["before"] <= 16
    plan = pg.select(
        graph,
        algorithm="weight_stats:paper",
        budget=pg.Budget(ratio="auto"),
        round_to=8,
        keep=["even"],
        ratio_for={"before": 0.25},
    )
    assert {name: len(plan.remove.get(group, ())) for name, group in groups.items()} == {
        "before": 8,
        "quarter": 16,
        "even": 0,
    }


def test_ranks_under_a_budget() -> None:
    graph = weak_quarter()
    group = next(g for g in pg.analyze(graph).groups if g.layers == ("quarter",))
    plan = pg.select(
        graph, algorithm="weight_stats", budget=pg.Budget(ratio=0.5), round_to=1
    )
    assert set(range(16)) < set(plan.remove[group.id])


def test_wrong_requests() -> None:
    graph = weak_quarter()
    with pytest.raises(BudgetError, match=r"'l2' only ranks channels.*'weight_stats'"):
        pg.select(graph, algorithm="l2:producer", budget=pg.Budget(ratio="auto"))
    with pytest.raises(OptionError, match="robust, paper"):
        pg.select(graph, algorithm="weight_stats:best", budget=pg.Budget(ratio="auto"))
    with pytest.raises(OptionError, match="cap"):
        pg.select(graph, algorithm="weight_stats:cap=1.5", budget=pg.Budget(ratio="auto"))


def test_two_means_finds_planted_clusters() -> None:
    rng = np.random.default_rng(0)
    points = np.vstack([rng.normal((1, 1), 0.1, (20, 2)), rng.normal((3, 0), 0.1, (10, 2))])
    centres, labels = two_means(points, rng)
    np.testing.assert_allclose(centres, [(1, 1), (3, 0)], atol=0.1)
    assert labels.tolist() == [0] * 20 + [1] * 10
    assert two_means(np.ones((5, 1)), rng)[1].tolist() == [1] * 5  # ties are strong


def test_two_gaussians_recover_their_parameters() -> None:
    rng = np.random.default_rng(0)
    points = np.append(rng.normal(0, 1, 3000), rng.normal(6, 0.5, 1000))[:, None]
    mixture = two_gaussians(points, np.asarray([[0.0], [1.0]]))
    np.testing.assert_allclose(mixture.means[:, 0], [0, 6], atol=0.1)
    assert mixture.share.mean() == pytest.approx(0.25, abs=0.01)
    assert mixture.gain > 1000
    assert (
        two_gaussians(rng.standard_normal((500, 1)), np.asarray([[-1.0], [1.0]])).gain < 6
    )

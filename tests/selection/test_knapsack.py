"""The knapsack over measured sensitivities, against brute force."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest

import prunegraph as pg
from prunegraph.coupling.coupling import Coupling
from prunegraph.errors import BudgetError
from prunegraph.ops.cost import cost
from prunegraph.selection import knapsack
from prunegraph.selection.budget import Meter
from prunegraph.selection.pieces import Pieces
from prunegraph.selection.units import Limits, collect, make_units
from tests.builders import Builder, residual_net
from tests.training.mixed import NETWORKS

Array = np.ndarray


def brute(
    errors: Sequence[Array], measure: Callable[[Sequence[int]], float], bound: float
) -> float | None:
    """The smallest sum of errors within the bound, by trying everything."""
    every = itertools.product(*(range(len(each)) for each in errors))
    return min(
        (total(errors, match) for match in every if measure(match) <= bound), default=None
    )


def total(errors: Sequence[Array], result: Sequence[int]) -> float:
    return float(sum(each[option] for each, option in zip(errors, result, strict=True)))


def rising(rng: np.random.Generator, count: int) -> Array:
    """Errors of options: none is free, no convexity."""
    return np.append(0.0, np.cumsum(rng.exponential(size=count - 1)))


@pytest.mark.parametrize("seed", range(30))
def test_exact_where_costs_add_up(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(2, 6, rng.integers(1, 6))
    costs = [np.sort(rng.uniform(0, 10, size))[::-1] for size in sizes]
    errors = [rising(rng, size) for size in sizes]
    bound = rng.uniform(0.2, 1) * sum(each[0] for each in costs)
    result = knapsack.choose(costs, errors, bound)
    best = brute(errors, lambda choice: total(costs, choice), bound)
    if best is None:
        assert result is None
    else:
        assert result is not None
        assert total(costs, result) <= bound
        assert total(errors, result) == pytest.approx(best, rel=1e-12)


def test_exact_with_integer_costs_on_the_bound() -> None:
    costs = [np.asarray([6.0, 3.0, 0.0])] * 3
    errors = [
        np.asarray([0.0, 1.0, 5.0]),
        np.asarray([0.0, 2.0, 3.0]),
        np.asarray([0.0, 4.0, 6.0]),
    ]
    assert knapsack.choose(costs, errors, 9.0) == [1, 2, 0]
    assert knapsack.choose(costs, errors, 0.0) == [2, 2, 2]
    assert knapsack.choose(costs, errors, -0.1) is None
    assert knapsack.choose([], [], 0.0) == []


def test_a_thinned_front_meets_the_bound_and_comes_close() -> None:
    rng = np.random.default_rng(0)
    costs = [np.sort(rng.uniform(0, 10, 12))[::-1] for _ in range(20)]
    errors = [rising(rng, 12) for _ in range(20)]
    bound = 0.5 * sum(each[0] for each in costs)
    thin, fine = (
        knapsack.choose(costs, errors, bound, resolution) for resolution in (200, 200_000)
    )
    assert thin is not None and fine is not None
    assert total(costs, thin) <= bound
    assert total(errors, fine) <= total(errors, thin) <= 1.05 * total(errors, fine)


@pytest.mark.parametrize("resolution", [50, 200_000])
@pytest.mark.parametrize("seed", range(8))
def test_a_front_has_the_points_that_no_cheaper_one_is_as_good_as(
    seed: int, resolution: int
) -> None:
    """Of many points most are left out before they are sorted, which changes nothing; costs and errors tie."""
    rng = np.random.default_rng(seed)
    count = 5 * knapsack.BINS
    cost, error = rng.integers(0, 9000, count) * 1e6, rng.random(count)
    error = np.round(error * (1 + 9000 / (100 + cost / 1e6)), 3)
    if seed % 2:
        error[cost < 1e9] = np.inf
    limit = float(np.quantile(cost, 0.9))
    order = np.lexsort((np.arange(count), cost))
    expected, best = [], np.nan
    for point in order[cost[order] <= limit]:
        if not expected or error[point] < best:
            expected.append(int(point))
            best = error[point]
    found = knapsack._front(cost, error, limit, resolution)
    if resolution > len(expected):
        assert found.tolist() == expected
    else:
        assert set(found.tolist()) <= set(expected) and len(found) <= resolution
        assert {expected[0], expected[-1]} <= set(found.tolist())


def chain_cost(
    rng: np.random.Generator, groups: int, options: int
) -> Callable[[Sequence[int]], float]:
    """MACs of a chain of layers with shortcuts between some: products of neighbouring widths."""
    weights = np.triu(
        rng.uniform(0, 1, (groups, groups)) * (rng.random((groups, groups)) < 0.3), 2
    )
    weights += np.diag(rng.uniform(0.5, 2, groups - 1), 1)
    ends = rng.uniform(0.2, 1, 2)

    def measure(result: Sequence[int]) -> float:
        kept = 1 - np.asarray(result) / options
        return float(kept @ weights @ kept + ends[0] * kept[0] + ends[1] * kept[-1])

    return measure


def test_coupled_costs_come_close_to_brute_force() -> None:
    ratios = []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        measure = chain_cost(rng, 4, 5)
        errors = [rising(rng, 5) for _ in range(4)]
        bound = rng.uniform(0.3, 0.8) * measure([0] * 4)
        result = knapsack.choose_coupled(measure, errors, bound)
        best = brute(errors, measure, bound)
        assert result is not None and best is not None
        assert measure(result) <= bound * (1 + 1e-9)
        ratios.append(total(errors, result) / best)
    assert min(ratios) > 1 - 1e-9
    assert np.mean(np.asarray(ratios) < 1 + 1e-9) >= 0.9
    assert np.mean(ratios) < 1.01


def test_coupled_solver_is_exact_for_costs_that_add_up() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        costs = [np.sort(rng.uniform(0, 10, 5))[::-1] for _ in range(4)]
        errors = [rising(rng, 5) for _ in range(4)]
        bound = rng.uniform(0.4, 1) * total(costs, [0] * 4)

        def measure(result: Sequence[int], costs: list[Array] = costs) -> float:
            return total(costs, result)

        best, match = (
            brute(errors, measure, bound),
            knapsack.choose_coupled(measure, errors, bound),
        )
        assert (match is None) == (best is None)
        if match is not None:
            assert total(errors, match) == pytest.approx(best, rel=1e-12)


def test_errors_between_and_beyond_measured_points() -> None:
    curve = [(0.5, 0.2), (0.25, 0.3), (0.75, 0.5)]
    shares = np.asarray([0.0, 0.125, 0.25, 0.5, 0.625, 0.75, 1.0])
    # Never falling: 0.2 after 0.3 counts as 0.3. Beyond the end the last slope, 0.8, goes on.
    np.testing.assert_allclose(
        knapsack.error_at(curve, shares), [0, 0.15, 0.3, 0.3, 0.4, 0.5, 0.7]
    )
    np.testing.assert_allclose(knapsack.error_at([], shares), 0)
    np.testing.assert_allclose(knapsack.error_at([(0.0, 0.0), (0.5, -1.0)], shares), 0)


def chain(widths: Sequence[int]) -> pg.Graph:
    b = Builder()
    x, c = b.input("n", 3, 16, 16), 3
    for i, width in enumerate(widths):
        x, c = b.relu(b.conv(x, c, width, name=f"conv{i}")), width
    return b.graph(b.head(x, c))


def allocated(
    coupling: Coupling,
    scores: Mapping[str, Array],
    budget: pg.Budget,
    limits: Limits,
    curves: Mapping[str, knapsack.Curve],
) -> Mapping[str, Array]:
    units = make_units(coupling, scores, limits)
    return knapsack.allocate(coupling, units, budget, limits, curves)


@pytest.mark.parametrize("kind", ["macs", "params", "bytes"])
def test_the_bound_is_met_and_used_and_cheap_groups_go_first(kind: str) -> None:
    graph = chain((32, 32, 32))
    coupling = pg.analyze(graph)
    scores = {group.id: np.arange(group.channels, dtype=float) for group in coupling.groups}
    costly = {
        group.layers[0]: factor
        for group, factor in zip(coupling.groups, (100.0, 1.0, 1.0), strict=True)
    }
    curves = {
        g.id: [(share, costly[g.layers[0]] * share) for share in (0.25, 0.5, 0.75)]
        for g in coupling.groups
    }
    budget = pg.Budget(**{kind: 0.5})
    remove = allocated(coupling, scores, budget, Limits(round_to=1), curves)
    pruned = pg.apply(
        graph,
        pg.Plan(
            graph.sha256, {g: tuple(int(c) for c in chosen) for g, chosen in remove.items()}
        ),
    )
    assert 0.46 <= getattr(cost(pruned), kind) / getattr(cost(graph), kind) <= 0.5
    assert pruned.node("conv0").channels.outputs == 32
    for chosen in remove.values():
        np.testing.assert_array_equal(chosen, np.arange(len(chosen)))


def test_pieces_add_up_to_what_the_meter_says() -> None:
    rng = np.random.default_rng(0)
    for graph in (chain((16, 24, 32)), residual_net(width=16)):
        coupling = pg.analyze(graph)
        meter = Meter(coupling)
        options = {
            g.id: [{g.id: np.arange(count)} for count in (0, 1, g.channels // 2)]
            for g in coupling.groups
        }
        first, *others = (g.id for g in coupling.groups)
        options[first] = [{first: np.asarray([0, 3])}]  # a ratio of its own
        if len(others) > 1:  # groups that go together are one unit
            parts = [options.pop(group) for group in others]
            options["both"] = [{**a, **b} for a, b in zip(*parts, strict=True)]
        for kind in ("macs", "params", "bytes"):
            pieces = Pieces(coupling, kind, options)
            rest = getattr(meter.original, kind) - pieces.original
            for _ in range(8):
                chosen = {
                    unit: int(rng.integers(len(each))) for unit, each in options.items()
                }
                remove = {
                    group: channels
                    for unit, option in chosen.items()
                    for group, channels in options[unit][option].items()
                }
                assert rest + pieces.measure(chosen) == getattr(meter.measure(remove), kind)
    with pytest.raises(BudgetError, match="cannot bound latency"):
        Pieces(coupling, "latency", options)


@pytest.mark.parametrize("blocks", ["alike", "own"])
@pytest.mark.parametrize("network", NETWORKS)
def test_pieces_follow_the_meter_from_choice_to_choice(network: str, blocks: str) -> None:
    """Few units change from one question to the next, as solvers ask; blocks may choose their own channels."""
    rng = np.random.default_rng(1)
    graph = NETWORKS[network](0)
    coupling = pg.analyze(graph, blocks=blocks)
    meter = Meter(coupling)
    scores = {group.id: rng.random(group.channels) for group in coupling.groups}
    units = make_units(coupling, scores, Limits(round_to=1))
    options = {
        unit.id: [collect(unit.steps[:count]) for count in range(len(unit.steps) + 1)]
        for unit in units
    }
    for kind in ("macs", "params", "bytes"):
        pieces, chosen = Pieces(coupling, kind, options), dict.fromkeys(options, 0)
        rest = getattr(meter.original, kind) - pieces.original
        for _ in range(12):
            for unit in rng.permutation(list(options))[:2]:
                chosen[unit] = int(rng.integers(len(options[unit])))
            removal = collect(
                step for unit in units for step in unit.steps[: chosen[unit.id]]
            )
            assert rest + pieces.measure(chosen) == getattr(meter.measure(removal), kind)


def test_a_ratio_is_a_share_of_all_channels() -> None:
    graph = chain((16, 32, 48))
    coupling = pg.analyze(graph)
    scores = {group.id: np.arange(group.channels, dtype=float) for group in coupling.groups}
    curves = {
        g.id: [(0.5, 0.0 if g.layers[0] == "conv2" else 1.0)] for g in coupling.groups
    }
    remove = allocated(coupling, scores, pg.Budget(ratio=0.25), Limits(round_to=8), curves)
    assert [len(remove.get(group.id, ())) for group in coupling.groups] == [0, 0, 24]


def test_protected_groups_and_bounds_out_of_reach() -> None:
    graph = chain((16, 32, 32))
    coupling = pg.analyze(graph)
    scores = {group.id: np.arange(group.channels, dtype=float) for group in coupling.groups}
    curves = {group.id: [(0.5, 1.0)] for group in coupling.groups}
    first, second, _ = (group.id for group in coupling.groups)
    limits = Limits(round_to=1, ratios={first: 0.0, second: 0.25})
    remove = allocated(coupling, scores, pg.Budget(macs=0.6), limits, curves)
    assert (len(remove.get(first, ())), len(remove[second])) == (0, 8)
    with pytest.raises(BudgetError, match=r"macs cannot fall to .* are left"):
        allocated(coupling, scores, pg.Budget(macs=0.01), limits, curves)

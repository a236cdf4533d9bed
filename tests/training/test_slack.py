"""Channels that a bound leaves room for come back, and no more."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import prunegraph as pg
from prunegraph.coupling.analysis import analyze
from prunegraph.coupling.survivors import Survivors
from prunegraph.errors import BudgetError
from prunegraph.graph.model import Graph
from prunegraph.operators import is_convolution
from prunegraph.ops.cost import cost
from prunegraph.rewriting.cut import cut
from prunegraph.runtime.data import Data
from prunegraph.selection.options import SelectionOptions
from prunegraph.selection.plan import Plan
from prunegraph.selection.select import Ranking, rank
from prunegraph.training.compression import Compression
from prunegraph.training.prune_stage import Pruning
from prunegraph.training.slack import without_slack
from tests.builders import Builder
from tests.training.test_fit import task


def branches(seed: int, trunk: int, inner: list[int]) -> Graph:
    """A stem and residual blocks: the trunk is one group, and so is the inside of every block."""
    b = Builder(seed)
    x = b.relu(b.bn(b.conv(b.input("n", 3, 8, 8), 3, trunk), trunk))
    for width in inner:
        y = b.relu(b.bn(b.conv(x, trunk, width), width))
        x = b.relu(b.op("Add", x, b.bn(b.conv(y, width, trunk), trunk)))
    return b.graph(b.head(x, trunk))


def ranked(
    graph: Graph, budget: pg.Budget, allocation: str, round_to: int, **limits: object
) -> Ranking:
    choice = SelectionOptions(budget, "l2", allocation, round_to, **limits)  # type: ignore[arg-type]
    return rank(analyze(graph), choice)


def macs_left(ranking: Ranking, gone: dict[str, set[int]]) -> int:
    """Counted on the graph that is cut."""
    remove = {group: sorted(channels) for group, channels in gone.items()}
    return cost(cut(Survivors(ranking.coupling, remove))).macs


def gone_of(plan: Plan) -> dict[str, set[int]]:
    return {group: set(channels) for group, channels in plan.remove.items()}


@settings(max_examples=25)
@given(
    seed=st.integers(0, 3),
    trunk=st.sampled_from([8, 16, 24]),
    inner=st.lists(st.sampled_from([8, 16, 20, 32]), min_size=1, max_size=3),
    share=st.floats(0.4, 0.95),
    allocation=st.sampled_from(["uniform", "global", "global:none", "isomorphic"]),
    round_to=st.sampled_from([1, 4, 8]),
)
def test_nothing_that_the_bound_leaves_room_for_is_gone(
    seed: int,
    trunk: int,
    inner: list[int],
    share: float,
    allocation: str,
    round_to: int,
) -> None:
    """Within the bound; no channels go that did not; no group's last step can come back alone."""
    graph = branches(seed, trunk, inner)
    budget = pg.Budget(macs=share)
    ranking = ranked(graph, budget, allocation, round_to)
    try:
        before = gone_of(ranking.plan(budget))
    except BudgetError:
        with pytest.raises(BudgetError):
            without_slack(ranking, budget)
        return
    after = gone_of(without_slack(ranking, budget))
    most = share * cost(graph).macs
    assert macs_left(ranking, after) <= most
    assert all(channels <= before[group] for group, channels in after.items())
    for group in ranking.coupling.groups:
        taken = [
            set(step.gone[group.id])
            for step in ranking.steps(group)
            if set(step.gone[group.id]) <= after.get(group.id, set())
        ]
        assert set().union(*taken) == after.get(group.id, set())
        if taken:
            wider = {**after, group.id: after[group.id] - taken[-1]}
            assert macs_left(ranking, wider) > most


def test_what_went_before_a_large_step_comes_back() -> None:
    """Half of the trunk saves more than was missing: inner channels that went before it stay."""
    graph = branches(0, 16, [32, 32])
    budget = pg.Budget(macs=0.6)
    ranking = ranked(graph, budget, "uniform", 8)
    plan, kept = ranking.plan(budget), without_slack(ranking, budget)
    sizes = [{g: len(channels) for g, channels in p.remove.items()} for p in (plan, kept)]
    trunk = max(ranking.coupling.groups, key=lambda group: len(group.members)).id
    assert sizes[0][trunk] == sizes[1][trunk] == 8
    assert sum(sizes[1].values()) < sum(sizes[0].values())
    whole = cost(graph).macs
    shares = [macs_left(ranking, gone_of(p)) / whole for p in (plan, kept)]
    assert shares[0] < shares[1] <= 0.6


def test_ratios_of_ones_own_and_shares_stay() -> None:
    graph = branches(0, 16, [32, 32])
    share = pg.Budget(ratio=0.5)
    ranking = ranked(graph, share, "uniform", 8)
    assert without_slack(ranking, share) == ranking.plan(share)
    first = [node.name for node in graph.nodes if is_convolution(node)][1]
    budget = pg.Budget(macs=0.6)
    given = ranked(graph, budget, "uniform", 8, ratio_for={first: 0.75})
    [group] = [g.id for g in given.coupling.groups if first in g.layers]
    assert len(without_slack(given, budget).remove[group]) == 24


@pytest.mark.parametrize("bounds", [{"params": 0.6}, {"bytes": 0.6, "macs": 0.7}])
def test_every_bound_is_met(bounds: dict[str, float]) -> None:
    graph = branches(1, 16, [32, 24])
    budget = pg.Budget(**bounds)
    ranking = ranked(graph, budget, "uniform", 8)
    plan = without_slack(ranking, budget)
    small = cost(cut(Survivors(ranking.coupling, plan.remove)))
    for kind, share in bounds.items():
        assert getattr(small, kind) <= share * getattr(cost(graph), kind)


def test_methods_that_prune_give_back() -> None:
    """`gfr` prunes by `Compression`, others by `Pruning`."""
    graph = branches(0, 16, [32, 32])
    budget, data = pg.Budget(macs=0.6), Data.of({"x": task(64)["x"]})
    most = cost(graph).macs
    plain = pg.prune(
        graph, algorithm="l2", allocation="uniform", budget=budget, round_to=8
    ).model
    results = [
        Pruning("l2", "uniform")(graph, budget, data, None, 0).model,
        Compression(data, "l2", "uniform").to_budget(graph, budget).model,
    ]
    for model in results:
        assert cost(plain).macs < cost(model).macs <= 0.6 * most

"""Branches in search, sensitivity and compress."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import prunegraph as pg
from prunegraph.coupling.branches import PREFIX
from prunegraph.depth.choose import Depth
from prunegraph.depth.ways import BranchWays
from prunegraph.errors import BudgetError, DataError, OptionError, UnknownNameError
from prunegraph.graph.model import Graph
from prunegraph.measuring.metrics import Seen, error
from prunegraph.ops.cost import cost
from prunegraph.recovery import repairs
from prunegraph.runtime.data import Data
from prunegraph.runtime.session import run, session
from prunegraph.selection.options import SelectionOptions
from prunegraph.selection.plan import make_plan
from prunegraph.selection.select import rank
from tests.depth.test_choose import images, loss, network, sums
from tests.residual_graphs import without


def ways(graph: Graph, depth: str, **options: Any) -> BranchWays:
    data = Data.of(images(40)).fit(graph)
    choice = SelectionOptions(
        pg.Budget(macs=0.5), algorithm="l2", depth=depth, round_to=1, **options
    )
    coupling = pg.analyze(graph)
    bound = repairs.find("none", data, graph)
    return BranchWays(Depth(coupling, choice, data, bound), rank(coupling, choice))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
def test_branches_go_their_part_of_the_way(share: float) -> None:
    graph = network()
    whole = cost(graph)
    for bounds in ({"macs": 0.5}, {"macs": 0.8, "params": 0.6}):
        plan = ways(graph, "auto").plan(share, pg.Budget(**bounds))
        pruned = pg.apply(graph, plan)
        for kind, bound in bounds.items():
            assert getattr(cost(pruned), kind) <= bound * getattr(whole, kind)
        assert pg.verify(graph, plan, pruned)
        assert bool(plan.branches) == (share > 0)
        assert bool(plan.remove) == (share < 1)
        alone = pg.apply(graph, make_plan(pg.analyze(graph), branches(plan)))
        saved = {k: getattr(whole, k) - getattr(cost(alone), k) for k in bounds}
        for kind, bound in bounds.items():
            assert saved[kind] >= share * (1 - bound) * getattr(whole, kind) - 1


def branches(plan: pg.Plan) -> dict[str, tuple[int, ...]]:
    return {PREFIX + name: (0,) for name in plan.branches}


def same(graph: Graph, pruned: Graph, gone: tuple[str, ...]) -> None:
    """What is left computes what the original does with zeros in the place of the branches."""
    inputs = images(16)
    names = list(graph.outputs)
    first, second = (run(session(g), inputs, names) for g in (without(graph, gone), pruned))
    for a, b in zip(first, second, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-4 * abs(a).max())


def search(graph: Graph, depth: str, **options: Any) -> pg.SearchResult:
    given: dict[str, Any] = {"tolerance": 0.05, "metric": "error", "repair": "none"}
    return pg.search(
        graph,
        data=images(64),
        depth=depth,
        method="bisection",
        algorithm="l2",
        rotate="never",
        round_to=1,
        jobs=1,
        **{**given, **options},
    )


def test_a_search_by_branches_alone_drops_those_that_give_nothing() -> None:
    graph = network()
    found = search(graph, "only")
    plan = found.result.plan
    assert set(plan.branches) == {sums(graph)[1], sums(graph)[3]}
    assert not plan.remove
    assert found.trace.best.branches == 2
    assert found.result.proof is not None
    same(graph, found.model, plan.branches)


def test_a_search_tries_branches_beside_channels() -> None:
    """Where two branches give nothing, going without them saves more within the tolerance than channels do."""
    graph = network()
    never, auto = search(graph, "never"), search(graph, "auto")
    assert not never.result.plan.branches
    assert auto.result.plan.branches
    assert cost(auto.model).macs < cost(never.model).macs
    assert loss(graph, auto.model) <= 0.1
    assert all(each.branches == 0 for each in never.trace.candidates)
    [record] = {each["branches"] for each in [auto.trace.to_json("m.onnx")["best"]]}
    assert record == len(auto.result.plan.branches)


def test_the_second_grid_keeps_the_branches_that_went() -> None:
    graph = network()
    first, second = search(graph, "auto"), search(graph, "auto", stages=True)
    assert set(second.result.plan.branches) == set(first.result.plan.branches)
    assert cost(second.model).macs <= cost(first.model).macs
    tried = [each for each in second.trace.candidates if each.offsets]
    assert tried
    assert {each.branches for each in tried} == {len(first.result.plan.branches)}
    assert second.result.proof is not None


def test_a_search_where_no_branch_may_go_is_one_of_channels() -> None:
    graph = network()
    lasts = [branch.layers[-1] for branch in pg.analyze(graph).branches]
    auto, never = (search(graph, depth, keep=lasts) for depth in ("auto", "never"))
    assert auto.result.plan.remove == never.result.plan.remove
    with pytest.raises(BudgetError, match="no residual branch"):
        search(graph, "only", keep=lasts)


def test_what_a_search_refuses() -> None:
    graph = network()
    with pytest.raises(BudgetError, match="needs a bound"):
        search(graph, "auto", by="ratio")
    with pytest.raises(UnknownNameError, match="sometimes"):
        search(graph, "sometimes")


def sensitivity(graph: Graph, depth: str) -> pg.Sensitivity:
    return pg.sensitivity(
        graph, data=images(64), depth=depth, algorithm="l2", ratios=[0.5], jobs=1
    )


def test_sensitivity_lists_branches() -> None:
    graph = network()
    result = sensitivity(graph, "auto")
    assert [branch.name for branch in result.branches] == sums(graph)
    assert result.curves == sensitivity(graph, "never").curves
    inputs = images(64)
    for branch, found in zip(result.branches, pg.analyze(graph).branches, strict=True):
        masked = without(graph, [branch.name])
        names = list(graph.outputs)
        expected = dict(zip(names, run(session(graph), inputs, names), strict=True))
        actual = dict(zip(names, run(session(masked), inputs, names), strict=True))
        seen = [Seen(inputs, expected, actual)]
        assert branch.error == pytest.approx(error(seen), rel=1e-3)
        assert branch.layers == found.layers
        plan = make_plan(pg.analyze(graph), {found.id: (0,)})
        pruned = cost(pg.apply(graph, plan))
        assert (branch.macs, branch.params) == (pruned.macs, pruned.params)


def test_sensitivity_of_branches_alone() -> None:
    graph = network()
    result = sensitivity(graph, "only")
    assert not result.curves
    assert result.branches == sensitivity(graph, "auto").branches
    assert not sensitivity(graph, "never").branches


def compress(graph: Graph, depth: str, **options: Any) -> Any:
    return pg.compress(
        graph,
        data=images(64),
        depth=depth,
        algorithm="l2",
        round_to=1,
        repair="none",
        **{"macs": 0.6, **options},
    )


def test_compress_takes_branches_among_its_mixes() -> None:
    graph = network()
    never, auto = compress(graph, "never"), compress(graph, "auto")
    assert not any(mix.depth for mix in never.mixes)
    assert {(mix.pruned, mix.depth) for mix in auto.mixes if mix.depth} == {
        (1.0, 0.5),
        (1.0, 1.0),
        (0.5, 1.0),
    }
    assert auto.plan.branches and auto.chosen.depth
    assert auto.after.macs <= 0.6 * auto.before.macs
    assert auto.chosen.error < min(mix.error for mix in never.mixes)
    assert auto.proof is not None
    actions = {row.name: row for row in auto.layers}
    for name in auto.plan.branches:
        branch = pg.analyze(graph).branches_by_id[PREFIX + name]
        for layer in branch.layers:
            assert actions[layer].action == "drop"
            assert actions[layer].macs[1] == actions[layer].params[1] == 0
            assert name in actions[layer].reason
    assert auto.to_json()["branches"] == list(auto.plan.branches)


def test_compress_by_branches_alone() -> None:
    graph = network()
    result = compress(graph, "only", method="prune", macs=0.65)
    assert set(result.plan.branches) == {sums(graph)[1], sums(graph)[3]}
    assert not result.plan.remove
    same(graph, result.model, result.plan.branches)


def test_what_compress_refuses() -> None:
    graph = network()
    with pytest.raises(OptionError, match="drops no branches"):
        compress(graph, "auto", method="decompose")
    with pytest.raises(DataError, match="give --data"):
        pg.compress(graph, macs=0.5, depth="auto")
    with pytest.raises(UnknownNameError, match="sometimes"):
        compress(graph, "sometimes")

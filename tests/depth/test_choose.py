"""Depth and width in one budget: what is chosen, and what is refused."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import onnx
import pytest

import prunegraph as pg
from prunegraph.depth import choose as module
from prunegraph.depth.choose import Depth
from prunegraph.errors import BudgetError, DataError, UnknownNameError
from prunegraph.graph.model import Graph
from prunegraph.graph.onnx_io import from_model
from prunegraph.latency.cache import Cache
from prunegraph.measuring.metrics import Seen, error
from prunegraph.ops.cost import cost
from prunegraph.recovery import repairs
from prunegraph.runtime.data import Data
from prunegraph.runtime.session import run, session
from prunegraph.selection.options import SelectionOptions
from tests.builders import Builder
from tests.latency.test_latency import Staircase
from tests.residual_graphs import Residuals


def network(quiet: tuple[int, ...] = (1, 3), blocks: int = 5) -> Graph:
    """Blocks of which some give hardly anything to their sums."""
    net = Residuals(7, width=8)
    for _ in range(blocks):
        net.grow("activated", False)
    model = net.graph().model
    lasts = [pg.analyze(from_model(model)).branches[i].layers[-1] for i in quiet]
    for node in model.graph.node:
        if node.name in lasts:
            for tensor in model.graph.initializer:
                if tensor.name in node.input[1:]:
                    values = onnx.numpy_helper.to_array(tensor) * np.float32(0.01)
                    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    return from_model(model)


def images(count: int = 200) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {"x": rng.standard_normal((count, 3, 8, 8)).astype(np.float32)}


def prune(graph: Graph, depth: str, **options: Any) -> pg.PruneResult:
    return pg.prune(graph, data=images(), depth=depth, round_to=1, **options)


def loss(graph: Graph, other: Graph) -> float:
    inputs = images(300)
    first, second = (
        dict(zip(graph.outputs, run(session(each), inputs), strict=True))
        for each in (graph, other)
    )
    return error([Seen(inputs, first, second)])


def sums(graph: Graph) -> list[str]:
    return [branch.name for branch in pg.analyze(graph).branches]


def test_depth_alone_takes_what_does_least_until_the_budget_is_met() -> None:
    graph = network()
    result = prune(graph, "only", budget=pg.Budget(macs=0.65), repair="none")
    assert set(result.plan.branches) == {sums(graph)[1], sums(graph)[3]}
    assert not result.plan.remove
    assert cost(result.model).macs <= 0.65 * cost(graph).macs
    assert result.proof is not None
    assert loss(graph, result.model) < 0.05


def test_depth_alone_takes_no_more_than_it_must() -> None:
    graph = network()
    assert len(prune(graph, "only", budget=pg.Budget(params=0.85)).plan.branches) == 1
    assert prune(graph, "only", budget=pg.Budget(macs=1.0)).plan.is_empty


def test_several_bounds_are_all_met() -> None:
    graph = network()
    for mode in ("only", "auto"):
        result = prune(graph, mode, budget=pg.Budget(macs=0.9, params=0.6))
        assert result.after.params <= 0.6 * result.before.params
        assert result.after.macs <= 0.9 * result.before.macs
        assert result.plan.branches or mode == "auto"


def test_depth_meets_what_width_alone_cannot() -> None:
    graph = network()
    options: dict[str, Any] = {"budget": pg.Budget(macs=0.6), "round_to": 8}
    with pytest.raises(BudgetError, match="macs cannot fall"):
        pg.prune(graph, data=images(), ranks="never", **options)
    result = pg.prune(graph, data=images(), depth="auto", **options)
    assert result.after.macs <= 0.6 * result.before.macs
    assert {sums(graph)[1], sums(graph)[3]} <= set(result.plan.branches)
    tried = {
        each["branches"]: each["error"] for each in result.plan.provenance["depth_tried"]
    }
    assert min(tried, key=lambda count: tried[count]) == len(result.plan.branches)
    assert 0 not in tried


def test_a_plan_is_replayed() -> None:
    graph = network()
    result = prune(graph, "auto", budget=pg.Budget(macs=0.5), repair="none")
    plan = pg.Plan.from_json(result.plan.to_json())
    again = pg.apply(graph, plan).model.SerializeToString(deterministic=True)
    assert again == result.model.model.SerializeToString(deterministic=True)


def test_where_every_branch_matters_width_alone_may_be_best() -> None:
    """What is tried includes no branch at all, so the result is never worse there than width alone."""
    graph = network(())
    result = prune(graph, "auto", budget=pg.Budget(macs=0.9))
    tried = {
        each["branches"]: each["error"] for each in result.plan.provenance["depth_tried"]
    }
    assert tried[len(result.plan.branches)] <= tried[0]


@pytest.mark.parametrize("mode", ["auto", "only"])
def test_a_latency_is_met(mode: str) -> None:
    graph = network()
    timer = Staircase(graph, stair=8, fixed=0.02)
    choice = SelectionOptions(
        pg.Budget(latency=0.6), algorithm="l2", depth=mode, round_to=1
    )
    data = Data.of(images()).fit(graph)
    depth = Depth(
        pg.analyze(graph),
        choice,
        data,
        repairs.find(None, data, graph),
        timer=timer,
        cache=Cache(),
    )

    def widths(coupling: pg.Coupling) -> Any:
        return module.Selected(
            pg.select(graph, coupling, budget=pg.Budget(macs=0.5), round_to=1)
        )

    plan = module.choose(depth, widths).plan
    assert timer.against(pg.apply(graph, plan)).kept <= 0.6
    assert plan.branches


def test_a_latency_may_be_met_by_branches_alone_where_widths_cannot() -> None:
    graph = network()
    timer = Staircase(graph, stair=8, fixed=0.02)
    choice = SelectionOptions(
        pg.Budget(latency=0.6), algorithm="l2", depth="auto", round_to=1
    )
    data = Data.of(images()).fit(graph)
    bound = repairs.find(None, data, graph)
    depth = Depth(pg.analyze(graph), choice, data, bound, timer=timer, cache=Cache())

    def widths(coupling: pg.Coupling) -> Any:
        raise BudgetError("no widths meet it")

    plan = module.choose(depth, widths).plan
    assert plan.branches and not plan.remove
    assert timer.against(pg.apply(graph, plan)).kept <= 0.6


def test_what_depth_cannot_be_chosen_for() -> None:
    graph = network()
    with pytest.raises(BudgetError, match="needs a bound"):
        prune(graph, "auto", budget=pg.Budget(ratio=0.5))
    with pytest.raises(DataError, match="give --data"):
        pg.prune(graph, depth="auto", budget=pg.Budget(macs=0.5))
    with pytest.raises(UnknownNameError, match="sometimes"):
        prune(graph, "sometimes", budget=pg.Budget(macs=0.5))
    with pytest.raises(BudgetError, match="macs cannot fall"):
        prune(graph, "only", budget=pg.Budget(macs=0.01))


def test_the_least_that_depth_and_width_leave_is_what_is_said() -> None:
    """A bound just above it is met, one below is not."""
    graph = network()
    with pytest.raises(
        BudgetError, match=r"macs cannot fall to .* ([\d,]+) are left"
    ) as seen:
        prune(graph, "auto", budget=pg.Budget(macs=1e-4))
    found = re.search(r"may go ([\d,]+) are left", str(seen.value))
    assert found is not None
    least = int(found[1].replace(",", ""))
    assert prune(graph, "auto", budget=pg.Budget(macs=float(least))).after.macs == least


def test_a_network_without_branches() -> None:
    b = Builder(0)
    x = b.relu(b.conv(b.input("n", 3, 8, 8), 3, 8))
    graph = b.graph(b.head(b.relu(b.conv(x, 8, 8)), 8))
    with pytest.raises(BudgetError, match="no residual branch"):
        prune(graph, "only", budget=pg.Budget(macs=0.5))
    result = prune(graph, "auto", budget=pg.Budget(macs=0.5))
    assert result.after.macs <= 0.5 * result.before.macs


def test_a_layer_that_is_kept_keeps_its_branch() -> None:
    graph = network()
    branch = pg.analyze(graph).branches[1]
    result = prune(graph, "only", budget=pg.Budget(macs=0.65), keep=[branch.layers[0]])
    assert branch.name not in result.plan.branches
    assert result.plan.branches


def test_provenance_says_nothing_of_depth_that_was_not_asked_for() -> None:
    result = prune(network(), "never", budget=pg.Budget(macs=0.5))
    assert "depth" not in result.plan.provenance

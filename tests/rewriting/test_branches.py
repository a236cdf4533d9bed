"""Branches taken out: the graph computes what it computes with zeros in their place."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import prunegraph as pg
from prunegraph.coupling.branches import Branch
from prunegraph.coupling.coupling import Coupling
from prunegraph.errors import ExactnessError
from prunegraph.execution import ExecutionOptions, execute
from prunegraph.graph.model import Graph
from prunegraph.ops.cost import cost
from prunegraph.recovery.repairs import find
from prunegraph.rewriting import branches as module
from prunegraph.selection.budget import Meter
from prunegraph.selection.plan import Plan, make_plan
from tests.builders import Builder, residual_net
from tests.oracle import outputs
from tests.residual_graphs import Residuals, draw_residuals, without

MANY = settings(max_examples=50, deadline=None)


def plan_without(coupling: Coupling, seed: int, channels: float = 0.0) -> Plan:
    """A plan that drops a random part of the branches, at least one, and a share of every group's channels."""
    rng = np.random.default_rng(seed)
    chosen = [b.id for b in coupling.branches if rng.random() < 0.6]
    chosen = chosen or [b.id for b in coupling.branches[:1]]
    remove = {
        g.id: rng.permutation(g.channels)[: int(g.channels * channels)]
        for g in coupling.groups
    }
    return make_plan(coupling, {**remove, **dict.fromkeys(chosen, (0,))})


def same(first: Graph, second: Graph) -> None:
    for a, b in zip(outputs(first), outputs(second), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * max(abs(a).max(), 1e-6))


@MANY
@given(draw_residuals(), st.integers(0, 2**16))
def test_a_dropped_branch_equals_the_zeroed_one(graph: Graph, seed: int) -> None:
    plan = plan_without(pg.analyze(graph), seed)
    pruned = pg.apply(graph, plan)
    same(without(graph, plan.branches), pruned)
    assert pruned.outputs == graph.outputs


@MANY
@given(draw_residuals(), st.integers(0, 2**16))
def test_branches_and_channels_are_proved_together(graph: Graph, seed: int) -> None:
    plan = plan_without(pg.analyze(graph), seed, 0.5)
    proof = pg.verify(graph, plan, pg.apply(graph, plan))
    assert proof.relative <= 1e-4


@settings(MANY, max_examples=25)
@given(draw_residuals(), st.integers(0, 2**16))
def test_the_cost_is_known_beforehand(graph: Graph, seed: int) -> None:
    coupling = pg.analyze(graph)
    plan = plan_without(coupling, seed, 0.5)
    assert Meter(coupling).measure(plan.removal) == cost(pg.apply(graph, plan))


@settings(MANY, max_examples=25)
@given(draw_residuals(), st.integers(0, 2**16))
def test_nothing_of_a_dropped_branch_is_left(graph: Graph, seed: int) -> None:
    coupling = pg.analyze(graph)
    plan = plan_without(coupling, seed)
    names = {node.name for node in pg.apply(graph, plan).nodes}
    for branch in coupling.branches:
        if branch.name in plan.branches:
            assert branch.name not in names
            assert names.isdisjoint(branch.layers)


@settings(MANY, max_examples=12)
@given(draw_residuals(), st.integers(0, 2**16))
def test_a_plan_without_its_cuts_means_the_same(graph: Graph, seed: int) -> None:
    plan = plan_without(pg.analyze(graph), seed, 0.5)
    short = {k: v for k, v in plan.to_json().items() if k != "cuts"}
    pruned = pg.apply(graph, pg.Plan.from_json(short))
    assert pruned.model.SerializeToString(deterministic=True) == pg.apply(
        graph, pg.Plan.from_json(plan.to_json())
    ).model.SerializeToString(deterministic=True)


def test_values_keep_the_names_of_what_they_stand_for() -> None:
    """Of blocks with a ReLU behind the sum, one ReLU is left, and it makes what the last one made."""
    net = Residuals(1)
    for _ in range(4):
        net.grow("activated", False)
    graph = net.graph()
    coupling = pg.analyze(graph)
    chosen = coupling.branches[1:3]
    pruned = pg.apply(graph, make_plan(coupling, {b.id: (0,) for b in chosen}))
    relus = sum(node.op == "Relu" for node in pruned.nodes)
    assert relus == sum(node.op == "Relu" for node in graph.nodes) - 2 * 2
    made = {value for node in pruned.nodes for value in node.outputs}
    assert chosen[1].output in made
    assert chosen[0].output not in made
    same(without(graph, [b.name for b in chosen]), pruned)


def test_a_clamp_that_differs_stays() -> None:
    b = Builder(0)
    x = b.relu(b.conv(b.input("n", 3, 8, 8), 3, 6))
    y = b.op("Add", x, b.conv(x, 6, 6))
    z = b.op("Clip", y, b.const(0.1, np.float32), b.const(0.5, np.float32))
    graph = b.graph(z)
    coupling = pg.analyze(graph)
    pruned = pg.apply(graph, make_plan(coupling, {coupling.branches[0].id: (0,)}))
    assert [node.op for node in pruned.nodes] == ["Conv", "Relu", "Clip"]
    same(without(graph, [coupling.branches[0].name]), pruned)


@pytest.mark.parametrize("reads_stream", [False, True])
def test_a_sum_that_is_an_output_keeps_its_name(reads_stream: bool) -> None:
    b = Builder(0)
    x = b.conv(b.input("n", 3, 8, 8), 3, 6)
    y = b.op("Add", x, b.conv(b.relu(x), 6, 6))
    graph = b.graph(y, *([b.op("Sigmoid", x)] if reads_stream else []), b.relu(y))
    coupling = pg.analyze(graph)
    plan = make_plan(coupling, {coupling.branches[0].id: (0,)})
    pruned = pg.apply(graph, plan)
    same(without(graph, plan.branches), pruned)
    assert pg.verify(graph, plan, pruned).relative <= 1e-6


def test_the_model_input_may_be_the_stream() -> None:
    b = Builder(0)
    x = b.input("n", 3, 8, 8)
    graph = b.graph(b.relu(b.op("Add", x, b.conv(x, 3, 3))))
    coupling = pg.analyze(graph)
    plan = make_plan(coupling, {coupling.branches[0].id: (0,)})
    pruned = pg.apply(graph, plan)
    assert [node.op for node in pruned.nodes] == ["Relu"]
    assert pg.verify(graph, plan, pruned).relative == 0


def test_what_is_inside_a_dropped_branch_is_not_cut() -> None:
    coupling = pg.analyze(residual_net())
    [branch] = coupling.branches
    remove = {group.id: [0, 1] for group in coupling.groups}
    plan = make_plan(coupling, {**remove, branch.id: (0,)})
    assert [coupling.group(name).layers for name in plan.remove] == [("stem", "block2")]
    assert {cut.node for cut in plan.cuts}.isdisjoint(branch.layers)


def test_branches_inside_a_dropped_one_are_left_out_of_the_plan() -> None:
    net = Residuals(0)
    net.grow("nested", False)
    coupling = pg.analyze(net.graph())
    plan = make_plan(coupling, {b.id: (0,) for b in coupling.branches})
    assert plan.branches == (coupling.branches[1].name,)


def test_a_branch_between_integers() -> None:
    """The stream and the branch read copies of the same codes, and the sum is rounded again."""
    b = Builder(0)
    fine, coarse = b.const(0.02, np.float32), b.const(0.05, np.float32)
    zero = b.const(0, np.int8)
    x = b.conv(b.input("n", 3, 8, 8), 3, 6)
    codes = b.op("QuantizeLinear", x, fine, zero)
    first, second = (b.op("DequantizeLinear", codes, fine, zero) for _ in range(2))
    y = b.op("Add", b.conv(second, 6, 6), first)
    y = b.op("QuantizeLinear", y, coarse, zero)
    graph = b.graph(b.op("DequantizeLinear", y, coarse, zero))
    coupling = pg.analyze(graph)
    plan = make_plan(coupling, {coupling.branches[0].id: (0,)})
    pruned = pg.apply(graph, plan)
    assert pg.verify(graph, plan, pruned).relative == 0
    assert sum(node.op == "Conv" for node in pruned.nodes) == 1


def test_a_branch_of_half_floats() -> None:
    b = Builder(0)
    x = b.op("Cast", b.input("n", 8), to=10)
    weights = [b.const(b.rng.standard_normal((8, 8)) / 3, np.float16) for _ in range(3)]
    x = b.op("MatMul", x, weights[0])
    y = b.op("MatMul", b.op("Relu", b.op("MatMul", x, weights[1])), weights[2])
    graph = b.graph(b.op("Cast", b.op("Add", x, y), to=1))
    coupling = pg.analyze(graph)
    plan = make_plan(coupling, {coupling.branches[0].id: (0,)})
    assert pg.verify(graph, plan, pg.apply(graph, plan)).relative <= 2e-2


def test_a_branch_that_breaks_the_proof_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Residuals(3)
    net.grow("plain", False)
    net.grow("plain", True)
    graph = net.graph()
    coupling = pg.analyze(graph)
    first, second = coupling.branches
    plan = make_plan(coupling, {first.id: (0,), second.id: (0,)})
    right = module._slots

    def wrong(graph: Graph, branches: Sequence[Branch]) -> dict[int, int]:
        slots = right(graph, branches)
        add = graph.producer[second.output]
        return {**slots, add: 1 - slots[add]} if add in slots else slots

    monkeypatch.setattr(module, "_slots", wrong)
    how = ExecutionOptions(find("none", None, graph))
    result = execute(coupling, plan, None, how)
    assert result.left_out == (second.id,)
    assert result.plan.branches == (first.name,)
    assert result.proof is not None


@pytest.mark.parametrize("broken", ["another branch", "no branch", "the stream"])
def test_a_wrong_drop_is_noticed(monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    net = Residuals(3)
    net.grow("plain", False)
    net.grow("activated", True)
    graph = net.graph()
    coupling = pg.analyze(graph)
    first, second = coupling.branches
    plan = make_plan(coupling, {first.id: (0,)})

    def other(self: object) -> dict[int, int]:
        return {
            "another branch": {second.add: second.slot},
            "no branch": {},
            "the stream": {first.add: 1 - first.slot},
        }[broken]

    monkeypatch.setattr(module, "_slots", lambda graph, branches: other(None))
    with pytest.raises(ExactnessError):
        pg.verify(graph, plan, pg.apply(graph, plan))

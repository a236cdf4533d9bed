"""Branches and channels in one allocation."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import pytest

import prunegraph as pg
from prunegraph.coupling.branches import Branch
from prunegraph.depth.candidates import BranchCandidates
from prunegraph.graph.model import Graph
from prunegraph.graph.onnx_io import from_model
from prunegraph.ops.cost import cost
from prunegraph.pipeline import competing
from prunegraph.runtime.data import Data
from prunegraph.runtime.division import divided
from prunegraph.runtime.session import run_values
from prunegraph.runtime.statistics import Statistics
from prunegraph.selection import knapsack
from prunegraph.selection.budget import Meter
from prunegraph.selection.options import SelectionOptions
from prunegraph.selection.plan import make_plan
from prunegraph.selection.select import Ranking
from prunegraph.selection.units import Limits, branch_unit, make_units
from prunegraph.tuning.damage import Damage
from tests.depth.test_choose import images, loss, network, sums
from tests.residual_graphs import Residuals


def ranking(graph: Graph, macs: float) -> Ranking:
    choice = SelectionOptions(pg.Budget(macs=macs), round_to=8, ranks="never")
    data = Data.of(images()).fit(graph)
    statistics = Statistics(graph, data)
    return competing(pg.analyze(graph), choice, statistics, None, "least-squares")


@pytest.mark.parametrize("macs", [0.65, 0.6, 0.3])
def test_candidates_meet_the_budget_and_leave_out_what_gives_nothing(macs: float) -> None:
    graph = network()
    ranked = ranking(graph, macs)
    found = BranchCandidates(ranked, ranked.coupling.branches)(pg.Budget(macs=macs))
    quiet = {sums(graph)[1], sums(graph)[3]}
    assert found
    for candidate in found.values():
        plan = make_plan(ranked.coupling, candidate.removal)
        pruned = pg.apply(graph, plan)
        assert cost(pruned).macs <= macs * cost(graph).macs
        assert pg.verify(graph, plan, pruned)
        assert quiet <= set(plan.branches)


def test_prune_compares_them_with_the_numbers_of_branches() -> None:
    graph = network()
    result = pg.prune(
        graph, data=images(), budget=pg.Budget(macs=0.6), depth="auto", round_to=8
    )
    assert {sums(graph)[1], sums(graph)[3]} <= set(result.plan.branches)
    tried = {
        each["branches"]: each["error"] for each in result.plan.provenance["depth_tried"]
    }
    assert tried[len(result.plan.branches)] == min(tried.values())
    assert result.proof is not None
    assert loss(graph, result.model) < 0.05


def without(graph: Graph, mean: np.ndarray, branch: Branch) -> Graph:
    """The graph in which a sum reads a constant in the place of its branch."""
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    model.graph.initializer.append(onnx.numpy_helper.from_array(mean, "mean"))
    add = next(node for node in model.graph.node if node.name == branch.name)
    add.input[branch.slot] = "mean"
    return from_model(model)


def test_the_damage_of_a_branch_is_what_its_mean_leaves() -> None:
    net = Residuals(5)
    for form in ("plain", "activated", "squeezed"):
        net.grow(form, False)
    graph = net.graph()
    coupling = pg.analyze(graph)
    fitted, held = divided(Statistics(graph, Data.of(images()).fit(graph)))
    damage = Damage(coupling, fitted, held)
    removals = [{branch.id: (0,)} for branch in coupling.branches]
    values = damage.measure(removals)
    numbers = fitted.data
    inputs = {
        name: np.concatenate([b[name] for b in numbers.batches(graph, 16)])
        for name in graph.inputs
    }
    kept = {
        name: np.concatenate([b[name] for b in held.batches(graph, 5)])
        for name in graph.inputs
    }
    for branch, value in zip(coupling.branches, values, strict=True):
        read = graph.nodes[branch.add].inputs[branch.slot]
        mean = run_values(graph, inputs, [read])[read].mean(axis=(0, 2, 3), keepdims=True)
        names = list(graph.outputs)
        [expected] = run_values(graph, kept, names).values()
        [actual] = run_values(without(graph, mean, branch), kept, names).values()
        variation = ((expected - expected.mean(axis=0)) ** 2).sum()
        assert value == pytest.approx(
            ((actual - expected) ** 2).sum() / variation, rel=1e-3
        )


def test_a_branch_and_channels_share_a_bound_as_well_as_can_be() -> None:
    """Against all choices of branches and of widths, where errors are what the curves say."""
    net = Residuals(3, width=4)
    for _ in range(2):
        net.grow("plain", False)
    graph = net.graph()
    coupling = pg.analyze(graph)
    rng = np.random.default_rng(0)
    scores = {group.id: rng.random(group.channels) for group in coupling.groups}
    units = [
        *make_units(coupling, scores, Limits(round_to=2)),
        *map(branch_unit, coupling.branches),
    ]
    meter = Meter(coupling)
    for seed in range(6):
        rng = np.random.default_rng(seed)
        curves = {u.id: [(s.share, s.share * rng.random()) for s in u.steps] for u in units}
        curves = {
            u: [(s, max(e for t, e in c if t <= s)) for s, e in c]
            for u, c in curves.items()
        }
        bound = rng.uniform(0.3, 0.8)
        options = [range(len(unit.steps) + 1) for unit in units]

        def errors(choice: tuple[int, ...], curves=curves) -> float:
            return sum(
                curves[u.id][k - 1][1] for u, k in zip(units, choice, strict=True) if k
            )

        def removal(choice: tuple[int, ...]) -> dict[str, np.ndarray]:
            steps = (s for u, k in zip(units, choice, strict=True) for s in u.steps[:k])
            return knapsack.collect(steps)

        best = min(
            errors(choice)
            for choice in itertools.product(*options)
            if meter.measure(removal(choice)).macs <= bound * meter.original.macs
        )
        starts = [[branch.id] for branch in coupling.branches]
        chosen = knapsack.allocate(
            coupling, units, pg.Budget(macs=bound), Limits(round_to=2), curves, starts
        )
        assert meter.measure(chosen).macs <= bound * meter.original.macs
        counts = tuple(
            sum(
                set(g) <= set(map(int, chosen.get(next(iter(s.gone)), ())))
                for s in u.steps
                for g in s.gone.values()
            )
            for u in units
        )
        assert errors(counts) <= 1.35 * best + 1e-9

"""Least squares where branches went: the layer before one makes up for it."""

from __future__ import annotations

import numpy as np

import prunegraph as pg
from prunegraph.measuring.metrics import Seen, error
from prunegraph.recovery.repairs import find
from prunegraph.rewriting.cut import cut
from prunegraph.runtime.data import Data
from prunegraph.runtime.session import run_values
from prunegraph.selection.plan import make_plan, survivors
from tests.residual_graphs import Residuals


def images(count: int, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"x": rng.standard_normal((count, 3, 8, 8)).astype(np.float32)}


def test_the_layer_before_a_branch_is_fitted_to_the_sum_behind_it() -> None:
    net = Residuals(2)
    for _ in range(3):
        net.grow("activated", False)
    graph = net.graph()
    coupling = pg.analyze(graph)
    before, gone, _ = coupling.branches
    plan = make_plan(coupling, {gone.id: (0,)})
    remaining, data = survivors(coupling, plan), Data.of(images(40, 0))
    pruned = cut(remaining)
    repaired = find("least-squares", data, graph)(remaining, pruned, data, lambda _: None)

    def loss(model: pg.Graph) -> float:
        """Error of the sum behind the branch, of which a ReLU lets what is positive through."""
        inputs = images(40, 1)
        first, second = (
            {
                gone.output: np.maximum(
                    run_values(each, inputs, [gone.output])[gone.output], 0
                )
            }
            for each in (graph, model)
        )
        return error([Seen(inputs, first, second)])

    last = before.layers[-1]
    weights = [
        each.weights[each.node(last).inputs[1]].read() for each in (pruned, repaired)
    ]
    assert not np.array_equal(*weights)
    assert loss(repaired) < 0.8 * loss(pruned)
    first = coupling.graph.layers[0].name
    np.testing.assert_array_equal(
        graph.weights[graph.node(first).inputs[1]].read(),
        repaired.weights[repaired.node(first).inputs[1]].read(),
    )

"""A network with gates computes what the networks without the branches compute."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import prunegraph as pg
from prunegraph.depth.gates import GatedNetwork
from prunegraph.graph.model import Graph
from prunegraph.graph.onnx_io import from_model
from prunegraph.measuring.metrics import Seen, error
from prunegraph.runtime.data import Data
from prunegraph.runtime.session import run, run_values, session
from prunegraph.selection.plan import make_plan
from tests.residual_graphs import Residuals


def network(*forms: str) -> Graph:
    net = Residuals(5)
    for form in forms:
        net.grow(form, False)
    return net.graph()


def images(count: int = 7) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {"x": rng.standard_normal((count, 3, 8, 8)).astype(np.float32)}


def loss(graph: Graph, other: Graph, inputs: dict[str, np.ndarray]) -> float:
    first, second = (
        dict(zip(each.outputs, run(session(each), inputs), strict=True))
        for each in (graph, other)
    )
    return error([Seen(inputs, first, second)])


@pytest.mark.parametrize("kept", [2**28, 0])
def test_an_error_is_that_of_the_network_without_the_branches(
    kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prunegraph.depth.gates.KEPT", kept)
    graph, inputs = network("activated", "parallel", "nested"), images()
    coupling = pg.analyze(graph)
    gates = GatedNetwork(coupling, coupling.branches, Data.of(inputs), with_means=False)
    assert gates.error([]) == 0
    for chosen in ([0], [1, 2], [3, 4], [0, 4]):
        gone = [coupling.branches[index] for index in chosen]
        pruned = pg.apply(graph, make_plan(coupling, {b.id: (0,) for b in gone}))
        expected = loss(graph, pruned, inputs)
        assert expected > 1e-3
        assert gates.error([b.id for b in gone]) == pytest.approx(expected, rel=1e-3)


def test_a_branch_may_leave_its_mean() -> None:
    graph, inputs = network("plain", "activated"), images()
    coupling = pg.analyze(graph)
    for branch in coupling.branches:
        value = graph.nodes[branch.add].inputs[branch.slot]
        mean = run_values(graph, inputs, [value])[value].mean(axis=(0, 2, 3), keepdims=True)
        model = onnx.ModelProto()
        model.CopyFrom(graph.model)
        model.graph.initializer.append(onnx.numpy_helper.from_array(mean, "mean"))
        add = next(node for node in model.graph.node if node.name == branch.name)
        add.input[branch.slot] = "mean"
        gates = GatedNetwork(coupling, coupling.branches, Data.of(inputs), with_means=True)
        expected = loss(graph, from_model(model), inputs)
        assert gates.error([branch.id]) == pytest.approx(expected, rel=1e-3)

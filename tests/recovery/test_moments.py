"""Means and variances set right after a cut (ALGORITHMS F5)."""

from __future__ import annotations

import numpy as np
import pytest

import prunegraph as pg
from prunegraph.graph.model import Graph
from prunegraph.recovery.moments import repair
from prunegraph.runtime.data import Data, read_data
from prunegraph.runtime.session import run_values
from prunegraph.selection.plan import survivors
from tests.oracle import random_plan
from tests.paths import FIXTURES
from tests.training.mixed import NETWORKS, attention, chain, inputs, inverted_residual


def cut(graph: Graph, seed: int = 0) -> tuple[pg.Plan, Graph]:
    plan = random_plan(pg.analyze(graph), seed, 0.4)
    return plan, pg.apply(graph, plan)


def fixed(
    graph: Graph, plan: pg.Plan, pruned: Graph, x: dict[str, np.ndarray] | None
) -> Graph:
    return repair(
        survivors(pg.analyze(graph), plan), pruned, Data.of(x) if x is not None else None
    )


@pytest.mark.parametrize("network", ["residual", "inverted_residual"])
def test_statistics_are_those_of_the_data(network: str) -> None:
    """In the repaired network every BatchNormalization has the mean and variance of its input there."""
    graph = NETWORKS[network](0)
    x = inputs(graph, 64)
    plan, pruned = cut(graph)
    result = fixed(graph, plan, pruned, x)
    normals = [n for n in result.nodes if n.op == "BatchNormalization"]
    values = run_values(result, x, [n.inputs[0] for n in normals])
    behind = 0
    for node in normals:
        y = values[node.inputs[0]].astype(np.float64)
        mean, variance = (result.weights[name].read() for name in node.inputs[3:5])
        if np.array_equal(mean, pruned.weights[node.inputs[3]].read()):
            continue
        np.testing.assert_allclose(mean, y.mean((0, 2, 3)), atol=1e-4)
        np.testing.assert_allclose(variance, y.var((0, 2, 3)), rtol=1e-3, atol=1e-5)
        behind += 1
    assert behind >= 2


@pytest.mark.parametrize("network", [chain, attention])
def test_other_layers_get_the_originals_moments(network: object) -> None:
    """Every layer behind a cut makes outputs with the mean and deviation they had, those before it repaired."""
    graph: Graph = network()  # type: ignore[operator]
    x = inputs(graph, 32)
    plan, pruned = cut(graph)
    result = fixed(graph, plan, pruned, x)
    remaining = survivors(pg.analyze(graph), plan)
    behind = {"chain": ["conv1", "head"], "attention": ["projection", "fc2", "head"]}[
        network.__name__
    ]  # type: ignore[attr-defined]
    for name in behind:
        value = graph.node(name).outputs[0]
        # A MatMul's bias is in the Add behind it.
        if graph.node(name).op == "MatMul":
            value = graph.nodes[graph.consumers[value][0][0]].outputs[0]
        before, after = (
            run_values(g, x, [value])[value].astype(np.float64) for g in (graph, result)
        )
        axis = 1 if before.ndim == 4 else before.ndim - 1
        kept = remaining.value(value)[axis]
        before = before if kept is None else np.take(before, kept, axis)
        others = tuple(i for i in range(before.ndim) if i != axis)
        np.testing.assert_allclose(after.mean(others), before.mean(others), atol=1e-4)
        np.testing.assert_allclose(after.std(others), before.std(others), rtol=1e-3)


def test_without_data_means_come_closer() -> None:
    """Where the original's statistics are true, the guessed ones are nearer to what is true after the cut."""
    graph = inverted_residual()
    x = inputs(graph, 256)
    graph = calibrated(graph, x)
    plan, pruned = cut(graph, seed=1)
    guessed, measured = fixed(graph, plan, pruned, None), fixed(graph, plan, pruned, x)
    errors = {"cut": 0.0, "guessed": 0.0}
    for node in [
        n for n in pruned.nodes if n.op == "BatchNormalization" and n.layer != "stem"
    ]:
        deviation = np.sqrt(measured.weights[node.inputs[4]].read())
        for name, other in (("cut", pruned), ("guessed", guessed)):
            off = (
                np.abs(centre(other, node.layer) - centre(measured, node.layer)) / deviation
            )
            errors[name] += float(off.mean())
    assert errors["guessed"] < 0.6 * errors["cut"]


def centre(graph: Graph, layer: str | None) -> np.ndarray:
    """What a BatchNormalization takes from the products of its layer."""
    node = next(n for n in graph.nodes if n.op == "BatchNormalization" and n.layer == layer)
    mean = graph.weights[node.inputs[3]].read().astype(np.float64)
    return mean - graph.weights[graph.node(str(layer)).inputs[2]].read()


def calibrated(graph: Graph, x: dict[str, np.ndarray]) -> Graph:
    """A network whose BatchNormalization nodes have the statistics of their inputs on data, one after the other."""
    model = type(graph.model)()
    model.CopyFrom(graph.model)
    now = pg.load(model)
    for node in [n for n in now.nodes if n.op == "BatchNormalization"]:
        y = run_values(now, x, [node.inputs[0]])[node.inputs[0]].astype(np.float64)
        new = {node.inputs[3]: y.mean((0, 2, 3)), node.inputs[4]: y.var((0, 2, 3))}
        for tensor in model.graph.initializer:
            if tensor.name in new:
                tensor.raw_data = new[tensor.name].astype(np.float32).tobytes()
        now = pg.load(model)
    return now


def test_fashion_network_without_training() -> None:
    """Half the MACs by l2: from chance to most of the accuracy without any data, and to more with 256 images."""
    model = pg.load(FIXTURES / "fashion_resnet.onnx")
    evaluation = read_data(str(FIXTURES / "fashion_eval.npz"))
    calibration = read_data(str(FIXTURES / "fashion_calibration.npz"))
    result = {}
    for name, data in (("none", None), ("bn", None), ("absorb", None), ("bn", calibration)):
        pruned = pg.prune(
            model,
            algorithm="l2",
            budget=pg.Budget(macs=0.5),
            round_to=1,
            repair=name,
            data=data,
            verify=False,
        ).model
        accuracy = pg.compare(model, pruned, data=evaluation, runs=1).accuracy
        assert accuracy is not None
        result[name, data is not None] = accuracy[1]
    assert result["none", False] < 0.25
    assert result["absorb", False] > result["none", False] + 0.05
    assert result["bn", False] > 0.7
    assert result["bn", True] > 0.83


def test_a_network_without_cuts_stays_as_it_is() -> None:
    graph = chain()
    plan = random_plan(pg.analyze(graph), 0, 0.0)
    assert fixed(graph, plan, graph, inputs(graph)) is graph

"""What errors of layers do at the outputs: by gradients it is what small errors are seen to do."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import prunegraph as pg
from prunegraph.errors import DataError
from prunegraph.graph.model import Graph, Node
from prunegraph.rotation.choose import choose_rotation, prepare
from prunegraph.rotation.rotate import rotate
from prunegraph.rotation.turned import TurnedMetrics
from prunegraph.runtime.data import Data
from prunegraph.runtime.statistics import Statistics
from prunegraph.selection.criteria.base import Context, score
from tests.builders import Builder
from tests.rotation.networks import STEPS, attention, random_inputs, stream

torch = pytest.importorskip("torch", reason="needs the extra [torch]")

from prunegraph.training import curvature  # noqa: E402
from prunegraph.training.curvature import Curvature  # noqa: E402


def samples(graph: Graph, count: int = 256) -> Data:
    """Random inputs of a graph."""
    parts = [random_inputs(graph, seed) for seed in range(count // 2)]
    whole = {
        name: np.concatenate([part[name] for part in parts])[:count]
        for name in graph.inputs
    }
    return Data.of(whole)


def matmul(net: Builder, x: str, inputs: int, outputs: int, name: str) -> str:
    return net.op("MatMul", x, net.weight(inputs, outputs), name=name)


def network(finish: Callable[[Builder, str], str] = lambda net, y: y) -> Graph:
    """Three layers of 4, 3 and 5 outputs, the first one behind a ReLU."""
    net = Builder(3)
    net.input("n", 6)
    hidden = net.op("Relu", matmul(net, "x", 6, 4, "first"))
    middle = matmul(net, hidden, 4, 3, "middle")
    return net.graph(finish(net, matmul(net, middle, 3, 5, "last")))


def looked_at(monkeypatch: pytest.MonkeyPatch) -> tuple[Graph, Data, Curvature]:
    """The network, as many samples as random projections take to say something, and what they say."""
    monkeypatch.setattr(curvature, "SAMPLES", 4096)
    graph = network()
    data = samples(graph, 4096)
    return graph, data, Curvature(graph, data)


def by_name(graph: Graph) -> dict[str, Node]:
    return {node.name: node for node in graph.layers}


def weights(graph: Graph) -> dict[str, np.ndarray]:
    """Matrices of the layers, by name."""
    return {
        name: graph.weights[node.inputs[1]].read().astype(np.float64)
        for name, node in by_name(graph).items()
    }


def test_of_linear_layers_it_is_the_product_of_what_follows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Random projections have the second moments J'J: here J is the last layer's matrix."""
    graph, _, found = looked_at(monkeypatch)
    layers, matrix = by_name(graph), weights(graph)["last"]
    metric = found.of(layers["middle"])
    assert metric is not None
    expected = matrix @ matrix.T
    scale = np.vdot(metric, expected) / np.vdot(expected, expected)
    assert np.allclose(metric, scale * expected, atol=0.1 * scale * np.trace(expected))
    last = found.of(layers["last"])
    assert last is not None
    assert np.allclose(last / scale, np.eye(5), atol=0.1)


def test_units_that_are_off_count_nothing() -> None:
    """What a ReLU lets through on no sample does nothing at the outputs."""
    net = Builder(0)
    net.input("n", 6)
    shifts = net.const([0, 0, -1e3, 0], np.float32)
    shifted = net.op("Add", matmul(net, "x", 6, 4, "first"), shifts)
    graph = net.graph(matmul(net, net.op("Relu", shifted), 4, 3, "last"))
    metric = Curvature(graph, samples(graph)).of(graph.layers[0])
    assert metric is not None
    assert (metric[2] == 0).all() and (metric[:, 2] == 0).all()
    assert (np.diag(metric)[[0, 1, 3]] > 0).all()


def test_probabilities_and_values_are_looked_at() -> None:
    for finish in (lambda net, y: net.op("Softmax", y), lambda net, y: net.op("Tanh", y)):
        graph = network(finish)
        metric = Curvature(graph, samples(graph)).of(graph.layers[1])
        assert metric is not None
        assert np.allclose(metric, metric.T)
        assert np.linalg.eigvalsh(metric).min() > -1e-6 * np.trace(metric)


def test_a_last_batch_of_one_sample_counts_as_much_as_any_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Errors are relative to how much outputs vary, which one sample by itself does not say."""
    graph = network(lambda net, y: net.op("Mul", y, net.const(1e3, np.float32)))
    node, data = graph.layers[1], samples(graph, 66)
    whole = Curvature(graph, data.head(64)).of(node)
    monkeypatch.setattr(curvature, "batch_size", lambda *_: 16)
    parts = Curvature(graph, data.head(65)).of(node)
    assert whole is not None and parts is not None
    assert np.trace(parts) == pytest.approx(np.trace(whole), rel=0.5)


def test_masked_positions_of_outputs_do_not_count() -> None:
    """Errors at padding reach nothing that counts: what they say is as if the padding were not there."""
    net = Builder(5)
    net.input("n", 7, 6)
    net.input("n", 7, name="attention_mask", kind=onnx.TensorProto.INT64)
    hidden = net.op("Relu", matmul(net, "x", 6, 4, "first"))
    used = net.op("Cast", "attention_mask", to=onnx.TensorProto.FLOAT)
    used = net.op("Unsqueeze", used, net.const([2], np.int64))
    hidden = net.op("Add", hidden, net.op("Mul", used, net.const(0.0, np.float32)))
    graph = net.graph(matmul(net, hidden, 4, 3, "last"))
    rng = np.random.default_rng(0)
    mask = np.zeros((64, 7), np.int64)
    mask[:, :2] = 1
    inputs = {"x": rng.standard_normal((64, 7, 6), np.float32), "attention_mask": mask}
    padded = Curvature(graph, Data.of(inputs)).of(graph.layers[1])
    whole = Curvature(graph, Data.of({**inputs, "attention_mask": np.ones_like(mask)})).of(
        graph.layers[1]
    )
    assert padded is not None and whole is not None
    assert np.trace(padded) == pytest.approx(np.trace(whole) * 2 / 7, rel=0.3)


def test_of_a_graph_that_pytorch_cannot_run_nothing_is_known() -> None:
    net = Builder(1)
    net.input("n", 6)
    other = net.op("Anything", matmul(net, "x", 6, 4, "first"), domain="nobody.knows")
    graph = net.graph(matmul(net, other, 4, 3, "last"), domains=[("nobody.knows", 1)])
    said: list[str] = []
    found = Curvature(graph, samples(graph), said.append)
    assert not found.is_known
    assert found.of(graph.layers[0]) is None
    assert any("curvature is not measured" in each for each in said)


@settings(max_examples=10)
@given(
    channels=st.integers(2, 5),
    steps=st.lists(st.sampled_from(sorted(STEPS)), max_size=3),
    seed=st.integers(0, 2**16),
)
def test_metrics_turn_with_a_rotation(channels: int, steps: list[str], seed: int) -> None:
    """Those of the rotated graph are what is measured of it."""
    agree(stream(channels, steps, 2, seed))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("shared", [1, 2])
def test_metrics_of_heads_turn_with_a_rotation(shared: int, packed: bool) -> None:
    agree(attention(2, shared, 4, packed=packed, bias=True, seed=0))


def agree(graph: Graph) -> None:
    """Metrics that turn are those that are measured of the rotated graph."""
    ready, _, spaces = prepare(graph)
    assert spaces
    data = samples(ready, 16)
    known = Curvature(ready, data)
    rotation = choose_rotation(ready, spaces, Statistics(ready, data, metrics=known))
    turned = rotate(ready, rotation)
    expected = Curvature(turned, data)
    found = TurnedMetrics(known, spaces, rotation)
    assert found.is_known
    for node in turned.layers:
        metric, other = found.of(node), expected.of(node)
        assert (metric is None) == (other is None)
        if metric is not None:
            assert np.allclose(metric, other, rtol=1e-2, atol=1e-3 * np.trace(other))


def test_prune_says_that_it_weighs_errors() -> None:
    graph = network()
    data = samples(graph)
    options = {"data": data, "budget": pg.Budget(macs=0.7), "round_to": 1}
    weighed = pg.prune(graph, **options)
    assert weighed.plan.provenance["curvature"] == "gradients"
    plain = pg.prune(graph, curvature="never", **options)
    assert "curvature" not in plain.plan.provenance


def test_contributions_are_what_channels_add_to_the_outputs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of linear layers exactly: without some channels the outputs lose what these contribute together."""
    graph, data, found = looked_at(monkeypatch)
    layers, matrices = by_name(graph), weights(graph)
    x = np.concatenate([batch["x"] for batch in data.batches(graph, 4096)])
    read = np.maximum(x.astype(np.float64) @ matrices["first"], 0)
    behind = matrices["middle"] @ matrices["last"]
    parts = found.contributions(layers["middle"])
    assert parts is not None and parts.shape == (4096, 4)
    whole = np.square(read @ behind).sum() / np.square(parts.sum(axis=1)).sum()
    for gone in ([0], [1, 3], [0, 2, 3]):
        lost = np.square(read[:, gone] @ behind[gone]).sum()
        assert whole * np.square(parts[:, gone].sum(axis=1)).sum() == pytest.approx(
            lost, rel=0.15
        )
    # The input of the network has no gradient.
    assert found.contributions(layers["first"]) is None


@pytest.mark.parametrize("blocks", ["own", "alike"])
def test_channels_that_reach_no_output_go_first(blocks: str) -> None:
    """The channels of a convolution in groups are told apart: those that the next one does not read score lowest."""
    net = Builder(1)
    y = net.op("Conv", net.input("n", 3, 5, 5), net.weight(8, 3, 1, 1), name="first")
    weight = np.random.default_rng(0).standard_normal((8, 4, 3, 3), np.float32)
    weight[:4, 2] = weight[4:, 2] = 0
    y = net.op("Conv", net.op("Relu", y), net.const(weight), group=2, name="second")
    graph = net.graph(net.op("GlobalAveragePool", y))
    coupling = pg.analyze(graph, blocks=blocks)
    data = samples(graph, 64)
    statistics = Statistics(graph, data, metrics=Curvature(graph, data))
    group = next(g for g in coupling.groups if "first" in g.layers)
    scores = score("thinet:error=outputs", Context(coupling, statistics=statistics))[
        group.id
    ]
    dead = [2, 6] if blocks == "own" else [2]
    assert sorted(np.argsort(scores)[: len(dead)]) == dead
    assert scores[dead].max() < 1e-6 * np.delete(scores, dead).min()


def test_errors_at_the_outputs_need_gradients() -> None:
    graph = network()
    with pytest.raises(DataError, match=r"\[torch\]"):
        pg.prune(
            graph,
            data=samples(graph, 16),
            budget=pg.Budget(macs=0.9),
            algorithm="thinet:error=outputs",
            curvature="never",
        )
    result = pg.prune(
        graph,
        data=samples(graph, 16),
        budget=pg.Budget(ratio=0.5),
        algorithm="thinet:error=outputs",
        round_to=1,
    )
    assert result.proof is not None and result.after.macs < result.before.macs

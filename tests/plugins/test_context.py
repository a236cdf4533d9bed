"""What a criterion is given: activations, moments and Gram matrices."""

from __future__ import annotations

import numpy as np
import pytest

import prunegraph as pg
from prunegraph.errors import DataError
from prunegraph.runtime import statistics as statistics_module
from prunegraph.runtime.data import Data
from prunegraph.runtime.session import run_values
from prunegraph.runtime.statistics import Statistics
from prunegraph.selection.criteria.base import Context
from tests.builders import Builder, residual_net


def context_of(graph: pg.Graph, **inputs: np.ndarray) -> tuple[Context, Data]:
    data = Data.of(inputs)
    return Context(pg.analyze(graph), statistics=Statistics(graph, data)), data


def test_activations_moments_and_gram_by_hand() -> None:
    graph = residual_net()
    x = np.random.default_rng(1).standard_normal((40, 3, 8, 8)).astype(np.float32)
    context, _ = context_of(graph, x=x)
    layer = graph.node("block2")
    output, read = run_values(graph, {"x": x}, [layer.outputs[0], layer.inputs[0]]).values()
    np.testing.assert_allclose(
        context.activations(layer.outputs[0]), output[:32], rtol=1e-5, atol=1e-6
    )
    np.testing.assert_array_equal(context.activations("x", 5), x[:5])
    moments = context.moments(layer.outputs[0])
    np.testing.assert_allclose(
        moments.energy, (output.astype(np.float64) ** 2).mean((0, 2, 3)), rtol=1e-5
    )
    np.testing.assert_allclose(
        context.moments(layer.outputs[0], -3).mean,
        output.mean((0, 2, 3)),
        rtol=1e-4,
        atol=1e-6,
    )
    np.testing.assert_allclose(context.moments(graph.outputs[0], -1).count, 40)
    head = graph.node("head")
    rows = run_values(graph, {"x": x}, [head.inputs[0]])[head.inputs[0]]
    gram = context.gram("head")
    assert gram is not None
    np.testing.assert_allclose(gram.products[0], rows.T @ rows / 40, rtol=1e-4, atol=1e-6)
    assert context.gram(graph.node("block1")) is not None
    assert read.shape[0] == 40


def test_a_layer_that_is_no_matrix_product_has_no_gram() -> None:
    b = Builder()
    x = b.conv(b.input("n", 3, 8, 8), 3, 8, name="conv")
    x = b.op("ConvTranspose", x, b.weight(8, 8, 3, 3), name="up")
    graph = b.graph(b.head(x, 8))
    context, _ = context_of(graph, x=np.ones((2, 3, 8, 8), np.float32))
    assert context.gram("up") is None


def test_data_are_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = residual_net()
    context, _ = context_of(graph, x=np.ones((4, 3, 8, 8), np.float32))
    runs: list[int] = []
    original = statistics_module.run_batches

    def counted(*args: object) -> object:
        runs.append(1)
        return original(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(statistics_module, "run_batches", counted)
    for _ in range(2):
        for name in ("stem", "block1", "block2"):
            context.moments(graph.node(name).outputs[0])
    assert len(runs) == 1
    for _ in range(2):
        for name in ("stem", "block1", "block2"):
            context.gram(name)
    assert len(runs) == 2
    for _ in range(2):
        context.activations(graph.node("stem").outputs[0])
    assert len(runs) == 3
    monkeypatch.setattr(statistics_module, "KEEP", 1)
    for _ in range(2):
        context.activations(graph.node("block1").outputs[0])
        context.activations(graph.node("block2").outputs[0])
    assert len(runs) == 7


def test_activations_of_a_model_with_a_fixed_batch() -> None:
    b = Builder()
    x = b.relu(b.linear(b.input(2, 6), 6, 8, name="first"))
    graph = b.graph(b.linear(x, 8, 4))
    inputs = np.random.default_rng(0).standard_normal((7, 6)).astype(np.float32)
    context, _ = context_of(graph, x=inputs)
    assert context.activations(x, 32).shape == (6, 8)
    assert context.activations(x, 3).shape[0] >= 2
    few, _ = context_of(graph, x=inputs[:1])
    with pytest.raises(DataError, match="fewer samples than the model's batch size"):
        few.activations(x)


def test_a_users_arrays_stay_writeable() -> None:
    inputs = np.ones((2, 3, 8, 8), np.float32)
    context, _ = context_of(residual_net(), x=inputs)
    assert not context.activations("x").flags.writeable
    inputs[:] = 0


def test_an_algorithm_without_data_says_so() -> None:
    context = Context(pg.analyze(residual_net()), algorithm="mine")
    for ask in (
        lambda: context.activations("x"),
        lambda: context.moments("x"),
        lambda: context.gram("stem"),
    ):
        with pytest.raises(DataError, match="algorithm 'mine' needs data"):
            ask()

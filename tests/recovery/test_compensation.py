"""What a layer makes up for: held against least squares on rows that numpy unfolds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import prunegraph as pg
from prunegraph.graph.model import Graph
from prunegraph.recovery.compensation import Compensation
from prunegraph.rewriting.cut import cut
from prunegraph.runtime.data import Data
from prunegraph.runtime.session import run_batches
from prunegraph.runtime.statistics import Statistics
from prunegraph.selection.criteria.obs import DAMPING
from prunegraph.selection.plan import survivors
from tests.builders import Builder
from tests.oracle import random_plan

Array = np.ndarray

SAMPLES = 96


def layers(kind: str, seed: int) -> tuple[Graph, str]:
    """Two layers in a row, with an intercept in the second one, and what stands between them."""
    b = Builder(seed)
    if kind == "matmul":
        between = b.op("MatMul", b.input("n", 10), b.weight(10, 8))
        return b.graph(b.op("Gemm", between, b.weight(8, 5), b.weight(5))), between
    x = b.input("n", 6, 5, 5)
    groups = 2 if kind == "grouped" else 1
    between = b.op("Relu", b.op("Conv", x, b.weight(8, 6, 1, 1)))
    y = b.op("Conv", between, b.weight(6, 8 // groups, 3, 3), b.weight(6), group=groups)
    return b.graph(y), between


def rows(kind: str, values: Array) -> Array:
    """Rows of the second layer's inputs [groups, rows, inputs]."""
    if kind == "matmul":
        return values[None]
    views = np.lib.stride_tricks.sliding_window_view(values, (3, 3), axis=(2, 3))
    flat = views.transpose(0, 2, 3, 1, 4, 5).reshape(-1, 8 * 9)
    groups = 2 if kind == "grouped" else 1
    return flat.reshape(len(flat), groups, -1).swapaxes(0, 1)


def matrix(kind: str, weight: Array) -> Array:
    """A weight as [groups, inputs, outputs]."""
    if kind == "matmul":
        return weight[None]
    groups = 2 if kind == "grouped" else 1
    return weight.reshape(groups, 6 // groups, -1).swapaxes(1, 2)


@pytest.mark.parametrize("blocks", ["alike", "own"])
@pytest.mark.parametrize("kind", ["matmul", "conv", "grouped"])
@given(seed=st.integers(0, 2**16))
@settings(max_examples=5, deadline=None)
def test_rows_that_stay_make_up_for_those_that_go(
    kind: str, blocks: str, seed: int
) -> None:
    graph, between = layers(kind, seed)
    shape = (SAMPLES, 10) if kind == "matmul" else (SAMPLES, 6, 5, 5)
    x = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    data = Data.of({"x": x}).fit(graph)
    coupling = pg.analyze(graph, blocks=blocks)
    plan = random_plan(coupling, seed)
    left = survivors(coupling, plan)
    pruned = cut(left)
    node = pruned.layers[-1]
    created = Compensation(left, pruned, Statistics(graph, data)).matrix(node, centred=True)
    fitted = x[np.arange(SAMPLES) % 4 != 3]  # the others are there to measure damage on
    seen = rows(kind, next(run_batches(graph, [{"x": fitted}], [between]))[0])
    whole = matrix(kind, graph.weights[graph.layers[-1].inputs[1]].read().astype(float))
    old = matrix(kind, pruned.weights[node.inputs[1]].read().astype(float))
    assert created is not None and created.shape == old.shape
    for group, (each, before, after) in enumerate(zip(seen, whole, created, strict=True)):
        stays = _stays(before, old[group])
        each = each - each.mean(axis=0)
        level = np.square(each[:, stays]).sum() / stays.sum()
        ridge = np.sqrt(max(DAMPING, each.shape[1] / len(each)) * level)
        inputs = np.concatenate([each[:, stays], ridge * np.eye(stays.sum())])
        gone = np.concatenate([each[:, ~stays], np.zeros((stays.sum(), (~stays).sum()))])
        guess = np.linalg.lstsq(inputs, gone, rcond=None)[0]
        wanted = before[stays] + guess @ before[~stays]
        np.testing.assert_allclose(after, wanted, rtol=1e-3, atol=1e-3)


def _stays(whole: Array, left: Array) -> Array:
    """Rows of a matrix that are there, in order, in the one that is left (outputs are never removed here)."""
    return np.array([(row == left).all(axis=1).any() for row in whole])


def test_a_layer_that_reads_all_it_did_has_nothing_to_make_up_for() -> None:
    graph, _ = layers("matmul", 0)
    coupling = pg.analyze(graph)
    left = survivors(coupling, random_plan(coupling, 0))
    pruned = cut(left)
    data = Data.of({"x": np.ones((4, 10), np.float32)}).fit(graph)
    compensation = Compensation(left, pruned, Statistics(graph, data))
    assert compensation.matrix(pruned.layers[0], centred=False) is None


def test_statistics_that_somebody_has_are_shared() -> None:
    graph, _ = layers("matmul", 0)
    data = Data.of({"x": np.ones((4, 10), np.float32)}).fit(graph)
    first = Statistics(graph, data)
    part = first.of(data.head(2))
    assert Statistics.shared(graph, data) is first
    assert Statistics.shared(graph, part.data) is part
    other = Data.of({"x": np.zeros((4, 10), np.float32)}).fit(graph)
    assert Statistics.shared(graph, other) is not first

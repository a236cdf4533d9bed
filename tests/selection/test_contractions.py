"""Queries and keys: channels are scored by the error of their products."""

from __future__ import annotations

import numpy as np
import pytest

import prunegraph as pg
from fixtures.light_models import load
from prunegraph.runtime.data import Data
from prunegraph.runtime.statistics import Statistics
from prunegraph.selection.criteria.base import Context, score
from prunegraph.selection.criteria.contractions import product_error, product_places
from tests.paths import ROOT
from tests.rotation.networks import attention, random_inputs, stream


def context(graph: pg.Graph, inputs: dict[str, np.ndarray]) -> Context:
    coupling = pg.analyze(graph, attention="head_dim")
    return Context(coupling, statistics=Statistics(graph, Data.of(inputs)))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shared", [1, 2])
def test_scores_are_the_errors_of_products(bias: bool, shared: int) -> None:
    heads, size = 4, 3
    graph = attention(heads, shared, size, packed=False, bias=bias, seed=2)
    inputs = random_inputs(graph, 0, 200)
    here = context(graph, inputs)
    projections = [node for node in graph.layers if node.inputs[0] == "x"]
    biases = [
        graph.weights[graph.nodes[graph.consumers[node.outputs[0]][0][0]].inputs[1]].read()
        if bias
        else 0
        for node in projections
    ]
    q, k = (
        (inputs["x"].astype(float) @ graph.weights[node.inputs[1]].read() + shift)
        .reshape(-1, heads if i == 0 else heads // shared, size)
        for i, (node, shift) in enumerate(zip(projections[:2], biases, strict=False))
    )  # fmt: skip
    k = np.repeat(k - k.mean(0), shared, axis=1)
    costs = ((q**2).mean(0) * (k**2).mean(0)).sum(0)
    expected = np.empty(size)
    order = np.argsort(costs)
    expected[order] = np.cumsum(costs[order]) / costs.sum()
    scores = [product_error(group, here) for group in here.coupling.groups]
    (own,) = [each for each in scores if each is not None]
    np.testing.assert_allclose(own, expected, rtol=1e-4)


def test_all_layers_are_looked_at_in_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = pg.load(load(ROOT / "fixtures/zoo_transformers/hf__bert__ts.light.xz"))
    ids = {name: np.arange(24).reshape(2, 12) for name in graph.inputs}
    here = context(graph, ids)
    passes = []
    collect = Statistics.collect
    monkeypatch.setattr(
        Statistics,
        "collect",
        lambda self, *args: passes.append(args) or collect(self, *args),
    )
    scores = [product_error(group, here) for group in here.coupling.groups]
    assert sum(each is not None for each in scores) > 1
    assert len(passes) == 1


def test_scores_of_all_groups_come_from_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gram matrices and moments; they are those of passes of their own."""
    graph = attention(4, 1, 3, packed=False, bias=True, seed=2)
    here = context(graph, random_inputs(graph, 0, 40))
    apart = context(graph, random_inputs(graph, 0, 40))
    places = product_places(here)
    assert len(places) == 2
    expected = apart.need_statistics().moments(places)
    passes = []
    collect = Statistics.collect
    monkeypatch.setattr(
        Statistics,
        "collect",
        lambda self, *args: passes.append(args) or collect(self, *args),
    )
    scores = score("obs", here)
    assert len(passes) == 1
    for seen, wanted in zip(here.need_statistics().moments(places), expected, strict=True):
        np.testing.assert_allclose(seen.energy, wanted.energy, rtol=1e-5)
        np.testing.assert_allclose(seen.std, wanted.std, rtol=1e-5)
    assert len(passes) == 1
    for id, values in score("obs", apart).items():
        np.testing.assert_allclose(scores[id], values, rtol=1e-4)


def test_other_groups_have_no_such_scores() -> None:
    graph = stream(4, ["block"], 1, 0)
    here = context(graph, random_inputs(graph, 0))
    assert [product_error(group, here) for group in here.coupling.groups] == [None] * len(
        here.coupling.groups
    )
    packed = attention(2, 1, 3, packed=True, bias=True, seed=0)
    there = context(packed, random_inputs(packed, 0))
    assert all(product_error(group, there) is None for group in there.coupling.groups)

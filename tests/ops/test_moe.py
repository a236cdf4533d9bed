"""Mixtures of experts: fewer experts, and narrower ones, against the formula in numpy."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import prunegraph as pg
from prunegraph.graph.model import Graph
from prunegraph.ops.cost import cost
from prunegraph.runtime.session import run, session
from prunegraph.selection.plan import make_plan
from tests.builders import Builder
from tests.ops.networks import MS
from tests.oracle import fixed_reasons

EXPERTS, HIDDEN, INNER = 6, 5, 8


def mixture(k: int = 2, normalize: int = 0, **attributes: object) -> Graph:
    """A router and experts with biases behind rectifiers."""
    b = Builder(opset=18, ir_version=9)
    x = b.input("tokens", HIDDEN)
    scores = b.op("MatMul", x, b.weight(HIDDEN, EXPERTS), name="router")
    weights = [
        b.weight(EXPERTS, INNER, HIDDEN),
        b.weight(EXPERTS, INNER),
        b.weight(EXPERTS, HIDDEN, INNER),
        b.weight(EXPERTS, HIDDEN),
    ]
    y = b.op(
        "MoE",
        x,
        scores,
        *weights,
        domain=MS,
        name="experts",
        k=k,
        normalize_routing_weights=normalize,
        **attributes,
    )
    return pg.load(b.model(b.op("MatMul", y, b.weight(HIDDEN, 3)), domains=[(MS, 1)]))


def reference(
    graph: Graph, x: np.ndarray, gone: list[int], k: int, normalize: int
) -> np.ndarray:
    """The formula over the experts that are left, with the weights of the whole model."""
    router, first, inner, second, outer, head = (
        weight.read().astype(np.float64) for weight in graph.weights.values()
    )
    scores = x @ router
    scores[:, gone] = -np.inf
    shares = np.exp(scores - scores.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    result = np.zeros((len(x), HIDDEN))
    for token, chosen in enumerate(np.argsort(-shares, axis=1)[:, :k]):
        total = shares[token, chosen].sum() if normalize else 1.0
        for expert in chosen:
            middle = np.maximum(first[expert] @ x[token] + inner[expert], 0)
            result[token] += (
                shares[token, expert] / total * (second[expert] @ middle + outer[expert])
            )
    return result @ head


@pytest.mark.parametrize("normalize", [0, 1])
@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("gone", [[0], [1, 4], [0, 2, 3, 5]])
def test_the_router_chooses_among_the_experts_that_are_left(k, normalize, gone):
    graph = mixture(k, normalize)
    coupling = pg.analyze(graph)
    [experts] = [group for group in coupling.groups if group.channels == EXPERTS]
    plan = make_plan(coupling, {experts.id: gone})
    pruned = pg.apply(graph, plan)
    pg.verify(graph, plan, pruned)
    x = np.random.default_rng(0).standard_normal((7, HIDDEN)).astype(np.float32)
    [result] = run(session(pruned), {"x": x})
    expected = reference(graph, x.astype(np.float64), gone, k, normalize)
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-5)
    [node] = [node for node in pruned.nodes if node.op == "MoE"]
    assert node.attributes["k"] == min(k, EXPERTS - len(gone))


def test_what_experts_cost():
    """Each token meets as many experts as are asked, whatever there are."""
    graph = mixture(2)
    weights = EXPERTS * (INNER * HIDDEN * 2 + INNER + HIDDEN)
    assert cost(graph).params == weights + HIDDEN * EXPERTS + HIDDEN * 3
    experts = 2 * 2 * HIDDEN * INNER
    assert cost(graph).macs == experts + HIDDEN * EXPERTS + HIDDEN * 3


def test_groups_are_experts_and_their_inner_channels():
    groups = pg.analyze(mixture()).groups
    assert sorted(group.channels for group in groups) == [EXPERTS, INNER]
    pruned = pg.prune(mixture(), budget=pg.Budget(ratio=0.5), round_to=1).model
    shapes = {weight.shape for weight in pruned.weights.values()}
    assert {(3, 4, HIDDEN), (3, HIDDEN, 4), (3, 4), (3, HIDDEN), (HIDDEN, 3)} <= shapes


def test_a_sparse_mixer_compares_experts():
    reason = fixed_reasons(mixture(use_sparse_mixer=1))["router"]
    assert "sparse mixer" in reason


def test_experts_whose_shapes_are_of_another_release_stay():
    model = mixture().model
    for tensor in model.graph.initializer:
        if list(tensor.dims) == [EXPERTS, HIDDEN, INNER]:
            tensor.CopyFrom(
                onnx.numpy_helper.from_array(
                    np.ones((EXPERTS, INNER, HIDDEN + 1), np.float32), tensor.name
                )
            )
    assert "router" in fixed_reasons(pg.load(model))

"""Mixtures of experts written out in plain operators: the largest scores pick slices of stacked weights."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import prunegraph as pg
from prunegraph.errors import PlanError
from prunegraph.graph.model import Graph
from prunegraph.runtime.session import run, session
from prunegraph.selection.plan import make_plan
from tests.builders import Builder
from tests.oracle import fixed_reasons, random_plan

HIDDEN, INNER = 4, 6


def mixture(
    experts: int = 5,
    k: int = 2,
    share: str = "softmax",
    lookup: str = "nd",
    extra: str = "",
) -> Graph:
    """Tokens, each with the experts that the largest of its scores name, weighted by their shares."""
    b = Builder(opset=18)
    x = b.input("tokens", HIDDEN)
    scores = b.op("MatMul", x, b.weight(HIDDEN, experts), name="router")
    if share != "none":
        scores = b.op({"softmax": "Softmax", "sigmoid": "Sigmoid"}[share], scores)
    best = b.op("TopK", scores, b.const([k]), outputs=2, name="best")
    numbers = "best.out1"
    if share == "none":
        best = b.op("Softmax", best)
    if lookup == "nd":
        places = b.op("Unsqueeze", numbers, b.const([2]))
        first, second = (
            b.op("GatherND", b.weight(experts, *shape), places)
            for shape in ((INNER, HIDDEN), (HIDDEN, INNER))
        )
    else:
        first, second = (
            b.op("Gather", b.weight(experts, *shape), numbers)
            for shape in ((INNER, HIDDEN), (HIDDEN, INNER))
        )
    column = b.op("Unsqueeze", x, b.const([1, 3]))
    middle = b.op("Relu", b.op("MatMul", first, column))
    each = b.op("Squeeze", b.op("MatMul", second, middle), b.const([3]))
    weighted = b.op("Mul", each, b.op("Unsqueeze", best, b.const([2])))
    y = b.op("ReduceSum", weighted, b.const([1]), keepdims=0)
    if extra == "numbers":
        y = b.op(
            "Add",
            y,
            b.op("Cast", b.op("ReduceMax", numbers, b.const([1]), keepdims=1), to=1),
        )
    y = b.op("MatMul", y, b.weight(HIDDEN, 3))
    return pg.load(b.model(y, *(["router.out"] if extra == "scores" else [])))


def reference(
    graph: Graph, x: np.ndarray, gone: list[int], k: int, share: str
) -> np.ndarray:
    """The mixture over the experts that are left."""
    router, first, second, head = (w.read() for w in graph.weights.values() if w.is_float)
    scores = (x @ router).astype(np.float64)
    scores[:, gone] = -np.inf
    best = np.argsort(-scores, axis=1)[:, :k]
    shares = np.exp(scores) if share != "sigmoid" else 1 / (1 + np.exp(-scores))
    if share == "softmax":
        shares /= shares.sum(1, keepdims=True)
    taken = np.take_along_axis(shares, best, 1)
    if share == "none":
        taken /= taken.sum(1, keepdims=True)
    rows = [
        sum(
            s * (second[e] @ np.maximum(first[e] @ token, 0))
            for s, e in zip(ss, es, strict=True)
        )
        for token, ss, es in zip(x, taken, best, strict=True)
    ]
    return np.stack(rows) @ head


@settings(max_examples=40, deadline=None)
@given(
    experts=st.integers(2, 6),
    k=st.integers(1, 3),
    share=st.sampled_from(["softmax", "sigmoid", "none"]),
    lookup=st.sampled_from(["nd", "plain"]),
    seed=st.integers(0, 99),
)
def test_experts_go_from_scores_and_stacks_alike(experts, k, share, lookup, seed):
    k = min(k, experts)
    graph = mixture(experts, k, share, lookup)
    coupling = pg.analyze(graph)
    [group] = [g for g in coupling.groups if "router" in g.layers] or [None]
    if group is None:
        assert experts == k  # none may go
        return
    assert group.channels == experts and group.least == k
    rng = np.random.default_rng(seed)
    gone = sorted(rng.permutation(experts)[: rng.integers(0, experts - k + 1)].tolist())
    plan = make_plan(coupling, {group.id: gone})
    pruned = pg.apply(graph, plan)
    pg.verify(graph, plan, pruned)
    x = rng.standard_normal((7, HIDDEN)).astype(np.float32)
    [result] = run(session(pruned), {"x": x})
    expected = reference(graph, x, gone, k, share)
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-4)


def test_inner_channels_and_experts_at_once():
    graph = mixture()
    plan = random_plan(pg.analyze(graph))
    pruned = pg.apply(graph, plan)
    pg.verify(graph, plan, pruned)
    assert {(3, 3, HIDDEN), (3, 2, 3)} <= {w.shape for w in pruned.weights.values()}


def test_as_many_experts_stay_as_are_taken():
    graph = mixture(experts=5, k=3)
    coupling = pg.analyze(graph)
    [group] = [g for g in coupling.groups if "router" in g.layers]
    with pytest.raises(PlanError, match="3 must stay, as many as a router takes"):
        make_plan(coupling, {group.id: [0, 1, 2]})
    plan = pg.select(graph, coupling, budget=pg.Budget(ratio=0.9), round_to=1)
    assert len(plan.remove[group.id]) == 2
    assert group.to_json()["least"] == 3


@pytest.mark.parametrize("extra", ["numbers", "scores"])
def test_numbers_that_something_else_reads_stay(extra):
    """An expert's number is a number: who reads it otherwise would read another."""
    assert "router" in fixed_reasons(mixture(extra=extra))


def test_the_smallest_scores_are_no_choice_of_experts():
    model = onnx.ModelProto.FromString(mixture().model.SerializeToString())
    [node] = [node for node in model.graph.node if node.op_type == "TopK"]
    node.attribute.append(onnx.helper.make_attribute("largest", 0))
    assert "router" in fixed_reasons(pg.load(model))

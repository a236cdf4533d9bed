"""Random graphs x random plans against the masked original."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prunegraph.api import analyze, apply
from prunegraph.coupling.coupling import Coupling
from prunegraph.graph.model import Graph
from prunegraph.selection.plan import Plan, make_plan
from tests.oracle import outputs, prove, random_plan
from tests.random_graphs import draw_graph

SLOW = settings(
    max_examples=600,
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.large_base_example,
    ],
)


@SLOW
@given(draw_graph(), st.integers(0, 2**16), st.sampled_from([0.3, 0.5, 0.8]))
def test_masked_equals_pruned(graph: Graph, seed: int, ratio: float) -> None:
    prove(graph, seed, ratio)


@settings(SLOW, max_examples=200)
@given(
    draw_graph(),
    st.integers(0, 2**16),
    st.sampled_from([0.3, 0.5, 0.8]),
    st.sampled_from(["own", "both"]),
)
def test_groups_of_convolutions_choose_channels_of_their_own(
    graph: Graph, seed: int, ratio: float, blocks: str
) -> None:
    prove(graph, seed, ratio, blocks)


@pytest.mark.slow
@pytest.mark.often
@settings(SLOW, max_examples=4000)
@given(draw_graph(), st.integers(0, 2**16), st.sampled_from([0.3, 0.5, 0.8]))
def test_masked_equals_pruned_on_many(graph: Graph, seed: int, ratio: float) -> None:
    prove(graph, seed, ratio)


@settings(SLOW, max_examples=40)
@given(draw_graph())
def test_nothing_removed_is_the_identity(graph: Graph) -> None:
    pruned = apply(graph, make_plan(analyze(graph), {}))
    assert pruned.model.SerializeToString(
        deterministic=True
    ) == graph.model.SerializeToString(deterministic=True)


@settings(SLOW, max_examples=40)
@given(draw_graph(grouped=False, most=4), st.integers(0, 2**16))
def test_two_plans_in_a_row_are_their_composition(graph: Graph, seed: int) -> None:
    first = random_plan(analyze(graph), seed, 0.3)
    half = apply(graph, first)
    second = random_plan(analyze(half), seed + 1, 0.3)
    twice = apply(half, second)
    once = apply(graph, compose(analyze(graph), first, second))
    for a, b in zip(outputs(once), outputs(twice), strict=True):
        np.testing.assert_array_equal(a, b)
    assert layer_weights(once) == layer_weights(twice)


def layer_weights(graph: Graph) -> dict[str, tuple[int, ...]]:
    """Shapes of what layers contract with (operands of data movement may be named anew)."""
    return {
        node.name: graph.weights[graph.main_weight(node) or ""].shape
        for node in graph.layers
    }


def compose(coupling: Coupling, first: Plan, second: Plan) -> Plan:
    """The plan that removes what two plans remove one after the other."""
    gone: dict[tuple[str, int], set[int]] = {}
    for cut in first.cuts:
        gone[cut.weight, cut.axis] = set(cut.removed)
    for cut in second.cuts:
        size = coupling.graph.weights[cut.weight].shape[cut.axis]
        remaining = [
            i for i in range(size) if i not in gone.get((cut.weight, cut.axis), ())
        ]
        gone.setdefault((cut.weight, cut.axis), set()).update(
            remaining[i] for i in cut.removed
        )
    remove = {}
    for group in coupling.groups:
        member = group.members[0]
        cut = gone.get((member.weight, member.axis), set())
        remove[group.id] = [
            c for c, row in enumerate(member.positions) if cut.issuperset(row.tolist())
        ]
    return make_plan(coupling, remove)

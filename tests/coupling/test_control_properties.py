"""Random subgraphs are pruned and proved."""

from __future__ import annotations

import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

import prunegraph as pg
from prunegraph.errors import ModelError
from prunegraph.graph.model import Graph
from prunegraph.selection.plan import make_plan
from tests.coupling.control_graphs import (
    ControlGrower,
)
from tests.oracle import outputs, prove
from tests.proof.test_properties import SLOW
from tests.random_graphs import GROWERS, Drawn


@st.composite
def draw_control(draw: st.DrawFn) -> Graph:
    """One to three pieces, then one or two control-flow nodes, then a piece."""
    grower = ControlGrower(Drawn(draw))
    for _ in range(draw(st.integers(1, 3))):
        grower.maps.append(getattr(grower, draw(st.sampled_from(GROWERS)))(grower.pick()))
    for _ in range(draw(st.integers(1, 2))):
        grow = draw(
            st.sampled_from([grower.control_if, grower.control_loop, grower.control_scan])
        )
        grower.maps.append(grow(grower.pick()))
    grower.maps.append(grower.conv(grower.maps[-1]))
    return grower.finish()


@settings(SLOW, max_examples=60)
@given(draw_control(), st.integers(0, 2**16), st.sampled_from([0.3, 0.5]))
def test_random_subgraphs(graph: Graph, seed: int, ratio: float) -> None:
    prove_subgraphs(graph, seed, ratio)


@pytest.mark.slow
@pytest.mark.often
@settings(SLOW, max_examples=300)
@given(draw_control(), st.integers(0, 2**16), st.sampled_from([0.3, 0.5]))
def test_many_random_subgraphs(graph: Graph, seed: int, ratio: float) -> None:
    prove_subgraphs(graph, seed, ratio)


def prove_subgraphs(graph: Graph, seed: int, ratio: float) -> None:
    hidden = [node for node in graph.layers if node.name.startswith("hidden")]
    alive = {layer for group in pg.analyze(graph).groups for layer in group.layers}
    assert any(node.name in alive for node in hidden)
    try:
        pruned, _ = prove(graph, seed, ratio)
    except ModelError:
        # ONNX Runtime runs a Scan only if it can tell the shapes in its subgraph: then not even the original runs.
        with pytest.raises(ModelError):
            outputs(graph)
        reject()
    for node in hidden:
        if node.name in alive:
            assert pruned.node(node.name).channels.outputs == 6 - int(6 * ratio)


@settings(SLOW, max_examples=20)
@given(draw_control())
def test_nothing_removed_is_the_identity(graph: Graph) -> None:
    pruned = pg.apply(graph, make_plan(pg.analyze(graph), {}))
    assert pruned.model.SerializeToString(
        deterministic=True
    ) == graph.model.SerializeToString(deterministic=True)

"""Costs as sums of pieces where branches may go: the figures of the cost of the cut graph."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import prunegraph as pg
from prunegraph.graph.model import Graph
from prunegraph.ops.cost import cost
from prunegraph.selection.deaths import Deaths
from prunegraph.selection.pieces import KINDS, Pieces
from prunegraph.selection.plan import make_plan
from prunegraph.selection.units import Limits, branch_unit, collect, make_units, up_to
from tests.residual_graphs import Residuals, draw_residuals


@given(draw_residuals(most=4), st.integers(0, 2**16))
def test_pieces_cost_what_the_cut_graph_does(graph: Graph, seed: int) -> None:
    rng = np.random.default_rng(seed)
    coupling = pg.analyze(graph)
    scores = {group.id: rng.random(group.channels) for group in coupling.groups}
    units = [
        *make_units(coupling, scores, Limits(round_to=1)),
        *map(branch_unit, coupling.branches),
    ]
    options = {
        unit.id: [{}, *(collect(up_to(unit.steps, step.share)) for step in unit.steps)]
        for unit in units
    }
    pieces = {kind: Pieces(coupling, kind, options) for kind in KINDS}
    for _ in range(4):
        chosen = {unit: int(rng.integers(len(each))) for unit, each in options.items()}
        remove = {
            id: channels
            for unit, option in chosen.items()
            for id, channels in options[unit][option].items()
        }
        pruned = pg.apply(graph, make_plan(coupling, remove))
        for kind, each in pieces.items():
            saved = each.original - each.measure(chosen)
            before, after = (getattr(cost(g), kind) for g in (graph, pruned))
            assert saved == before - after


def test_what_two_branches_share_goes_with_the_last() -> None:
    net = Residuals(0)
    b, width = net.b, net.width
    shared = net.conv(net.x, width, width, 1)
    node = b.nodes[-1]
    for _ in range(2):
        y = b.op("Mul", net.conv(net.x, width, width), b.op("Sigmoid", shared))
        net.x = net.add(net.x, y, False)
    graph = net.graph()
    coupling = pg.analyze(graph)
    first, second = (branch.id for branch in coupling.branches)
    deaths = Deaths(coupling, [first, second])
    layer = graph.node(node.name)
    assert deaths.of(layer) == (first, second)
    assert not deaths.goes(layer, [first]) and not deaths.goes(layer, [second])
    assert deaths.goes(layer, [first, second])
    assert deaths.goes(graph.weights[layer.inputs[1]], [first, second])
    inner = graph.node(coupling.branches[0].layers[0])
    assert deaths.of(inner) == (first,)

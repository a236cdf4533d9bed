"""A model of time: layers whose latency is a staircase of their width."""

from __future__ import annotations

from typing import Any

import prunegraph as pg
from prunegraph.graph.shapes import shape_info
from prunegraph.latency.cache import Cache
from prunegraph.latency.measured import Selected, select_by_measuring
from prunegraph.measuring.latency import Latency
from prunegraph.ops.cost import node_macs
from prunegraph.selection.options import SelectionOptions
from tests.builders import Builder


class Staircase:
    """A timer that computes: layers cost their MACs at widths rounded up to `stair`, odd input widths `penalty` times.

    `fixed` is what everything but the layers costs. Layers timed alone cost `bias` times what they cost in the model.
    """

    def __init__(
        self,
        graph: pg.Graph,
        stair: int = 1,
        penalty: float = 1.0,
        fixed: float = 0.0,
        bias: float = 1.0,
    ):
        self.graph, self.stair, self.penalty, self.fixed, self.bias = (
            graph,
            stair,
            penalty,
            fixed,
            bias,
        )
        self.timed: list[pg.Graph] = []
        self.models: list[pg.Graph] = []

    def cost(self, graph: pg.Graph) -> float:
        shapes = shape_info(graph).shapes
        total = 0.0
        for node in graph.nodes:
            macs, width = node_macs(node, shapes), node.channels.outputs
            if macs and width:
                odd = (node.channels.inputs or 0) % 4 and (node.channels.inputs or 0) > 4
                total += (
                    macs
                    / width
                    * -(-width // self.stair)
                    * self.stair
                    * (self.penalty if odd else 1.0)
                )
        return total / 1e6

    def against(self, pruned: pg.Graph, pairs: int = 1) -> Latency:
        if pairs == 1:
            self.models.append(pruned)
        a, b = self.original(), self.cost(pruned) + self.fixed
        return Latency(a, b, a / b, runs=1, threads=1)

    def alone(self, model: pg.Graph) -> float:
        self.timed.append(model)
        return self.cost(model) * self.bias

    def original(self) -> float:
        return self.cost(self.graph) + self.fixed


def chain(widths: tuple[int, ...] = (48, 64, 96, 64)) -> pg.Graph:
    b = Builder()
    x, c = b.input("n", 3, 16, 16), 3
    for i, width in enumerate(widths):
        x, c = b.relu(b.conv(x, c, width, name=f"conv{i}")), width
    return b.graph(b.head(x, c))


def choose(
    graph: pg.Graph, timer: Staircase, cache: Cache | None = None, **options: Any
) -> Selected:
    return select_by_measuring(
        pg.analyze(graph), SelectionOptions(**options), timer=timer, cache=cache or Cache()
    )

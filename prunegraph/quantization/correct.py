"""What rounding weights shifts on average, given back by the biases: b += (W - W') E[x], per output.

Source: ALGORITHMS 6.4; Nagel et al. 2019.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from prunegraph.graph import linear
from prunegraph.graph.model import Graph, Node
from prunegraph.quantization.weights import Codes
from prunegraph.runtime import patches
from prunegraph.runtime.statistics import Statistics

Array = np.ndarray


class _MeanRow:
    """Mean of a layer's input rows [groups, inputs]."""

    def __init__(self, node: Node, rows: patches.Rows):
        self.values: tuple[str, ...] = (node.inputs[0],)
        self.rows, self.count = rows, 0
        self.total: Array | float = 0.0

    def add(self, batch: int, *arrays: Array) -> None:
        result = self.rows.inputs(arrays[0].astype(np.float32, copy=False), batch)
        self.count += len(result)
        self.total = self.total + result.sum(axis=0, dtype=np.float64)

    @property
    def mean(self) -> Array:
        return np.asarray(self.total) / max(self.count, 1)


def mean_rows(statistics: Statistics, nodes: list[Node]) -> dict[int, Array]:
    """Means of what layers multiply with their weights [groups, inputs], by node index."""
    sums = {node.index: _MeanRow(node, statistics.rows(node)) for node in nodes}
    if sums:
        statistics.collect(list(sums.values()), "means")
    return {index: each.mean for index, each in sums.items()}


def shifts(
    graph: Graph, codes: Mapping[int, Codes], means: Mapping[int, Array]
) -> dict[int, Array]:
    """Say what each layer's outputs lose on average by the rounding of its weight [outputs], by node index."""
    result = {}
    for index, mean in means.items():
        node = graph.nodes[index]
        lost = linear.to_matrix(
            node, linear.LinearLayer(graph, node).weighted() - codes[index].values()
        )
        result[index] = np.einsum("gi,gio->go", mean, lost).reshape(-1)
    return result

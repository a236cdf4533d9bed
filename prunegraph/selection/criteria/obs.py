"""Structured Optimal Brain Surgeon on Gram matrices of layer inputs.

Removing input rows P of a layer costs, when its other weights make up for it as well as they
can, `tr(W[P]' (Ginv[P,P])^-1 W[P])` of squared output error, with G the covariance of its
input rows and Ginv its inverse. Channels go greedily, the cheapest first; after each one W and Ginv are
updated for what is gone. A channel that several layers read costs the sum, each layer's
error taken relative to its output's energy. The score of a channel is the error that has
piled up when it goes. Sources: Hassibi et al. 1993; Wang et al. 2024 (structured, on
graphs); ALGORITHMS F4 and 6.8.
"""

from __future__ import annotations

import numpy as np

from prunegraph.coupling.groups import Group, Member
from prunegraph.graph.linear import scaled_matrix
from prunegraph.graph.model import Graph, Node
from prunegraph.operators import is_convolution
from prunegraph.runtime.statistics import Statistics
from prunegraph.selection.criteria.base import Array, Context, criterion
from prunegraph.selection.criteria.magnitude import l2

#: Added to the diagonal of a covariance, relative to its mean.
DAMPING = 1e-2

#: A group's channels go in this many rounds at most; scores are updated after each.
ROUNDS = 64


@criterion("obs")
def obs(group: Group, context: Context) -> Array:
    """Output error that remains when a channel goes and the layers that read it make up for it (needs data)."""
    statistics = context.need_statistics("obs")
    readers = [
        reader
        for member in group.members
        for reader in _readers(member, group, context.graph, statistics)
    ]
    if not readers:
        # Nothing with a Gram matrix reads these channels (attention scores, a recurrence).
        return l2(group, context)
    scores = np.zeros(group.channels)
    alive = np.arange(group.channels)
    spent = 0.0
    size = max(1, group.channels // ROUNDS)
    while len(alive):
        costs = np.sum([reader.costs(alive) for reader in readers], axis=0)
        order = np.argsort(costs, kind="stable")[:size]
        for index in order:
            spent += max(float(costs[index]), np.finfo(np.float64).tiny)
            scores[alive[index]] = spent = np.nextafter(spent, np.inf)
        gone = alive[order]
        alive = np.delete(alive, order)
        if len(alive):
            for reader in readers:
                reader.remove(gone)
    return scores


class _Reader:
    """One layer (one group of a convolution) that reads a group's channels.

    Args:
        gram: covariance of its input rows [inputs, inputs].
        matrix: its weights [inputs, outputs].
        rows: input rows of every channel [channels, rows].
    """

    def __init__(self, gram: Array, matrix: Array, rows: Array):
        self.rows, self.matrix = rows, matrix
        self.energy = float(np.einsum("io,io->", matrix, gram @ matrix)) or 1.0
        size = len(gram)
        damping = DAMPING * np.trace(gram) / size or 1.0
        self.inverse = np.linalg.inv(gram + damping * np.eye(size))

    def costs(self, channels: Array) -> Array:
        """Relative squared error of removing each of some channels by itself."""
        rows = self.rows[channels]
        blocks = self.inverse[rows[:, :, None], rows[:, None, :]]
        weights = self.matrix[rows]
        return (
            np.einsum("cio,cio->c", weights, np.linalg.solve(blocks, weights)) / self.energy
        )

    def remove(self, channels: Array) -> None:
        """Remove channels, and let the others make up for it."""
        gone = self.rows[channels].reshape(-1)
        columns = self.inverse[:, gone]
        step = np.linalg.solve(
            self.inverse[np.ix_(gone, gone)], np.hstack([columns.T, self.matrix[gone]])
        )
        self.inverse -= columns @ step[:, : len(self.inverse)]
        self.matrix = self.matrix - columns @ step[:, len(self.inverse) :]


def _readers(
    member: Member, group: Group, graph: Graph, statistics: Statistics
) -> list[_Reader]:
    """The layers that read the group's channels along one axis of a weight."""
    result = []
    for index in member.use.layers if member.role == "in" else ():
        node = graph.nodes[index]
        gram = statistics.gram(node) if node.input(1) == member.weight else None
        if gram is not None:
            rows = input_rows(node, member, graph)
            matrix = scaled_matrix(graph, node)
            result += [
                _Reader(g.astype(np.float64), m, rows)
                for g, m in zip(gram.covariance, matrix, strict=True)
            ]
    return result


def input_rows(node: Node, member: Member, graph: Graph) -> Array:
    """Rows of a layer's matrix that belong to each channel of a member [channels, rows]."""
    shape = graph.weights[member.weight].shape
    each = int(np.prod(shape[2:], dtype=np.int64)) if is_convolution(node) else 1
    rows = member.positions[:, :, None] * each + np.arange(each)
    return rows.reshape(member.channels, -1)

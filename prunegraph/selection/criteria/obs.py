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

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from prunegraph.coupling.coupling import Coupling
from prunegraph.coupling.groups import Group, Member
from prunegraph.graph import symmetric
from prunegraph.graph.linear import LinearLayer, scaled_matrix, to_matrix
from prunegraph.graph.model import Graph, Node
from prunegraph.runtime.gram import Gram
from prunegraph.runtime.statistics import Statistics
from prunegraph.selection.criteria.base import Array, Context, criterion
from prunegraph.selection.criteria.contractions import product_error, product_places
from prunegraph.selection.criteria.magnitude import l2
from prunegraph.selection.criteria.parts import PartReader, cheapest, parts

#: Added to the diagonal of a covariance, relative to its mean.
DAMPING = 1e-2

#: Added to the diagonal of what says what errors do at the outputs, relative to its mean.
METRIC_DAMPING = 1e-3

#: A group's channels go in this many rounds at most; scores are updated after each.
ROUNDS = 64

#: Columns that are brought down to as many as there are inputs at a time, at least.
COLUMNS = 4096


@criterion("obs", at_outputs={})
def obs(group: Group, context: Context) -> Array:
    """Output error that remains when a channel goes and the layers that read it make up for it (needs data)."""
    statistics = context.need_statistics("obs")
    _gather(context, statistics)
    readers = _readers(group, context.coupling, statistics)
    if not readers:
        # Nothing with a Gram matrix reads these channels: attention scores, or a recurrence.
        scores = product_error(group, context)
        return scores if scores is not None else l2(group, context)
    scores = np.zeros(group.channels)
    alive = np.arange(group.channels)
    spent = 0.0
    size = max(1, group.channels // ROUNDS)
    while len(alive):
        costs = np.sum([reader.costs(alive) for reader in readers], axis=0)
        order = cheapest(costs, group, alive, size)
        for index in order:
            spent += max(float(costs[index]), np.finfo(np.float64).tiny)
            scores[alive[index]] = spent = np.nextafter(spent, np.inf)
        gone = alive[order]
        alive = np.delete(alive, order)
        if len(alive):
            for reader in readers:
                reader.remove(gone, alive)
    return scores


def _gather(context: Context, statistics: Statistics) -> None:
    """Gather what the scores of all groups need, in one pass over the data."""
    nodes = [node for node in reading(context.coupling) if statistics.has_gram(node)]
    if not statistics.has_grams(nodes):
        statistics.gather(nodes, product_places(context))


class _Reader:
    """Layers (or one group of a convolution each) that read a group's channels in the same rows.

    The inverse of the covariance is never updated as a whole. With `factor` the rows by which it has been
    updated, the inverse now is `inverse - factor.T @ factor`; of that only the blocks of single
    channels are kept up to date, and the rows of channels that go are made when they go: one
    Cholesky factorization, in the order in which channels go.

    Args:
        gram: covariance of their input rows [inputs, inputs], float64; taken over, and damped in place.
        matrix: their weights [inputs, outputs], or what has the same products of rows.
        rows: input rows of every channel [channels, rows].
    """

    def __init__(self, gram: Array, matrix: Array, rows: Array):
        gram[np.diag_indices(len(gram))] += DAMPING * np.trace(gram) / len(gram) or 1.0
        inverse = symmetric.inverse(gram, in_place=True)
        channels, self.each = rows.shape
        self.blocks = inverse[rows[:, :, None], rows[:, None, :]]
        self.matrix = matrix[rows]
        # Rows of other channels stay: nothing need be known of them any more.
        mine = rows.reshape(-1)
        whole = np.array_equal(mine, np.arange(len(gram)))
        self.inverse = inverse if whole else inverse[np.ix_(mine, mine)]
        self.factor = np.empty(self.inverse.shape)
        self.done = 0
        self.place = np.arange(channels)

    def costs(self, channels: Array) -> Array:
        """Squared error of removing each of some channels by itself."""
        weights, blocks = self.matrix[channels], self.blocks[channels]
        # Many right sides: to multiply with a small inverse is quicker than to solve.
        solved = weights / blocks if self.each == 1 else np.linalg.inv(blocks) @ weights
        return np.einsum("cio,cio->c", weights, solved)

    def remove(self, gone: Array, alive: Array) -> None:
        """Remove channels, and let those that are alive make up for it."""
        columns, rest = self._rows(gone), self._rows(alive)
        known = self.factor[: self.done]
        update = self.inverse[columns] - known[:, columns].T @ known
        # Small, with many right sides: to multiply with its inverse is several times faster than to solve.
        inverse = np.linalg.inv(np.linalg.cholesky(update[:, columns]))
        step = inverse @ update[:, rest]
        weights = inverse @ self.matrix[gone].reshape(len(columns), -1)
        by_channel = step.T.reshape(len(alive), self.each, -1)
        self.blocks[alive] -= by_channel @ by_channel.swapaxes(1, 2)
        self.matrix[alive] -= (step.T @ weights).reshape(len(alive), self.each, -1)
        self.factor[self.done : self.done + len(columns), rest] = step
        self.done += len(columns)
        if 2 * len(rest) < len(self.inverse):
            self._forget(alive, rest)

    def _rows(self, channels: Array) -> Array:
        """Where rows of channels lie in the inverse, in order."""
        return (self.place[channels][:, None] * self.each + np.arange(self.each)).reshape(
            -1
        )

    def _forget(self, alive: Array, rest: Array) -> None:
        """Leave out what belongs to channels that are gone."""
        self.inverse = self.inverse[np.ix_(rest, rest)]
        factor = np.empty((self.done + len(rest), len(rest)))
        factor[: self.done] = self.factor[: self.done, rest]
        self.factor = factor
        self.place[alive] = np.arange(len(alive))


@dataclass
class _Rows:
    """What layers read in the same rows: channels of a group at places of a Gram matrix, and weights.

    An error of the outputs is one of the weights' products `W W'` with each other, whatever the outputs are: of more
    outputs than inputs as many are kept as there are inputs, by a QR factorization of the transpose.
    """

    gram: Gram
    which: int
    channels: Array
    rows: Array
    matrix: Array

    def add(self, matrix: Array) -> None:
        """Take in another layer's weights [inputs, outputs]."""
        self.matrix = _narrow(np.concatenate([self.matrix, matrix], axis=1))

    def reader(self, channels: int) -> PartReader:
        """What removing channels of a group of so many costs."""
        gram = self.gram.matrix(self.which, np.float64)
        return PartReader(_Reader(gram, self.matrix, self.rows), self.channels, channels)


def _narrow(matrix: Array) -> Array:
    """A matrix with no more columns than rows, whose rows have the same products.

    Columns are taken some at a time: a layer that scores words has as many as its vocabulary.
    """
    inputs, outputs = matrix.shape
    if outputs <= inputs:
        return matrix
    size = max(COLUMNS, 4 * inputs)
    result = np.empty((inputs, 0))
    for start in range(0, outputs, size):
        part = np.concatenate([result, matrix[:, start : start + size]], axis=1)
        result = np.asarray(np.linalg.qr(part.T, mode="r")).T
    return result


def _readers(group: Group, coupling: Coupling, statistics: Statistics) -> list[PartReader]:
    """The layers that read the group's channels along one axis of a weight; those that read the same rows as one."""
    metric = _metric(group, coupling, statistics)
    result: dict[tuple[int, int, bytes, bytes], _Rows] = {}
    for member in group.members:
        for node, gram in grams(member, coupling, statistics):
            whole = _matrix(coupling.graph, node, metric)
            for i, channels, rows in parts(node, member, coupling.graph, len(whole)):
                matrix = _narrow(whole[i])
                if not metric:
                    matrix = _relative(matrix, gram.matrix(i))
                key = id(gram), i, channels.tobytes(), rows.tobytes()
                if key in result:
                    result[key].add(matrix)
                else:
                    result[key] = _Rows(gram, i, channels, rows, matrix)
    # One after the other: a reader holds its own copy of what it is made of.
    return [result.pop(key).reader(group.channels) for key in list(result)]


def _relative(matrix: Array, gram: Array) -> Array:
    """Weights [inputs, outputs] for which the energy of the outputs is 1; it is one of the products of their rows."""
    energy = float(np.vdot(matrix, gram.astype(np.float64) @ matrix))
    return matrix / np.sqrt(energy) if energy > 0 else matrix


def _metric(group: Group, coupling: Coupling, statistics: Statistics) -> dict[str, Array]:
    """What errors of the layers that read a group do at the outputs, by name; empty if it is not known of all."""
    result = {}
    for node in (n for m in group.members for n in reading_member(m, coupling.graph)):
        if not statistics.has_gram(node):
            continue
        known = statistics.error_metric(node)
        if known is None:
            return {}
        result[node.name] = known
    return result


def _matrix(graph: Graph, node: Node, metric: Mapping[str, Array]) -> Array:
    """A layer's matrix [groups, inputs, outputs], its outputs such that squared errors of them are comparable."""
    if node.name not in metric:
        return scaled_matrix(graph, node)
    weight = graph.weights[node.inputs[1]].read().astype(np.float64)
    matrix = to_matrix(node, weight) * LinearLayer(graph, node).alpha
    count = matrix.shape[2]
    each = [
        metric[node.name][i * count : (i + 1) * count, i * count : (i + 1) * count]
        for i in range(len(matrix))
    ]
    return np.stack(
        [m @ symmetric.root(e, METRIC_DAMPING) for m, e in zip(matrix, each, strict=True)]
    )


def grams(
    member: Member, coupling: Coupling, statistics: Statistics
) -> Iterator[tuple[Node, Gram]]:
    """Layers that read channels along one axis of a weight, with Gram matrices (one pass for those of all groups)."""
    for node in reading_member(member, coupling.graph):
        gram = statistics.gram(node, reading(coupling))
        if gram is not None:
            yield node, gram


def reading_member(member: Member, graph: Graph) -> list[Node]:
    """The layers that read a member's channels along one axis of their weight."""
    layers = member.use.layers if member.role == "in" else ()
    nodes = [graph.nodes[index] for index in layers]
    return [node for node in nodes if node.input(1) == member.weight]


def reading(coupling: Coupling) -> list[Node]:
    """The layers that read channels of groups along one axis of a weight."""
    key = ("reading", coupling.attention, coupling.blocks)
    if key not in coupling.graph.cache:
        members = (member for group in coupling.groups for member in group.members)
        nodes = {n.index: n for m in members for n in reading_member(m, coupling.graph)}
        coupling.graph.cache[key] = list(nodes.values())
    result: list[Node] = coupling.graph.cache[key]
    return result

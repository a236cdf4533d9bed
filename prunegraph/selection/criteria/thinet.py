"""Channels whose sum the next layer, or the network, misses least.

A channel c with input rows P contributes `x[P]' W[P]` to a layer that reads it. From the products G of the
layer's input rows, `M[c, d] = tr(W[Pc]' G[Pc, Pd] W[Pd])` is the mean product of two contributions, so that
the error of removing a set T is the sum of M over T x T. T grows greedily by the channel that adds
least, equally many from each cell of a group; a channel's score is the error when it goes. Several readers add up, each
relative to its output's energy. `centred` takes covariances for G: what a constant makes up for does not count. A group
that no layer with a Gram matrix reads is scored by `l2`. Source: Luo et al. 2017 (there on sampled positions).

With `error=outputs` contributions are those to the network's outputs, to first order (`ErrorMetrics.contributions`),
all readers of a channel together: errors of different layers, and of different places, may cancel.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from prunegraph.coupling.coupling import Coupling
from prunegraph.coupling.groups import Group, Member
from prunegraph.errors import DataError
from prunegraph.graph.linear import groups, scaled_matrix
from prunegraph.runtime.statistics import Statistics
from prunegraph.selection.criteria.base import Array, Context, criterion
from prunegraph.selection.criteria.magnitude import l2
from prunegraph.selection.criteria.obs import grams, reading_member
from prunegraph.selection.criteria.parts import parts


@criterion("thinet", at_outputs={"error": "outputs"})
def thinet(
    group: Group,
    context: Context,
    *,
    centred: bool = False,
    error: Literal["layers", "outputs"] = "layers",
) -> Array:
    """Error of the next layers' outputs when a channel and those below it go (needs data).

    With `error=outputs` that of the network's outputs, to first order (needs the extra `[torch]`); of groups that are
    not differentiated through, the next layers'.
    """
    statistics = context.need_statistics("thinet")
    if error == "outputs":
        if statistics.metrics is None:
            raise DataError(
                "thinet:error=outputs needs gradients, which come with the extra [torch], --curvature auto, and a "
                "model that is not too large for it"
            )
        if (products := _at_outputs(group, context.coupling, statistics)) is not None:
            return greedy(products, group)
    by_layer = [
        matrix
        for member in group.members
        for matrix in _contributions(member, context.coupling, statistics, centred)
    ]
    return greedy(np.sum(by_layer, axis=0), group) if by_layer else l2(group, context)


def greedy(products: Array, group: Group) -> Array:
    """Error when each channel goes, from mean products of contributions [channels, channels]."""
    costs = np.diag(products).copy()
    scores = np.empty(len(costs))
    error = spent = 0.0
    turns = _Turns(group)
    for _ in range(len(costs)):
        index = int(np.argmin(np.where(turns.mine, costs, np.inf)))
        error += float(costs[index])
        # Errors that cancel may fall again; scores keep the order.
        scores[index] = spent = np.nextafter(max(spent, error), np.inf)
        costs += 2 * products[index]
        turns.take(index)
    return scores


class _Turns:
    """Whose turn it is to go: every cell of a group loses one channel before any loses the next.

    Args:
        group: its channels; all are one cell where it has none.
    """

    def __init__(self, group: Group):
        channels = np.arange(group.channels)
        #: Channels by cell [cells, channels of one].
        self.cells = group.cells if group.cells is not None else channels[None]
        self.cell = np.empty(group.channels, np.int64)
        self.cell[self.cells] = np.arange(len(self.cells))[:, None]
        self.remaining = np.ones(group.channels, bool)
        #: The channels that may go next.
        self.mine = self.remaining.copy()

    def take(self, channel: int) -> None:
        """Let a channel go."""
        self.remaining[channel] = False
        self.mine[self.cells[self.cell[channel]]] = False
        if not self.mine.any():
            self.mine = self.remaining.copy()


def _at_outputs(group: Group, coupling: Coupling, statistics: Statistics) -> Array | None:
    """Mean products of what channels add to the network's outputs [channels, channels]; None where it is not known."""
    total: Array | None = None
    for member in group.members:
        for node in reading_member(member, coupling.graph):
            known = statistics.contributions(node)
            if known is None:
                return None
            count = groups(node)
            size = known.shape[1] // count
            for which, channels, rows in parts(node, member, coupling.graph, count):
                each = rows.shape[1] // member.positions.shape[1]
                inputs = which * size + rows[:, ::each] // each
                if total is None:
                    total = np.zeros((len(known), member.channels))
                total[:, channels] += known[:, inputs].sum(axis=2)
    return None if total is None else total.T @ total / len(total)


def _contributions(
    member: Member, coupling: Coupling, statistics: Statistics, centred: bool
) -> list[Array]:
    """Mean products of channels' contributions to each layer that reads a weight [channels, channels]."""
    result = []
    for node, gram in grams(member, coupling, statistics):
        matrices = scaled_matrix(coupling.graph, node)
        products = gram.covariance if centred else gram.products
        for i, channels, rows in parts(node, member, coupling.graph, len(matrices)):
            pairs = (matrices[i] @ matrices[i].T) * products[i]
            energy = float(pairs.sum()) or 1.0
            by_row = pairs[rows.reshape(-1)].reshape(*rows.shape, -1).sum(axis=1)
            shared = np.zeros((member.channels, member.channels))
            shared[np.ix_(channels, channels)] = (
                by_row[:, rows.reshape(-1)].reshape(len(rows), *rows.shape).sum(axis=2)
                / energy
            )
            result.append(shared)
    return result

"""Channels whose sum the next layer misses least.

A channel c with input rows P contributes `x[P]' W[P]` to a layer that reads it. From the products G of the
layer's input rows, `M[c, d] = tr(W[Pc]' G[Pc, Pd] W[Pd])` is the mean product of two contributions, so that
the error of removing a set T is the sum of M over T x T. T grows greedily by the channel that adds
least; a channel's score is the error when it goes. Several readers add up, each relative to its
output's energy. `centred` takes covariances for G: what a constant makes up for does not count. A group that no
layer with a Gram matrix reads is scored by `l2`. Source: Luo et al. 2017 (there on sampled positions).
"""

from __future__ import annotations

import numpy as np

from prunegraph.coupling.coupling import Coupling
from prunegraph.coupling.groups import Group, Member
from prunegraph.graph.linear import scaled_matrix
from prunegraph.runtime.statistics import Statistics
from prunegraph.selection.criteria.base import Array, Context, criterion
from prunegraph.selection.criteria.magnitude import l2
from prunegraph.selection.criteria.obs import grams
from prunegraph.selection.criteria.parts import parts


@criterion("thinet")
def thinet(group: Group, context: Context, *, centred: bool = False) -> Array:
    """Error of the next layers' outputs when a channel and those below it go (needs data)."""
    statistics = context.need_statistics("thinet")
    products = [
        matrix
        for member in group.members
        for matrix in _contributions(member, context.coupling, statistics, centred)
    ]
    return greedy(np.sum(products, axis=0)) if products else l2(group, context)


def greedy(products: Array) -> Array:
    """Error when each channel goes, from mean products of contributions [channels, channels]."""
    costs = np.diag(products).copy()
    scores = np.empty(len(costs))
    error = spent = 0.0
    for _ in range(len(costs)):
        index = int(np.argmin(costs))
        error += float(costs[index])
        # Errors that cancel may fall again; scores keep the order.
        scores[index] = spent = np.nextafter(max(spent, error), np.inf)
        costs += 2 * products[index]
        costs[index] = np.inf
    return scores


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

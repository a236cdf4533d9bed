"""Weights that make up for inputs that are gone, from what data show of the original.

With G the covariance of a layer's input rows, K the rows that stay and P those that go, what went is guessed best by
what stays: `W' = W[K] + G[K,K]^-1 G[K,P] W[P]`. The samples say this more surely than how the smaller network
differs from the original before the layer; so the fit to that network stays near to these weights, and not to what
the cut left (`recovery.regression`). Source: ALGORITHMS F4.
"""

from __future__ import annotations

import numpy as np

from prunegraph.coupling.survivors import Survivors, taken
from prunegraph.coupling.uses import Use
from prunegraph.graph import linear, symmetric
from prunegraph.graph.model import Graph, Node
from prunegraph.recovery.changes import original_of
from prunegraph.runtime.division import divided
from prunegraph.runtime.statistics import Statistics
from prunegraph.selection.criteria.obs import DAMPING, reading

Array = np.ndarray


class Compensation:
    """What layers behind a cut would best be, if nothing but their own inputs had gone.

    Args:
        survivors: what the cut left of the original.
        pruned: the pruned graph.
        statistics: what data show of the original; samples that damage is measured on do not count, so that
            what was gathered to choose channels serves here too.
    """

    def __init__(self, survivors: Survivors, pruned: Graph, statistics: Statistics):
        self._survivors, self._pruned = survivors, pruned
        self._statistics, _ = divided(statistics)
        self._original = survivors.coupling.graph
        self._uses = {
            (use.weight, use.node, use.slot): use for use in survivors.coupling.uses
        }

    def matrix(self, node: Node, *, centred: bool) -> Array | None:
        """A layer's matrix [groups, inputs, outputs], as `linear.to_matrix` gives it.

        Args:
            node: of the pruned graph.
            centred: whether the layer has an intercept, which takes up the means.

        Returns:
            None where no input is gone, where data show nothing of the inputs, or where the layer is not the
            original's with fewer inputs and outputs.
        """
        before = original_of(self._survivors, node)
        use = self._use(before) if before is not None else None
        if before is None or use is None or not self._statistics.has_gram(before):
            return None
        axes = self._survivors.use(use)
        weight = self._original.weights[use.weight].read()
        now = self._pruned.weights[node.inputs[1]]
        if now.shape == weight.shape or not np.array_equal(taken(weight, axes), now.read()):
            return None
        stays = np.zeros(weight.size, bool)
        stays[taken(np.arange(weight.size).reshape(weight.shape), axes)] = True
        rows = np.any(linear.to_matrix(before, stays.reshape(weight.shape)), axis=2)
        if rows.all():
            return None
        whole = linear.to_matrix(before, weight.astype(np.float64))
        self._compensate(before, whole, np.asarray(rows), centred)
        values = linear.from_matrix(before, whole, weight.shape)
        return linear.to_matrix(node, taken(values, axes))

    def _use(self, before: Node) -> Use | None:
        name, index = before.input(1), before.index
        return self._uses.get((name, index, 1)) or self._uses.get((name, -1, -1))

    def _compensate(self, before: Node, whole: Array, rows: Array, centred: bool) -> None:
        """Let the rows that stay of each matrix [groups, inputs, outputs] make up for the others, in place."""
        gram = self._statistics.gram(before, reading(self._survivors.coupling))
        if gram is None:
            return
        products = gram.centred if centred else gram.products
        # Where rows are few they say less: inputs for each row.
        damping = max(DAMPING, whole.shape[1] / max(gram.count, 1))
        for matrix, stay, seen in zip(whole, rows, products, strict=True):
            if stay.all() or not stay.any():
                continue
            inside = seen[np.ix_(stay, stay)].astype(np.float64)
            level = float(np.trace(inside)) / len(inside)
            inside[np.diag_indices(len(inside))] += damping * level or 1.0
            across = seen[np.ix_(stay, ~stay)].astype(np.float64) @ matrix[~stay]
            matrix[stay] += symmetric.solve(inside, across)

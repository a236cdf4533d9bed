"""Damage of layers of low rank at the outputs, by themselves and beside channels that go.

A layer gets the product of its factors for its weight: shapes stay, so that it runs beside removals in one pass
(`tuning.damage`). One factor is fitted to what the data show of the layer's inputs, as the decomposition does it, and
the intercept takes up the means.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from prunegraph.coupling.survivors import Own, Survivors
from prunegraph.errors import DataError
from prunegraph.graph import linear
from prunegraph.ranks.options import RankedLayer
from prunegraph.rewriting.decomposable import FORMS
from prunegraph.rewriting.refit import refitted
from prunegraph.rewriting.reweight import Revision
from prunegraph.runtime.gram import Gram
from prunegraph.selection.ranks import LayerRanks
from prunegraph.selection.units import Contender, Removal
from prunegraph.tuning.damage import SAMPLES, SKETCHED, Curve, Damage, power_law
from prunegraph.tuning.relay import Version

Array = np.ndarray

#: Places among a layer's options at which it is measured.
PLACES = (0.0, 0.5, 1.0)


@dataclass(frozen=True)
class RankDamage:
    """Measures candidates: channels that go, and layers of low rank.

    Args:
        damage: measures removals.
        layers: the layers that may have low rank, by name.
    """

    damage: Damage
    layers: Mapping[str, RankedLayer]

    def curves(self) -> dict[str, list[float]]:
        """What each of the ranks of a layer does to the outputs, by layer.

        Raises:
            DataError: the outputs are no numbers that could be compared, or a layer is in a subgraph.
            ModelError: a part of the model cannot be run by itself.
        """
        self.damage.substitution.gather([each.layer.node for each in self.layers.values()])
        wanted = [(each, place) for each in self.layers.values() for place in _places(each)]
        candidates = []
        for each, place in wanted:
            option = each.options[place]
            ranks = LayerRanks(each.name, option.method, option.ranks)
            candidates.append(Contender({}, (ranks,)))
        values = self.measure(candidates, SKETCHED)
        points: dict[str, Curve] = {name: [] for name in self.layers}
        for (each, place), value in zip(wanted, values, strict=True):
            points[each.name].append((_error(each, place), value))
        return {
            name: [
                damage
                for _, damage in power_law(
                    points[name], [_error(each, i) for i in range(len(each.options))]
                )
            ]
            for name, each in self.layers.items()
        }

    def measure(
        self, candidates: Sequence[Contender], most: int = SAMPLES[1]
    ) -> list[float]:
        """The damage of each candidate, on `most` samples at most: 0 is the original. Raises as `curves` does."""
        return self.damage.judged([self._version(each) for each in candidates], most)

    def _version(self, candidate: Contender) -> Version:
        if not candidate.ranks:
            return self.damage.version(candidate.removal)
        substitution = self.damage.substitution
        touched = substitution.touched(candidate.removal)
        for each in candidate.ranks:
            node = self.layers[each.layer].layer.node
            touched |= {node.index, *substitution.behind(node)}
        return Version(frozenset(touched), partial(self._revision, candidate))

    def _revision(self, candidate: Contender, nodes: Collection[int]) -> Revision:
        substitution = self.damage.substitution
        revision = substitution.revision(candidate.removal, nodes)
        survivors = Survivors(self.damage.coupling, candidate.removal)
        for each in candidate.ranks:
            if substitution.concerns(self.layers[each.layer].layer.node, nodes):
                self._approximate(revision, each, survivors, candidate.removal)
        return revision

    def _approximate(
        self, revision: Revision, ranks: LayerRanks, survivors: Survivors, removal: Removal
    ) -> None:
        """Give a layer the product of its factors, where it has something left to read and to make."""
        layer = self.layers[ranks.layer]
        node, shape = layer.layer.node, layer.layer.shape
        gram = self.damage.substitution.gram(node)
        if gram is None:
            raise DataError(
                f"{revision.graph.source}: the data show nothing of what {node.name!r} reads"
            )
        old, alpha = (
            revision.matrix(node)[0],
            linear.LinearLayer(revision.graph, node).alpha,
        )
        whole = (old / alpha).T.reshape(shape)
        outputs, inputs = self._kept(layer, survivors)
        part = whole[np.ix_(outputs, inputs)]
        taps = int(np.prod(shape[2:]))
        rows = (inputs[:, None] * taps + np.arange(taps)).reshape(-1)
        centred = revision.can_intercept(node)
        moments = _moments(gram, rows, centred)
        form = (
            FORMS[ranks.method](part)
            if removal
            else layer.known.form(layer.layer, ranks.method)
        )
        factors = refitted(ranks.method, form.factors(ranks.ranks), part, moments)
        new = np.array(whole)
        new[np.ix_(outputs, inputs)] = form.product(factors)
        matrix = new.reshape(len(new), -1).T * alpha
        revision.set_matrix(node, matrix[None])
        if centred:
            means = gram.mean[0].astype(np.float64) @ (old - matrix)
            revision.set_intercept(node, revision.intercept(node) + means)

    def _kept(self, layer: RankedLayer, survivors: Survivors) -> tuple[Array, Array]:
        """Outputs and inputs of a layer that stay."""
        use = next(
            (
                use
                for use in self.damage.coupling.uses
                if use.weight == layer.layer.weight.name
            ),
            None,
        )
        axes = [None, None] if use is None else survivors.use(use)[:2]
        if use is not None and linear.output_axis(layer.layer.node):
            axes.reverse()
        outputs, inputs = (
            # Where each block of another axis has its own, all of them: nothing is known of the whole then.
            np.arange(size) if kept is None or isinstance(kept, Own) else kept
            for size, kept in zip(layer.layer.shape[:2], axes, strict=True)
        )
        return outputs, inputs


def _moments(gram: Gram, rows: Array, centred: bool) -> Array:
    """Means of products of some of a layer's input rows: as exact as the data have them, which is single precision."""
    whole = gram.matrix(0)
    if not centred:
        mean = gram.mean[0].astype(np.float32)
        whole += mean[:, None] * mean
    return whole if len(rows) == len(whole) else whole[np.ix_(rows, rows)]


def _places(layer: RankedLayer) -> list[int]:
    """Numbers of the options of a layer at which it is measured."""
    last = len(layer.options) - 1
    return sorted({round(place * last) for place in PLACES})


def _error(layer: RankedLayer, place: int) -> float:
    """The error of an option's weight, above 0 and rising from option to option."""
    return max(float(layer.options[place].error), 1e-12) * (1 + 1e-9 * place)

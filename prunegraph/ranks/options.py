"""Ranks that each layer can have, and what is left of a layer then."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

from prunegraph.coupling.coupling import Coupling
from prunegraph.coupling.survivors import Survivors
from prunegraph.rewriting.decomposable import DecomposableLayer, layers
from prunegraph.rewriting.decompose import Known
from prunegraph.rewriting.ranks import RankChoice, hull, ladder
from prunegraph.selection.ranks import LayerRanks

#: Ranks of a layer at most; more are thinned out evenly.
OPTIONS = 12

#: Bytes of factorizations that are held: of some layers, since one after the other is looked at.
HELD = 2**26

#: What a bound counts, as `RankChoice.saved` counts it.
COUNTED = {"macs": "macs", "params": "params", "bytes": "params"}


@dataclass(frozen=True)
class RankedLayer:
    """A layer and the ranks that pay for it, from the highest to the lowest.

    Args:
        layer: the layer, as it is in the original.
        options: ranks on the lower convex hull of the weight's error over what they save.
        steps: all ranks that pay.
        known: its factorizations, shared with others.
    """

    layer: DecomposableLayer
    options: tuple[RankChoice, ...]
    steps: tuple[RankChoice, ...] = field(repr=False)
    known: Known = field(repr=False)

    @property
    def name(self) -> str:
        """The layer's name."""
        return self.layer.node.name

    def ranks(self, choice: RankChoice, shape: Sequence[int]) -> LayerRanks | None:
        """What a choice comes to for a weight of another shape [O, I, *kernel]; None if it does not pay."""
        layer = replace(self.layer, shape=tuple(shape))
        ranks = tuple(map(min, choice.ranks, full(choice.method, shape)))
        (params, macs), now = layer.cost(), layer.cost_with(choice.method, ranks)
        # Equal MACs pay only where none are known.
        pays = now[0] < params and (now[1] < macs or not macs)
        return LayerRanks(self.name, choice.method, ranks) if pays else None

    def saved(self, kind: str, ranks: LayerRanks, shape: Sequence[int]) -> int:
        """What ranks save of a layer whose weight has a shape [O, I, *kernel], in "macs", "params" or "bytes"."""
        layer = replace(self.layer, shape=tuple(shape))
        (params, macs), now = layer.cost(), layer.cost_with(ranks.method, ranks.ranks)
        if kind == "macs":
            return macs - now[1]
        return (params - now[0]) * (
            self.layer.weight.dtype.itemsize if kind == "bytes" else 1
        )


def full(method: str, shape: Sequence[int]) -> tuple[int, ...]:
    """The ranks at which nothing is dropped of a weight [O, I, *kernel]."""
    outputs, inputs, *kernel = shape
    taps = math.prod(kernel)
    if method == "tucker2":
        return min(outputs, inputs * taps), min(inputs, outputs * taps)
    if method == "spatial":
        return (min(outputs * kernel[1], inputs * kernel[0]),)
    return (min(outputs, inputs * taps),)


def find_ranked(
    coupling: Coupling, kind: str, round_to: int, keep: Collection[str] = ()
) -> list[RankedLayer]:
    """The layers that could have low rank, in topological order: convolutions with kernels of more than one element.

    Args:
        coupling: the analysis of the graph.
        kind: what is to be saved: "macs", "params" or "bytes".
        round_to: ranks are a multiple of this.
        keep: layers that stay whole.
    """
    known, counted = Known(most=HELD), COUNTED[kind]
    gone = Survivors(coupling, {}).gone
    result = []
    for node, layer in layers(coupling.graph, coupling.shape_info.shapes):
        # Trained matrices and 1x1 kernels are hardly of low rank; what pays are kernels that splits make cheaper.
        if isinstance(layer, str) or layer.is_matrix or node.name in keep:
            continue
        if node.index in gone:
            continue
        steps = ladder(layer, layer.methods("auto"), round_to, counted)
        options = [each for _, each in hull(steps, counted)]
        if options:
            result.append(RankedLayer(layer, tuple(_thinned(options)), tuple(steps), known))
    return result


def _thinned(options: Sequence[RankChoice]) -> list[RankChoice]:
    """At most `OPTIONS` of them, the last among them."""
    count = min(len(options), OPTIONS)
    return [options[-(-len(options) * (i + 1) // count) - 1] for i in range(count)]

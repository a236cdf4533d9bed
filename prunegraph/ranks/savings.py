"""What ranks save of layers that lose channels at the same time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from prunegraph.coupling.coupling import Coupling
from prunegraph.coupling.survivors import Survivors
from prunegraph.graph import linear
from prunegraph.ops.rule import Shape
from prunegraph.ranks.options import RankedLayer
from prunegraph.selection.sizes import Sizes
from prunegraph.selection.units import Removal


class Widths:
    """Shapes of the weights of some layers, by the options of the units that change them.

    Args:
        coupling: the analysis of the graph.
        options: by unit, what each of its options removes, more and more.
        layers: the layers that are asked for.
    """

    def __init__(
        self,
        coupling: Coupling,
        options: Mapping[str, Sequence[Removal]],
        layers: Sequence[RankedLayer],
    ):
        self._coupling = coupling
        uses = {use.weight: use for use in coupling.uses}
        self._uses = {each.name: uses.get(each.layer.weight.name) for each in layers}
        self._sizes = Sizes(coupling, options)
        self._axes = {
            name: [self._sizes.axis(labels) for labels in use.labels]
            for name, use in self._uses.items()
            if use is not None
        }

    def of(self, layer: RankedLayer, chosen: Mapping[str, int]) -> Shape:
        """The shape [O, I, *kernel] that is left of a layer's weight with an option for each unit."""
        axes = self._axes.get(layer.name)
        if axes is None:
            return layer.layer.shape
        return _outputs_first(layer, self._sizes.shape(axes, chosen))

    def under(self, layer: RankedLayer, removal: Removal) -> Shape:
        """The shape [O, I, *kernel] that is left of a layer's weight under a removal."""
        use = self._uses[layer.name]
        if use is None:
            return layer.layer.shape
        survivors = Survivors(self._coupling, removal)
        return _outputs_first(layer, [survivors.size(labels) for labels in use.labels])


def _outputs_first(layer: RankedLayer, sizes: Sequence[int]) -> Shape:
    """The sizes of a weight's axes, with that of the outputs in front."""
    return tuple(sizes[::-1] if linear.output_axis(layer.layer.node) else sizes)

"""What ranks save of layers that lose channels at the same time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from prunegraph.coupling.coupling import Coupling
from prunegraph.coupling.survivors import Survivors
from prunegraph.graph import linear
from prunegraph.ranks.options import RankedLayer
from prunegraph.selection.units import Removal

Shape = tuple[int, ...]


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
        self._coupling, self._options = coupling, options
        uses = {use.weight: use for use in coupling.uses}
        self._uses = {each.name: uses.get(each.layer.weight.name) for each in layers}
        self._touching: dict[str, list[str]] = {each.name: [] for each in layers}
        for unit, choices in options.items():
            gone = Survivors(coupling, choices[-1])
            for each in layers:
                if self._shape(gone, each) != each.layer.shape:
                    self._touching[each.name].append(unit)
        self._known: dict[tuple[str, tuple[int, ...]], Shape] = {}

    def of(self, layer: RankedLayer, chosen: Mapping[str, int]) -> Shape:
        """The shape [O, I, *kernel] that is left of a layer's weight with an option for each unit."""
        units = self._touching[layer.name]
        key = layer.name, tuple(chosen[unit] for unit in units)
        if key not in self._known:
            removal = {
                group: channels
                for unit, option in zip(units, key[1], strict=True)
                for group, channels in self._options[unit][option].items()
            }
            survivors = Survivors(self._coupling, removal)
            self._known[key] = self._shape(survivors, layer)
        return self._known[key]

    def under(self, layer: RankedLayer, removal: Removal) -> Shape:
        """The shape [O, I, *kernel] that is left of a layer's weight under a removal."""
        return self._shape(Survivors(self._coupling, removal), layer)

    def _shape(self, survivors: Survivors, layer: RankedLayer) -> Shape:
        use = self._uses[layer.name]
        if use is None:
            return layer.layer.shape
        sizes = tuple(survivors.size(labels) for labels in use.labels)
        return sizes[::-1] if linear.output_axis(layer.layer.node) else sizes

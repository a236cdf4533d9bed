"""Sizes of axes when units lose channels, for solvers that ask often.

Most axes change with one unit alone: their sizes are worked out once for each of its options.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from prunegraph.coupling.coupling import Coupling
from prunegraph.coupling.survivors import Survivors
from prunegraph.labels.labels import Labels
from prunegraph.ops.rule import Shape
from prunegraph.selection.units import Removal


class Sizes:
    """Says how long axes are.

    Args:
        coupling: the analysis of the graph.
        options: by unit, what each of its options removes, more and more.
    """

    def __init__(self, coupling: Coupling, options: Mapping[str, Sequence[Removal]]):
        self._coupling, self._options = coupling, options
        self._least = {
            unit: Survivors(coupling, each[-1]) for unit, each in options.items()
        }
        self._numbers: dict[tuple[object, ...], int] = {}
        self._labels: list[Labels] = []
        self._units: list[tuple[str, ...]] = []
        #: Axes by the units that change them, and their sizes by the options of these.
        self._alike: dict[tuple[str, ...], list[int]] = {}
        self._known: list[dict[tuple[int, ...], int]] = []

    def axis(self, labels: Labels) -> int:
        """The number by which an axis is known here; those that lose the same channels share one."""
        channels = self._coupling.channels
        blocks = channels.blocks_of(labels)
        key = ("own", blocks.inner.first) if blocks else channels.root(labels).key
        if (labels.size, *key) not in self._numbers:
            units = tuple(
                unit
                for unit, each in self._least.items()
                if each.size(labels) != labels.size
            )
            number = self._numbers[labels.size, *key] = len(self._labels)
            self._labels.append(labels)
            self._units.append(units)
            self._alike.setdefault(units, []).append(number)
            self._known.append({})
        return self._numbers[labels.size, *key]

    def units(self, axes: Sequence[int]) -> tuple[str, ...]:
        """The units that change some axes, by number, each of them once."""
        return tuple(dict.fromkeys(unit for axis in axes for unit in self._units[axis]))

    def whole(self, axes: Sequence[int]) -> Shape:
        """Sizes of some axes, by number, before anything is removed."""
        return tuple(self._labels[axis].size for axis in axes)

    def shape(self, axes: Sequence[int], chosen: Mapping[str, int]) -> Shape:
        """Sizes of some axes, by number, with an option for each unit."""
        return tuple([self._size(axis, chosen) for axis in axes])

    def _size(self, axis: int, chosen: Mapping[str, int]) -> int:
        units, known = self._units[axis], self._known[axis]
        if not units:
            return self._labels[axis].size
        # Asked millions of times: most axes have one unit.
        key = (chosen[units[0]],) if len(units) == 1 else tuple([chosen[u] for u in units])
        if key not in known:
            removal = {
                group: channels
                for unit, option in zip(units, key, strict=True)
                for group, channels in self._options[unit][option].items()
            }
            survivors = Survivors(self._coupling, removal)
            for each in self._alike[units]:
                self._known[each][key] = survivors.size(self._labels[each])
        return known[key]

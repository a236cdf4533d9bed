"""Times of layers at any widths, for solvers that ask often: timed on a grid, interpolated between its points.

A layer's time depends on the few units that change its widths. Each of these has a few ticks, options spread evenly
over all that it has; the layer is timed at every combination of ticks, and what lies between is multilinear, as MACs
are in each width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np

from prunegraph.coupling.survivors import Survivors
from prunegraph.graph.model import Node
from prunegraph.latency.layers import LayerTable
from prunegraph.selection.units import Removal

#: Ticks of a unit at most, and combinations of a layer's ticks at most: where more units change it, each has fewer.
TICKS, COMBINATIONS = 5, 32


class LayerTimes:
    """Says what layers take with an option for each unit.

    Args:
        table: times layers alone, and keeps what it has timed.
        options: by unit, what each of its options removes, more and more.
    """

    def __init__(self, table: LayerTable, options: Mapping[str, Sequence[Removal]]):
        self._table, self._options = table, options
        self._known: dict[tuple[int, tuple[tuple[str, int], ...]], float] = {}

    def __call__(self, node: Node, chosen: Mapping[str, int]) -> float:
        """Milliseconds of a layer with an option of each unit that changes it, by number; {} is the whole layer."""
        count = _ticks(len(chosen))
        sides = [
            self._between(unit, option, count) for unit, option in sorted(chosen.items())
        ]
        return sum(
            float(np.prod([share for _, _, share in corner]))
            * self._at(node, tuple((unit, option) for unit, option, _ in corner))
            for corner in product(*sides)
        )

    def _between(self, unit: str, option: int, count: int) -> list[tuple[str, int, float]]:
        """The ticks on both sides of an option, and how much of each it is."""
        options = self._options[unit]
        last = len(options) - 1
        ticks = sorted({round(last * i / (count - 1)) for i in range(count)})
        high = next(tick for tick in ticks if tick >= option)
        if high == option:
            return [(unit, option, 1.0)]
        low = max(tick for tick in ticks if tick < option)
        gone = [sum(map(len, options[i].values())) for i in (low, option, high)]
        share = (gone[1] - gone[0]) / (gone[2] - gone[0])
        return [(unit, low, 1 - share), (unit, high, share)]

    def _at(self, node: Node, options: tuple[tuple[str, int], ...]) -> float:
        """Milliseconds of a layer at ticks."""
        key = node.index, options
        if key not in self._known:
            removal = {
                group: channels
                for unit, option in options
                for group, channels in self._options[unit][option].items()
            }
            survivors = Survivors(self._table.coupling, removal)
            self._known[key] = self._table.net(node, survivors)
        return self._known[key]


def _ticks(units: int) -> int:
    """Ticks of each of some units that change a layer."""
    return max(min(TICKS, int(COMBINATIONS ** (1 / max(units, 1)) + 1e-9)), 2)

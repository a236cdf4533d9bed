"""A cost as a sum of pieces, for solvers that ask often.

A layer's MACs, or a weight's size, depend only on the few units that touch it. Each piece is
worked out once for every combination of their options that comes up, and only those are looked at
that differ from what was asked last. A unit may be a residual branch: what goes with it costs nothing
then. Where the cost is time, somebody else says what a layer takes (`Clock`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from prunegraph.coupling.branches import PREFIX
from prunegraph.coupling.coupling import Coupling
from prunegraph.coupling.survivors import Survivors
from prunegraph.errors import BudgetError
from prunegraph.graph.model import Node, Weight
from prunegraph.ops.cost import is_parameter, node_macs, weight_bytes
from prunegraph.ops.rule import Shape
from prunegraph.selection.deaths import Deaths
from prunegraph.selection.sizes import Sizes
from prunegraph.selection.units import Removal

#: Costs that are made of pieces.
KINDS = ("macs", "params", "bytes")

#: Milliseconds of a layer, with an option of some units. Those that are not named have lost nothing.
LayerTime = Callable[[Node, Mapping[str, int]], float]

#: Gives them for what the options of each unit remove.
Clock = Callable[[Mapping[str, Sequence[Removal]]], LayerTime]


@dataclass(eq=False)
class _Piece:
    """A layer, with the values that it reads and makes, or a weight.

    Args:
        counted: which it is.
        axes: numbers of the axes of each value whose channels are known.
        fixed: shapes of the other values.
        units: those that change it.
        branches: those that it may go with; units as well.
        known: what it costs, by their options.
    """

    counted: Node | Weight
    axes: dict[str, list[int]]
    fixed: dict[str, Shape]
    units: tuple[str, ...]
    branches: tuple[str, ...] = ()
    known: dict[tuple[int, ...], float] = field(default_factory=dict)


class Pieces:
    """What is left of a cost when units lose channels or go as branches; `Meter`'s figure, less what no unit touches.

    Args:
        coupling: the analysis of the graph.
        kind: "macs", "params" or "bytes"; "latency" with a clock.
        options: by unit, what each of its options removes: channels by group id, more and more; a branch by its own.
        clock: what times layers.

    Raises:
        BudgetError: the cost is not made of such pieces.
    """

    def __init__(
        self,
        coupling: Coupling,
        kind: str,
        options: Mapping[str, Sequence[Removal]],
        clock: Clock | None = None,
    ):
        self._time = clock(options) if clock is not None and kind == "latency" else None
        if kind not in KINDS and self._time is None:
            raise BudgetError(
                f"this allocation cannot bound {kind}; choose another, or one of {', '.join(KINDS)}"
            )
        self._coupling, self._kind = coupling, kind
        self._uses = {use.weight: use for use in coupling.uses}
        self._sizes = Sizes(coupling, options)
        self._deaths = Deaths(
            coupling, [unit for unit in options if unit.startswith(PREFIX)]
        )
        pieces = [piece for piece in self._found() if piece.units]
        self._touched: dict[str, list[_Piece]] = {
            unit: [piece for piece in pieces if unit in piece.units] for unit in options
        }
        #: What the pieces cost before anything is removed.
        self.original = sum(map(self._whole, pieces))
        #: What was asked last, and what it costs.
        self._last = dict.fromkeys(options, 0)
        self._total = sum(self._measured(piece, self._last) for piece in pieces)

    def measure(self, chosen: Mapping[str, int]) -> float:
        """Cost of all pieces with an option for each unit."""
        changed = [unit for unit, last in self._last.items() if chosen[unit] != last]
        touched = dict.fromkeys(piece for unit in changed for piece in self._touched[unit])
        for piece in touched:
            self._total -= self._measured(piece, self._last)
        self._last.update({unit: chosen[unit] for unit in changed})
        for piece in touched:
            self._total += self._measured(piece, self._last)
        return self._total

    def _found(self) -> Iterator[_Piece]:
        """What counts, and stays whatever is chosen."""
        graph, shapes = self._coupling.graph, self._coupling.shape_info.shapes
        whole = Survivors(self._coupling, {})
        if self._kind in ("macs", "latency"):
            for node in graph.nodes:
                if node.index not in whole.gone and node_macs(node, shapes):
                    yield self._piece(node, [*node.inputs, *node.outputs])
            return
        for name in dict.fromkeys([*self._uses, *self._deaths.weights]):
            weight = graph.weights[name]
            if name in whole.lost_weights:
                continue
            if self._kind == "bytes" or is_parameter(graph, weight):
                yield self._piece(weight, [name])

    def _piece(self, counted: Node | Weight, values: Sequence[str]) -> _Piece:
        axes: dict[str, list[int]] = {}
        fixed: dict[str, Shape] = {}
        for value in filter(None, values):
            use = self._uses.get(value)
            labels = use.labels if use else self._coupling.labels.get(value)
            if labels is not None:
                axes[value] = [self._sizes.axis(each) for each in labels]
            elif isinstance(counted, Node):
                fixed[value] = self._coupling.shape_info.shapes[value]
            else:
                fixed[value] = counted.shape
        all_axes = [axis for each in axes.values() for axis in each]
        branches = self._deaths.of(counted)
        units = (*self._sizes.units(all_axes), *branches)
        return _Piece(counted, axes, fixed, units, branches)

    def _measured(self, piece: _Piece, chosen: Mapping[str, int]) -> float:
        key = tuple([chosen[unit] for unit in piece.units])
        if key not in piece.known:
            gone = [branch for branch in piece.branches if chosen[branch]]
            is_gone = gone and self._deaths.goes(piece.counted, gone)
            piece.known[key] = 0 if is_gone else self._remaining(piece, chosen)
        return piece.known[key]

    def _whole(self, piece: _Piece) -> float:
        """What a piece costs before anything is removed."""
        if self._time is not None:
            assert isinstance(piece.counted, Node)
            return self._time(piece.counted, {})
        shapes = {v: self._sizes.whole(axes) for v, axes in piece.axes.items()}
        return self._cost(piece, shapes)

    def _remaining(self, piece: _Piece, chosen: Mapping[str, int]) -> float:
        """What a piece that stays costs with an option for each unit."""
        if self._time is not None:
            assert isinstance(piece.counted, Node)
            units = (unit for unit in piece.units if unit not in piece.branches)
            return self._time(piece.counted, {unit: chosen[unit] for unit in units})
        shapes = {v: self._sizes.shape(axes, chosen) for v, axes in piece.axes.items()}
        return self._cost(piece, shapes)

    def _cost(self, piece: _Piece, shapes: Mapping[str, Shape]) -> int:
        if isinstance(piece.counted, Node):
            return node_macs(piece.counted, {**piece.fixed, **shapes})
        (shape,) = {**piece.fixed, **shapes}.values()
        if self._kind == "bytes":
            return weight_bytes(piece.counted, shape)
        return int(np.prod(shape, dtype=np.int64))

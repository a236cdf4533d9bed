"""A cost as a sum of pieces, for solvers that ask often.

A layer's MACs, or a weight's size, depend only on the few groups that touch it. Each piece is
worked out once for every combination of their options that comes up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from prunegraph.coupling.coupling import Coupling
from prunegraph.coupling.survivors import Survivors
from prunegraph.errors import BudgetError
from prunegraph.graph.model import Node
from prunegraph.ops.cost import is_parameter, node_macs, weight_bytes
from prunegraph.ops.rule import Shape

Array = np.ndarray

#: Costs that are made of pieces.
KINDS = ("macs", "params", "bytes")


class Pieces:
    """What is left of a cost when units lose channels; the same figure as `Meter`'s, less what no group touches.

    Args:
        coupling: the analysis of the graph.
        kind: "macs", "params" or "bytes".
        options: by unit, what each of its options removes: channels by group id, more and more.

    Raises:
        BudgetError: the cost is not made of such pieces.
    """

    def __init__(
        self,
        coupling: Coupling,
        kind: str,
        options: Mapping[str, Sequence[Mapping[str, Array]]],
    ):
        if kind not in KINDS:
            raise BudgetError(
                f"this allocation cannot bound {kind}; choose another, or one of {', '.join(KINDS)}"
            )
        self._coupling, self._kind, self._options = coupling, kind, options
        self._uses = {use.weight: use for use in coupling.uses}
        self._touching: dict[str, list[str]] = {}
        for unit, choices in options.items():
            survivors = Survivors(coupling, choices[-1])
            if not survivors.is_whole:
                for piece in self._touched(survivors):
                    self._touching.setdefault(piece, []).append(unit)
        self._known: dict[tuple[str, tuple[int, ...]], int] = {}
        whole = Survivors(coupling, {})
        #: What the pieces cost before anything is removed.
        self.original = sum(self._cost(piece, whole) for piece in self._touching)

    def measure(self, chosen: Mapping[str, int]) -> int:
        """Cost of all pieces with an option for each unit."""
        total = 0
        for piece, units in self._touching.items():
            key = piece, tuple(chosen[unit] for unit in units)
            if key not in self._known:
                remove = {
                    group: channels
                    for unit, option in zip(units, key[1], strict=True)
                    for group, channels in self._options[unit][option].items()
                }
                self._known[key] = self._cost(piece, Survivors(self._coupling, remove))
            total += self._known[key]
        return total

    def _touched(self, survivors: Survivors) -> Iterable[str]:
        """Pieces whose shapes change: names of layers, or of weights."""
        if self._kind != "macs":
            return [
                name
                for name, use in self._uses.items()
                if any(k is not None for k in survivors.use(use))
            ]
        shapes, whole = self._coupling.shape_info.shapes, Survivors(self._coupling, {})
        layers = [node for node in self._coupling.graph.nodes if node_macs(node, shapes)]
        return [
            node.name
            for node in layers
            if self._shapes(node, survivors) != self._shapes(node, whole)
        ]

    def _cost(self, piece: str, survivors: Survivors) -> int:
        if self._kind != "macs" and piece in survivors.lost_weights:
            return 0
        if self._kind == "macs":
            node = self._coupling.graph.node(piece)
            if node.index in survivors.gone:
                return 0
            return node_macs(node, self._shapes(node, survivors))
        weight, shape = self._coupling.graph.weights[piece], self._shape(piece, survivors)
        if self._kind == "bytes":
            return weight_bytes(weight, shape)
        return (
            int(np.prod(shape, dtype=np.int64))
            if is_parameter(self._coupling.graph, weight)
            else 0
        )

    def _shapes(self, node: Node, survivors: Survivors) -> dict[str, Shape]:
        return {
            value: self._shape(value, survivors)
            for value in (*node.inputs, *node.outputs)
            if value
        }

    def _shape(self, value: str, survivors: Survivors) -> Shape:
        use = self._uses.get(value)
        result = (
            tuple(survivors.size(labels) for labels in use.labels)
            if use is not None
            else survivors.shape(value)
        )
        assert result is not None
        return result

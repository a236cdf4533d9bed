"""Recurrent layers: the hidden size is an axis like any other."""

from __future__ import annotations

import math
from collections.abc import Sequence

from prunegraph.graph.model import Node
from prunegraph.operators import OperatorInfo, describe
from prunegraph.ops.pattern import by_pattern
from prunegraph.ops.rule import Macs, Propagate, Shape, Site, register

#: Gates of a cell, and whether it has a cell state and peepholes.
CELLS = {"LSTM": (4, True), "GRU": (3, False), "RNN": (1, False)}


def _pattern(gates: int, cell: bool, batch_first: bool) -> str:
    data, state = ("n t i", "n d h") if batch_first else ("t n i", "d n h")
    output = "n t d h" if batch_first else "t d n h"
    rows = f"({gates} h)" if gates > 1 else "h"
    states = f"{state}?, {state}?, d (3 h)?" if cell else f"{state}?"
    weights = f"d {rows} i, d {rows} h, d ({2 * gates} h)?, n?"
    return f"{data}, {weights}, {states} -> {output}, {state}" + (
        f", {state}" if cell else ""
    )


def _spread(gates: int, cell: bool) -> Propagate:
    rules = {
        layout: by_pattern(
            _pattern(gates, cell, bool(layout)),
            layer=True,
            stays="steps and directions of a recurrence",
            pinned="td",
            attributes={"hidden_size": "h"},
        )
        for layout in (0, 1)
    }

    def propagate(site: Site) -> None:
        rules[int(site.node.attributes.get("layout", 0))](site)

    return propagate


def _macs(gates: int) -> Macs:
    def macs(node: Node, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
        """Every step multiplies the input and the state with all gates, in every direction."""
        directions, _, hidden = inputs[2]
        steps = math.prod(inputs[0][:2])
        return steps * directions * gates * hidden * (inputs[0][2] + hidden)

    return macs


for _op, (_gates, _cell) in CELLS.items():
    register(_op, propagate=_spread(_gates, _cell), macs=_macs(_gates))

describe(
    OperatorInfo(
        roles=("", "weight", "recurrence", "bias"),
        is_layer=True,
        is_recurrent=True,
        states=(5,),
        lengths=4,
    ),
    "GRU",
    "RNN",
)
describe(
    OperatorInfo(
        roles=("", "weight", "recurrence", "bias"),
        is_layer=True,
        is_recurrent=True,
        states=(5, 6),
        lengths=4,
    ),
    "LSTM",
)

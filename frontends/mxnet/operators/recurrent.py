"""The fused recurrent layer, whose weights are one packed vector.

The vector holds, for each layer and direction, W_i2h [G H, in] and W_h2h [G H, H]; after all
weights, for each layer and direction, b_i2h and b_h2h [G H].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prunegraph.frontends.mxnet.builder import Value
from prunegraph.frontends.mxnet.operators.base import SymbolCall, operator

#: ONNX operator, and the order in which it wants MXNet's gates: i f g o -> i o f c, r z n -> z r h.
MODES = {
    "lstm": ("LSTM", (0, 3, 1, 2)),
    "gru": ("GRU", (1, 0, 2)),
    "rnn_tanh": ("RNN", (0,)),
    "rnn_relu": ("RNN", (0,)),
}


@dataclass(frozen=True)
class Packing:
    """Where the parts of the packed vector are."""

    gates: int
    hidden: int
    layers: int
    directions: int
    width: int

    def input_width(self, layer: int) -> int:
        return self.width if layer == 0 else self.hidden * self.directions

    def weights(self, layer: int, direction: int) -> tuple[int, int]:
        """Positions of W_i2h and W_h2h."""
        rows = self.gates * self.hidden
        before = sum(
            self.directions * rows * (self.input_width(k) + self.hidden)
            for k in range(layer)
        )
        start = before + direction * rows * (self.input_width(layer) + self.hidden)
        return start, start + rows * self.input_width(layer)

    def bias(self, layer: int, direction: int) -> int:
        """Position of b_i2h, which b_h2h follows."""
        rows = self.gates * self.hidden
        return (
            self.weights(self.layers, 0)[0]
            + (layer * self.directions + direction) * 2 * rows
        )

    @property
    def size(self) -> int:
        return self.bias(self.layers, 0)


@operator("RNN")
def rnn(call: SymbolCall) -> list[Value]:
    mode = call.word("mode", "", tuple(MODES))
    call.refuse("projection_size", "None", "projections are not supported")
    call.refuse(
        "use_sequence_length", "False", "sequences of different lengths are not supported"
    )
    call.refuse("lstm_state_clip_min", "None", "clipped states are not supported")
    data, packed = call.inputs[:2]
    if packed.data is None:
        call.fail("its parameters must be constant")
    packing = Packing(
        len(MODES[mode][1]),
        call.integer("state_size"),
        call.integer("num_layers"),
        1 + call.flag("bidirectional"),
        data.size(2),
    )
    if not 0 < packing.layers <= packed.size(0):
        call.fail("its parameters do not fit num_layers")
    if packed.size(0) != packing.size:
        call.fail(f"its parameters are {packed.size(0)} numbers; {packing.size} are needed")
    states: list[list[Value]] = []
    for layer in range(packing.layers):
        data, match = _layer(call, mode, packing, layer, data)
        states.append(match)
    if not call.flag("state_outputs"):
        return [data]
    joined = [list(parts) for parts in zip(*states, strict=True)]
    build = call.builder
    return [
        data,
        *(
            parts[0] if len(parts) == 1 else build.emit("Concat", *parts, axis=0)
            for parts in joined
        ),
    ]


def _layer(
    call: SymbolCall, mode: str, packing: Packing, layer: int, data: Value
) -> tuple[Value, list[Value]]:
    """One layer in both directions: its result [time, batch, directions * H], and its states."""
    build, directions = call.builder, packing.directions
    op, _ = MODES[mode]
    initial = [
        _initial(call, position, layer, directions)
        for position in ((2, 3) if op == "LSTM" else (2,))
    ]
    outputs = build.emit_many(
        op,
        data,
        *_weights(call, packing, layer, MODES[mode][1]),
        None,
        *initial,
        count=3 if op == "LSTM" else 2,
        hidden_size=packing.hidden,
        direction="bidirectional" if directions == 2 else "forward",
        linear_before_reset=1 if op == "GRU" else None,
        activations=["Relu" if mode == "rnn_relu" else "Tanh"] * directions
        if op == "RNN"
        else None,
    )
    if directions == 1:
        return build.emit("Squeeze", outputs[0], [1]), outputs[1:]
    side_by_side = build.emit("Transpose", outputs[0], perm=[0, 2, 1, 3])
    return build.emit("Reshape", side_by_side, [0, 0, -1]), outputs[1:]


def _initial(call: SymbolCall, position: int, layer: int, directions: int) -> Value | None:
    """A layer's part of an initial state; zeros are left out."""
    state = call.optional(position)
    if state is None or (state.data is not None and not state.data.any()):
        return None
    if state.size(0) == directions:
        return state
    return call.builder.emit(
        "Slice", state, [layer * directions], [(layer + 1) * directions], [0]
    )


def _weights(
    call: SymbolCall, packing: Packing, layer: int, order: Sequence[int]
) -> list[Value]:
    """W [D, G H, in], R [D, G H, H] and B [D, 2 G H] with the gates in ONNX's order."""
    hidden, rows = packing.hidden, packing.gates * packing.hidden
    turn = (np.array(order)[:, None] * hidden + np.arange(hidden)).ravel()
    parts = range(packing.directions)

    def matrix(which: int, width: int) -> Value:
        starts = [packing.weights(layer, direction)[which] for direction in parts]
        return call.builder.fold(
            lambda flat: np.stack(
                [flat[s : s + rows * width].reshape(rows, width)[turn] for s in starts]
            ),
            call.inputs[1],
            label=f"{call.node.name}_l{layer}_{'WR'[which]}",
        )

    def bias(flat: np.ndarray) -> np.ndarray:
        pairs = [flat[s : s + 2 * rows].reshape(2, rows)[:, turn].ravel() for s in starts]
        return np.stack(pairs)

    starts = [packing.bias(layer, direction) for direction in parts]
    return [
        matrix(0, packing.input_width(layer)),
        matrix(1, hidden),
        call.builder.fold(bias, call.inputs[1], label=f"{call.node.name}_l{layer}_B"),
    ]

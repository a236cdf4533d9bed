"""A small detector of voices: frames [B, N], a state [2, B, H] of an LSTM, and the rate as one number.

Samples lie along axis 0 of the frames and axis 1 of the state; the rate, which all samples share, takes a branch of
an If. Weights are random.
"""

from __future__ import annotations

import numpy as np
import onnx

from prunegraph.graph.model import Graph
from prunegraph.graph.onnx_io import from_model
from tests.builders import Builder
from tests.fuzzing.damage import body

HIDDEN = 6


def voice(seed: int = 0) -> onnx.ModelProto:
    """The model."""
    b, fast, slow = Builder(seed), Builder(seed + 1), Builder(seed + 2)
    fast.count, slow.count = 100, 200
    frames = b.input("B", "N", name="frames")
    state = b.input(2, "B", HIDDEN, name="state")
    rate = b.input(name="rate", kind=onnx.TensorProto.INT64)
    x = b.op("Unsqueeze", frames, b.const([1], np.int64))
    one, two = (
        each.op("Conv", x, each.weight(8, 1, k), strides=[4], pads=[k // 2] * 2)
        for each, k in ((fast, 9), (slow, 5))
    )
    is_fast = b.op("Equal", rate, b.const(16000, np.int64))
    x = b.relu(
        b.op("If", is_fast, then_branch=body(fast, one), else_branch=body(slow, two))
    )
    x = b.relu(b.op("Conv", x, b.weight(12, 8, 3), b.weight(12), pads=[1, 1]))
    x = b.relu(b.op("Conv", x, b.weight(10, 12, 3), b.weight(10), pads=[1, 1], strides=[2]))
    x = b.op("Transpose", x, perm=[2, 0, 1])
    b.op("Split", state, outputs=2, axis=0)
    h, c = b.nodes[-1].output
    b.op(
        "LSTM",
        x,
        b.weight(1, 4 * HIDDEN, 10),
        b.weight(1, 4 * HIDDEN, HIDDEN),
        "",
        "",
        h,
        c,
        outputs=3,
        hidden_size=HIDDEN,
    )
    _, h, c = b.nodes[-1].output
    new = b.op("Concat", h, c, axis=0)
    y = b.linear(b.relu(b.op("Squeeze", h, b.const([0], np.int64))), HIDDEN, 5)
    return b.model(b.op("Sigmoid", b.linear(b.relu(y), 5, 1)), new)


def voice_graph(seed: int = 0) -> Graph:
    return from_model(voice(seed))


def voice_samples(
    count: int = 70, seed: int = 0, rate: int = 16000
) -> dict[str, np.ndarray]:
    """Inputs of so many samples."""
    rng = np.random.default_rng(seed)
    return {
        "frames": rng.standard_normal((count, 64)).astype(np.float32),
        "state": rng.standard_normal((2, count, HIDDEN)).astype(np.float32)
        * np.float32(0.3),
        "rate": np.array(rate),
    }

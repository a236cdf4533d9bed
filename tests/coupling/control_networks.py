"""Networks with branches, loops and scans."""

from __future__ import annotations

import numpy as np
import onnx

from prunegraph.graph.model import Graph
from tests.builders import Builder
from tests.coupling.control_graphs import (
    BOOL,
    Inner,
    condition,
    head_inputs,
    loop,
)


def conv_branch(
    b: Builder, x: str, cin: int, middle: int, cout: int, number: int
) -> onnx.GraphProto:
    i = Inner(b, number)
    y = i.relu(i.conv(x, cin, middle, name=f"first{number}"))
    return i.body(i.conv(y, middle, cout, name=f"second{number}"))


def branching(constant: bool | None = None, opset: int = 17) -> Builder:
    """conv a -> If (two convolutions in each branch) -> conv last -> head."""
    b = Builder(opset=opset)
    x = b.conv(b.input("n", 3, 6, 6), 3, 8, name="a")
    which = condition(b, x) if constant is None else b.const(constant, np.bool_)
    branches = [conv_branch(b, x, 8, 6, 10, number) for number in (1, 2)]
    y = b.op("If", which, then_branch=branches[0], else_branch=branches[1], name="choice")
    b.head(b.conv(b.relu(y), 10, 4, name="last"), 4)
    return b


def finished(b: Builder) -> Graph:
    return b.graph(b.nodes[-1].output[0])


def recurrent(
    iterations: object = 3, scanned: bool = False, share: bool = False
) -> Builder:
    """conv a -> Loop (state = conv2(relu(conv1(state))) + a) -> conv last -> head."""
    b = Builder()
    x = b.conv(b.input("n", 3, 6, 6), 3, 8, name="a")
    i = Inner(b)
    (state,) = head_inputs(i, ("n", 8, 6, 6))
    y = i.relu(i.conv(state, 8, 6, name="in1"))
    y = i.op("Add", i.op("Tanh", i.conv(y, 6, 8, name="in2")), x)
    outs = [i.op("Identity", "go1000"), y] + (
        [i.conv(y, 8, 7, name="out")] if scanned else []
    )
    count = (
        b.const(iterations, np.int64) if isinstance(iterations, int) else str(iterations)
    )
    z = loop(b, i.body(*outs, kinds=[BOOL]), count, x, created=1 + scanned)
    if scanned:
        stacked = b.op("ReduceMax", "loop.out1", axes=[0], keepdims=0)
        z = b.op("Concat", z, b.relu(stacked), axis=1)
    b.head(b.conv(z, 15 if scanned else 8, 4, name="last"), 4)
    return b

"""Random networks of residual branches for property tests, and what they compute without some of them."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import numpy_helper

from prunegraph.graph.model import Graph
from prunegraph.graph.onnx_io import from_model
from tests.builders import Builder

#: What a residual block may look like.
FORMS = (
    "plain",
    "activated",
    "normalised",
    "squeezed",
    "scaled",
    "parallel",
    "nested",
    "bypassed",
    "wider",
)


class Residuals:
    """A stem, blocks of drawn forms and a head; `last` names the layer whose output each sum adds."""

    def __init__(self, seed: int, width: int = 6):
        self.b, self.width = Builder(seed), width
        self.x = self.conv(self.b.input("n", 3, 8, 8), 3, width)
        self.extra: list[str] = []

    def conv(self, x: str, inputs: int, outputs: int, kernel: int = 3) -> str:
        return self.b.conv(x, inputs, outputs, kernel)

    def branch(self, x: str) -> str:
        """Two layers with an activation between them."""
        y = self.b.relu(self.conv(x, self.width, self.width + 2))
        return self.conv(y, self.width + 2, self.width)

    def add(self, x: str, y: str, turned: bool) -> str:
        return self.b.op("Add", *((y, x) if turned else (x, y)))

    def grow(self, form: str, turned: bool) -> None:
        """Put a block of a form behind what is there."""
        b, x, width = self.b, self.x, self.width
        if form == "activated":
            self.x = b.relu(self.add(x, self.branch(x), turned))
        elif form == "normalised":
            self.x = self.add(x, self.branch(b.bn(x, width)), turned)
        elif form == "squeezed":
            y = self.branch(x)
            gate = self.conv(b.op("GlobalAveragePool", y), width, width, 1)
            self.x = self.add(x, b.op("Mul", y, b.op("Sigmoid", gate)), turned)
        elif form == "scaled":
            scale = b.weight(width, 1, 1, scale=1.0)
            self.x = self.add(x, b.op("Mul", self.branch(x), scale), turned)
        elif form == "parallel":  # both branches read one normalised value
            z = b.bn(x, width)
            first = self.add(x, self.branch(z), turned)
            self.x = self.add(first, self.branch(z), not turned)
        elif form == "nested":
            y = self.conv(x, width, width)
            y = self.add(y, self.branch(y), turned)
            self.x = self.add(x, self.conv(b.relu(y), width, width), turned)
        elif form == "bypassed":  # something else reads the stream
            self.x = self.add(x, self.branch(x), turned)
            self.extra.append(b.op("GlobalAveragePool", x))
        elif form == "wider":  # no branch may go: the shortcut has a layer
            self.x = self.add(self.conv(x, width, width, 1), self.branch(x), turned)
        else:
            self.x = self.add(x, self.branch(x), turned)

    def graph(self) -> Graph:
        """The network with a head, and what was led out beside it."""
        return self.b.graph(self.b.head(self.b.relu(self.x), self.width), *self.extra)


@st.composite
def draw_residuals(draw: st.DrawFn, most: int = 5) -> Graph:
    """A network of one to `most` blocks."""
    net = Residuals(draw(st.integers(0, 2**16)))
    for _ in range(draw(st.integers(1, most))):
        net.grow(draw(st.sampled_from(FORMS)), draw(st.booleans()))
    return net.graph()


def without(graph: Graph, sums: Collection[str]) -> Graph:
    """The graph with what the second-made operand of some Adds gives replaced by zeros, in the plainest way.

    Of the two operands the branch is the one whose node comes later in the file.
    """
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    place = {v: i for i, node in enumerate(model.graph.node) for v in node.output}
    zero = numpy_helper.from_array(np.zeros((), np.float32), "nothing")
    model.graph.initializer.append(zero)
    nodes = []
    for node in model.graph.node:
        if node.name in sums:
            slot = max((0, 1), key=lambda i: place.get(node.input[i], -1))
            masked = onnx.helper.make_node(
                "Mul", [node.input[slot], "nothing"], [f"{node.name}/nothing"]
            )
            node.input[slot] = masked.output[0]
            nodes.append(masked)
        nodes.append(node)
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    return from_model(model)

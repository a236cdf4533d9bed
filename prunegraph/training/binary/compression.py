"""How much smaller a binary network is, counted in bits: the binary layers alone, and the whole.

A published "near 30" is of the binary layers, or of a network whose last layer is binary too: in full precision it
is most of what is left. So both are told, the whole with the last layers in 32, 8 and 1 bit.
"""

from __future__ import annotations

from dataclasses import dataclass

from prunegraph.graph import linear
from prunegraph.graph.model import Graph
from prunegraph.operators import is_batch_normalization, is_matmul
from prunegraph.training.binary.network import binary_layers, final_layers, is_plain

#: Bits of a weight of the last layers.
LAST_BITS = (32, 8, 1)


@dataclass(frozen=True)
class CompressionRatios:
    """Numbers that a network consists of.

    `binary` are weights of binary layers, `filters` their filters, each with a scale; `last` and `last_filters` the
    same of the last layers; `others` all else: other layers, biases, normalisations (without scales 1 and shifts 0).
    `sizes` are those of groups of inputs, 8 bits each; none where a filter has one scale.
    """

    binary: int
    filters: int
    last: int
    last_filters: int
    others: int
    sizes: int = 0

    @property
    def layers(self) -> float:
        """Ratio of the binary layers alone: 32 bits a weight against 1, and 32 a filter, 8 a size."""
        return 32 * self.binary / (self.binary + 32 * self.filters + 8 * self.sizes)

    def whole(self, last_bits: int) -> float:
        """Ratio of the whole network with weights of the last layers in 32, 8 or 1 bit."""
        before = 32 * (self.binary + self.last + self.others)
        scales = self.last_filters if last_bits < 32 else 0
        return before / (
            self.binary
            + last_bits * self.last
            + 32 * (self.filters + scales + self.others)
            + 8 * self.sizes
        )


def compression(graph: Graph) -> CompressionRatios:
    """Count the numbers of a binary graph, as it is trained."""
    final = final_layers(graph)
    layers = [layer for layer in binary_layers(graph) if layer.node.index not in final]
    binary = {
        layer.weight: graph.weights[layer.weight].shape[layer.axis] for layer in layers
    }
    ends = {layer.weight for layer in binary_layers(graph) if layer.node.index in final}
    last = {
        w: _filters(graph, w)
        for i in final
        if (w := graph.main_weight(graph.nodes[i]) or "") in graph.weights
    }
    last |= {
        w: graph.weights[w].shape[layer.axis]
        for layer in binary_layers(graph)
        if (w := layer.weight) in ends
    }
    plain = {
        v
        for n in graph.nodes
        if is_batch_normalization(n) and is_plain(graph, n)
        for v in n.inputs[1:3]
    }
    rest = graph.weights.keys() - binary.keys() - last.keys() - plain
    return CompressionRatios(
        sum(graph.weights[name].size for name in binary),
        sum(binary.values()),
        sum(graph.weights[name].size for name in last),
        sum(last.values()),
        sum(graph.weights[name].size for name in rest if graph.weights[name].is_float),
        sum(
            layer.scales * graph.weights[layer.weight].shape[layer.axis]
            for layer in binary_layers(graph)
            if layer.scales > 1
        ),
    )


def _filters(graph: Graph, weight: str) -> int:
    node = graph.nodes[graph.consumers[weight][0][0]]
    shape = graph.weights[weight].shape
    return shape[0] if not is_matmul(node) and linear.is_linear(graph, node) else shape[-1]

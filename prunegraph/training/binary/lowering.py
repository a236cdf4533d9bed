"""Binary graph -> graph of ONNX's own operators, layers in floating point.

The scale of a filter goes into the normalisation behind its layer, which becomes a product and a sum with two
vectors; where there is none, it multiplies the weights.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from prunegraph.graph import linear
from prunegraph.graph.external import without_weights
from prunegraph.graph.model import Graph, Node
from prunegraph.graph.shapes import shape_info
from prunegraph.operators import is_batch_normalization, is_convolution, passes
from prunegraph.rewriting.rewriter import Rewriter
from prunegraph.training.binary.network import BinaryLayer, binary_layers, is_plain
from prunegraph.training.binary.nodes import NodeWriter
from prunegraph.training.binary.operators import DOMAIN
from prunegraph.training.binary.packing import Unpacking
from prunegraph.training.binary.thresholds import AffineMap, as_thresholds
from prunegraph.training.binary.whole import WholeWeight

Array = np.ndarray


class Lowering:
    """Writes the nodes that a binary graph becomes, with layers that compute in floating point.

    Args:
        pack: weights in a bit each, unpacked to floats when a session is made; else in a float each.
        compare: quantizers compare with thresholds, where the normalisation before them is read by nothing else.
        int8: names of layers whose weights are stored in 8 bits, with a scale for each filter.
    """

    def __init__(
        self,
        graph: Graph,
        *,
        pack: bool = True,
        compare: bool = False,
        int8: frozenset[str] = frozenset(),
    ):
        self.graph, self.pack, self.int8 = graph, pack, int8
        self.layers = {layer.node.index: layer for layer in binary_layers(graph)}
        self.shapes = shape_info(_plain(graph)).shapes
        self.behind = {
            index: self._normal(layer.node) for index, layer in self.layers.items()
        }
        self.before = {n.index: index for index, n in self.behind.items() if n is not None}
        self.rewriter = Rewriter(graph)
        self.writer = NodeWriter(self.rewriter)
        self.unpacking = Unpacking(self.writer)
        # Quantizers that compare instead of their normalisation, and those whose codes stay whole numbers.
        self.compared = self._compared() if compare else {}
        self.whole = {
            index
            for index in self.compared
            if self._ends_folded(graph.nodes[index].outputs[0])
        }

    # -- what goes where --------------------------------------------------------------------

    def _normal(self, node: Node) -> Node | None:
        """The normalisation that alone reads a layer, maybe after a pool, and whose channels are the layer's filters.

        None if the layer adds a bias itself.
        """
        value = node.outputs[0]
        if not is_convolution(node) and len(self.shapes.get(value, ())) != 2:
            return None
        while (
            not node.input(2)
            and value not in self.graph.outputs
            and len(self.graph.consumers.get(value, ())) == 1
        ):
            reader = self.graph.nodes[self.graph.consumers[value][0][0]]
            if is_batch_normalization(reader) and not reader.domain:
                return reader if self._has_numbers(reader) else None
            if not passes(reader, "normals") or any(reader.outputs[1:]):
                return None
            value = reader.outputs[0]
        return None

    def _compared(self) -> dict[int, Node]:
        """Quantizers without a dead zone's rounding, by index, whose normalisation nothing else reads."""
        result = {}
        for node in self.graph.nodes:
            if node.domain == DOMAIN and node.op == "HalfWave":
                value = node.inputs[0]
                maker = (
                    self.graph.nodes[self.graph.producer[value]]
                    if value in self.graph.producer
                    else None
                )
                alone = (
                    len(self.graph.consumers[value]) == 1
                    and value not in self.graph.outputs
                )
                if maker is not None and alone and self._is_folded(maker):
                    result[node.index] = maker
        return result

    def _is_folded(self, node: Node) -> bool:
        """Tell whether a normalisation becomes a product and a sum."""
        if (
            not is_batch_normalization(node)
            or node.domain
            or node.subgraph is not None
            or not self._has_numbers(node)
        ):
            return False
        return node.index in self.before or is_plain(self.graph, node)

    def _has_numbers(self, node: Node) -> bool:
        """Tell whether a normalisation's vectors and its input's rank are known."""
        return (
            all(name in self.graph.weights for name in node.inputs[1:])
            and node.inputs[0] in self.shapes
        )

    def _ends_folded(self, value: str) -> bool:
        """Tell whether a value ends only in layers whose scale goes into a normalisation."""
        readers = [
            self.graph.nodes[index] for index, _ in self.graph.consumers.get(value, ())
        ]
        return value not in self.graph.outputs and all(
            self.behind.get(n.index) is not None
            or (passes(n, "levels") and self._ends_folded(n.outputs[0]))
            for n in readers
        )

    def _affine(self, node: Node) -> AffineMap:
        """A normalisation with what the layer before it leaves to it: scales of filters, steps of its inputs."""
        affine = AffineMap.of(self.graph, node)
        if node.index not in self.before:
            return affine
        layer = self.layers[self.before[node.index]]
        gain = self.weight_of(layer).gain
        quantizer = self._quantizer(layer.node)
        if quantizer is not None and quantizer.index in self.whole:
            gain = gain * quantizer.attributes["step"]
        return AffineMap(affine.scale * gain, affine.shift)

    def weight_of(self, layer: BinaryLayer) -> WholeWeight:
        """What a layer computes with."""
        weight = self.graph.weights[layer.weight].read()
        return WholeWeight.of(weight, layer.axis, layer.scales)

    def _quantizer(self, node: Node) -> Node | None:
        value = node.inputs[0]
        while value in self.graph.producer:
            maker = self.graph.nodes[self.graph.producer[value]]
            if maker.domain == DOMAIN:
                return maker
            if not passes(maker, "levels"):
                return None
            value = maker.inputs[0]
        return None

    # -- writing ----------------------------------------------------------------------------

    def run(self) -> Graph:
        skipped = {node.index for node in self.compared.values()}
        for node in self.graph.in_file():
            if node.index in skipped:
                self.rewriter.replace(node, [])
            elif self._lowered(node):
                self.rewriter.replace(node, self.writer.take())
            else:
                self.rewriter.insert_before(node, *self.writer.take())
        return self.rewriter.finish(change=_without_own)

    def _lowered(self, node: Node) -> bool:
        """Write what stands in a node's place or, where it stays, before it; tell whether it goes."""
        if node.domain == DOMAIN and node.op == "HalfWave":
            self._half_wave(node)
        elif node.domain == DOMAIN:
            self._weight(node)
        elif self._is_folded(node):
            self._normalise(node)
        else:
            if node.name in self.int8:
                self.rewriter.set_input(node, 1, self._dequantized(node))
            return False
        return True

    def _normalise(self, node: Node) -> None:
        self._map(node, self._affine(node), node.outputs[0])

    def _map(self, normal: Node, affine: AffineMap, output: str = "") -> str:
        """A product and a sum in place of a normalisation."""
        shape = (-1, *[1] * (len(self.shapes[normal.inputs[0]]) - 2))
        scale, shift = (
            self.writer.tensor(vector.reshape(shape))
            for vector in (affine.scale, affine.shift)
        )
        scaled = self.writer.op("Mul", normal.inputs[0], scale)
        return self.writer.add(scaled, shift, output=output)

    def _half_wave(self, node: Node) -> None:
        step, top = np.float32(node.attributes["step"]), 2 ** node.attributes["bits"] - 1
        deadzone = bool(node.attributes.get("deadzone", 0))
        value, output = node.inputs[0], node.outputs[0]
        if node.index in self.compared:
            self._compare(node, float(step), top, deadzone)
        elif deadzone:
            # No QuantizeLinear: ONNX Runtime would give layers between it and a DequantizeLinear 8-bit weights.
            size = self.writer.tensor(step)
            codes = self.writer.op("Round", self.writer.op("Div", value, size))
            codes = self.writer.op(
                "Clip", codes, self.writer.tensor(0.0), self.writer.tensor(float(top))
            )
            self.writer.op("Mul", codes, size, output=output)
        else:
            steps = self.writer.op("Mul", value, self.writer.tensor(1 / float(step)))
            codes = self.writer.op(
                "Ceil", self.writer.op("Sub", steps, self.writer.tensor(0.5))
            )
            codes = self.writer.op(
                "Clip", codes, self.writer.tensor(1.0), self.writer.tensor(float(top))
            )
            levels = self.writer.op("Mul", codes, self.writer.tensor(step))
            positive = self.writer.op("Greater", value, self.writer.tensor(0.0))
            self.writer.op(
                "Where", positive, levels, self.writer.tensor(0.0), output=output
            )

    def _compare(self, node: Node, step: float, top: int, deadzone: bool) -> None:
        """How many thresholds a layer's output is above."""
        normal = self.compared[node.index]
        affine = self._affine(normal)
        turned, limits = as_thresholds(affine, step, top, deadzone)
        shape = (-1, *[1] * (len(self.shapes[normal.inputs[0]]) - 2))
        value = normal.inputs[0]
        if (turned < 0).any():
            value = self.writer.op("Mul", value, self.writer.tensor(turned.reshape(shape)))
        above = [
            self.writer.op("Greater", value, self.writer.tensor(limit.reshape(shape)))
            for limit in limits
        ]
        codes = [self.writer.op("Cast", each, to=onnx.TensorProto.FLOAT) for each in above]
        whole = node.index in self.whole
        total = self.writer.op("Sum", *codes, output=node.outputs[0] if whole else "")
        if not whole:
            self.writer.op("Mul", total, self.writer.tensor(step), output=node.outputs[0])

    def _weight(self, node: Node) -> None:
        """A layer's weights from their bits; with their scales where no normalisation takes these."""
        trained = self.graph.weights[node.inputs[0]].read()
        axis, scales = (node.attributes.get(*each) for each in (("axis", 0), ("scales", 1)))
        weight = WholeWeight.of(trained, axis, scales)
        shape = [-1 if i == axis else 1 for i in range(trained.ndim)]
        readers = [index for index, _ in self.graph.consumers[node.outputs[0]]]
        folded = all(self.behind.get(index) is not None for index in readers)
        if not self.pack:
            values = weight.values() * (
                1.0 if folded else weight.gain.astype(np.float32).reshape(shape)
            )
            self.rewriter.redirect(node.outputs[0], self.writer.tensor(values))
            return
        result = self.unpacking.whole(weight, np.float32)
        if not folded:
            gain = self.writer.tensor(weight.gain.reshape(shape))
            result = self.writer.op("Mul", result, gain)
        self.rewriter.redirect(node.outputs[0], result)

    def _dequantized(self, node: Node) -> str:
        """A layer's weight as a DequantizeLinear of 8-bit codes."""
        weight = self.graph.weights[node.inputs[1]].read().astype(np.float64)
        axis = linear.output_axis(node)
        others = tuple(i for i in range(weight.ndim) if i != axis)
        largest = np.abs(weight).max(others)
        scale = np.where(largest > 0, largest / 127, 1.0).astype(np.float32)
        shape = [-1 if i == axis else 1 for i in range(weight.ndim)]
        codes = np.clip(np.rint(weight / scale.reshape(shape)), -127, 127).astype(np.int8)
        return self.writer.op(
            "DequantizeLinear",
            self.writer.tensor(codes),
            self.writer.tensor(scale),
            axis=axis,
        )


def _without_own(model: onnx.ModelProto) -> None:
    """Take the domain of binary operators out of a model, and shapes of values that are no longer there."""
    domains = [entry for entry in model.opset_import if entry.domain != DOMAIN]
    del model.opset_import[:]
    model.opset_import.extend(domains)
    del model.graph.value_info[:]


def _plain(graph: Graph) -> Graph:
    """The graph with Identity for operators whose outputs have the shape of their input, to infer shapes with."""
    model = without_weights(graph.model)
    for proto in model.graph.node:
        if proto.domain == DOMAIN:
            proto.CopyFrom(
                helper.make_node(
                    "Identity", list(proto.input), list(proto.output), name=proto.name
                )
            )
    model.graph.initializer.extend(graph.model.graph.initializer)
    return Graph(model, folder=graph.folder, source=graph.source, keeps=graph)

"""Binary graph -> graph of ONNX's own operators, binary layers in integers: codes of 8 bits, sums of 32.

A quantizer gives its codes, 0 ... 2^bits - 1, as unsigned bytes, and pools and reshapes hand them on. A convolution
whose output ends in another quantizer, behind a normalisation, gives 8-bit values whose scale, shift and saturation
are all of it (`requantize`): a QLinearConv. All other layers give whole sums (ConvInteger, MatMulInteger), so that no
precision is lost where the network goes on in floating point; small convolutions among them add these up as floats.
Layers whose inputs are not quantized (the last ones) stay in floating point.
"""

from __future__ import annotations

import math

import numpy as np
import onnx

from prunegraph.graph import linear
from prunegraph.graph.model import Graph, Node
from prunegraph.operators import is_convolution, passes
from prunegraph.training.binary.lowering import Lowering
from prunegraph.training.binary.operators import DOMAIN
from prunegraph.training.binary.requantize import (
    MAGNITUDE,
    CodeTable,
    Requantization,
    is_exact,
)
from prunegraph.training.binary.thresholds import AffineMap
from prunegraph.training.binary.whole import WholeWeight

Array = np.ndarray

#: Products of a convolution that gives whole sums below which floats are faster. Measured in ONNX Runtime 1.32 on one
#: thread of a processor with VNNI: of 0.6 and 1.8 million products floats take 0.7 and 0.8 of the whole network's time
#: with integers, of 9.4 and 151 million 1.1 and 1.3 of it.
WORTH = 4_000_000


class IntegerLowering(Lowering):
    """Writes binary layers whose inputs are quantized in integers; the rest as `Lowering` does, with packed weights."""

    def __init__(self, graph: Graph, *, int8: frozenset[str] = frozenset()):
        super().__init__(graph, int8=int8)
        quantizers = [n for n in graph.nodes if n.domain == DOMAIN and n.op == "HalfWave"]
        self.whole = {n.index for n in quantizers if self._gives_codes(n.outputs[0])}
        self.compared = {
            index: normal
            for index, normal in self._compared().items()
            if index in self.whole
        }
        self.quantizers = {
            index: quantizer
            for index, layer in self.layers.items()
            if (quantizer := self._quantizer(layer.node)) is not None
            and quantizer.index in self.whole
        }
        self.requantized = self._requantized()

    # -- what goes where --------------------------------------------------------------------

    def _gives_codes(self, value: str) -> bool:
        """Tell whether a quantizer's value ends only in layers that can take its codes."""
        readers = self.graph.consumers.get(value, ())
        return (
            bool(readers)
            and value not in self.graph.outputs
            and all(
                slot == 0 and self._takes_codes(self.graph.nodes[index])
                for index, slot in readers
            )
        )

    def _takes_codes(self, node: Node) -> bool:
        if node.index in self.layers:
            return not node.input(2) or node.inputs[2] in self.graph.weights
        return (
            passes(node, "levels")
            and passes(node, "codes")
            and not any(node.outputs[1:])
            and self._gives_codes(node.outputs[0])
        )

    def _requantized(self) -> dict[int, tuple[Requantization, CodeTable]]:
        """By index, convolutions that give what a quantizer's look-up reads; with its table by the normalisation's."""
        result = {}
        for quantizer, normal in self.compared.items():
            index = self.before.get(normal.index)
            if index is None or index not in self.quantizers:
                continue
            layer, source = self.layers[index], self.quantizers[index]
            affine, table = self._affine(normal), code_table(self.graph.nodes[quantizer])
            # A pool keeps the largest sum, which is the largest y only where y rises with it.
            pooled = normal.inputs[0] != layer.node.outputs[0]
            size = linear.matrix_size(layer.node, self.graph.weights[layer.weight].shape)
            weight = self.weight_of(layer)
            reach = size * code_table(source).top * weight.largest
            if (
                is_convolution(layer.node)
                and self._codes_reach(normal.inputs[0], layer.node.outputs[0])
                and not (pooled and (affine.scale < 0).any())
                and is_exact(reach, factor := MAGNITUDE // weight.largest)
            ):
                step = source.attributes["step"]
                numbers = Requantization.of(affine, step, table, reach, factor)
                result[index] = numbers, table
        return result

    def _codes_reach(self, value: str, source: str) -> bool:
        """Tell whether what is between two values can be run on bytes."""
        while value != source:
            maker = self.graph.nodes[self.graph.producer[value]]
            if not passes(maker, "codes"):
                return False
            value = maker.inputs[0]
        return True

    # -- writing ----------------------------------------------------------------------------

    def _lowered(self, node: Node) -> bool:
        if node.index in self.requantized:
            self._requantizing(node, *self.requantized[node.index])
        elif node.index in self.quantizers:
            self._summing(node)
        else:
            return super()._lowered(node)
        return True

    def _weight(self, node: Node) -> None:
        readers = [index for index, _ in self.graph.consumers[node.outputs[0]]]
        if not all(index in self.quantizers for index in readers):
            super()._weight(node)

    def _half_wave(self, node: Node) -> None:
        if node.index not in self.whole:
            super()._half_wave(node)
            return
        table, tensor, op = code_table(node), self.writer.tensor, self.writer.op
        scale, fine = tensor(table.scale), self._fine(node, table)
        real = op("DequantizeLinear", fine, scale, tensor(np.uint8(table.kink)))
        bent = op("LeakyRelu", real, alpha=table.slope)
        one = tensor(np.uint8(1))
        op("QuantizeLinear", bent, tensor(table.code_scale), one, output=node.outputs[0])

    def _fine(self, quantizer: Node, table: CodeTable) -> str:
        """What the look-up of a quantizer reads: given by the layer before, or made of real values."""
        normal, half = self.compared.get(quantizer.index), float(table.scale) / 2
        if normal is None:
            value = self.writer.add(quantizer.inputs[0], self.writer.tensor(half))
        elif self.before.get(normal.index) in self.requantized:
            return normal.inputs[0]
        else:
            affine = self._affine(normal)
            value = self._map(normal, AffineMap(affine.scale, affine.shift + half))
        scale, base = (
            self.writer.tensor(table.scale),
            self.writer.tensor(np.uint8(table.base)),
        )
        return self.writer.op("QuantizeLinear", value, scale, base)

    def _requantizing(self, node: Node, numbers: Requantization, table: CodeTable) -> None:
        """A convolution from codes to what the look-up of the quantizer behind it reads."""
        layer, tensor = self.layers[node.index], self.writer.tensor
        whole = self.weight_of(layer).turned(numbers.turned)
        weight = self.unpacking.whole(whole, np.int8, MAGNITUDE // whole.largest)
        self.writer.like(
            node.proto,
            "QLinearConv",
            node.inputs[0],
            tensor(np.float32(self.quantizers[node.index].attributes["step"])),
            tensor(np.uint8(0)),
            weight,
            tensor(numbers.scales),
            tensor(np.int8(0)),
            tensor(table.scale),
            tensor(np.uint8(table.base)),
            tensor(numbers.shifts),
            output=node.outputs[0],
        )

    def _summing(self, node: Node) -> None:
        """A layer from codes to whole sums in floating point; scaled where no normalisation behind it does that."""
        layer, writer = self.layers[node.index], self.writer
        weight = self.weight_of(layer)
        if self.behind.get(node.index) is not None:
            self._sums(node, weight, node.outputs[0])
            return
        bias, shape = self._bias(node), (-1, *[1] * (weight.positive.ndim - 2))
        gain = weight.gain * self.quantizers[node.index].attributes["step"]
        result = writer.op(
            "Mul",
            self._sums(node, weight),
            writer.tensor(gain.reshape(shape)),
            output=node.outputs[0] if bias is None else "",
        )
        if bias is not None:
            vector = writer.tensor(bias.reshape(shape))
            writer.add(result, vector, output=node.outputs[0])

    def _bias(self, node: Node) -> Array | None:
        """What a layer adds to each of its outputs; it is a constant, else the layer would not take codes."""
        bias = self.graph.weights.get(node.input(2))
        return None if bias is None or node.attributes.get("beta", 1) == 0 else bias.read()

    def _sums(self, node: Node, whole: WholeWeight, output: str = "") -> str:
        """What a layer adds up, without scales."""
        writer = self.writer
        if not is_convolution(node):
            rows = whole.transposed() if node.attributes.get("transB") else whole
            weight = self.unpacking.whole(rows, np.int8)
            sums = writer.op("MatMulInteger", node.inputs[0], weight, name=node.name)
        elif self._products(node, whole.positive.size) < WORTH:
            codes = writer.op("Cast", node.inputs[0], to=onnx.TensorProto.FLOAT)
            weight = self.unpacking.whole(whole, np.float32)
            return writer.like(node.proto, "Conv", codes, weight, output=output)
        else:
            # ONNX Runtime multiplies weights from the left here, and has a fast product for unsigned times signed bytes
            # only: weights are 0 and 2 around 1, or sizes around a byte's middle.
            codes = writer.op("Cast", node.inputs[0], to=onnx.TensorProto.INT8)
            weight = self.unpacking.whole(whole, np.uint8)
            middle = np.uint8(self.unpacking.centre(whole))
            zeros = (writer.tensor(zero) for zero in (np.int8(0), middle))
            sums = writer.like(node.proto, "ConvInteger", codes, weight, *zeros)
        return writer.op("Cast", sums, to=onnx.TensorProto.FLOAT, output=output)

    def _products(self, node: Node, weights: int) -> float:
        """Products of a convolution for one sample; infinitely many where its output's size is not known."""
        places = self.shapes.get(node.outputs[0], (0, 0, None))[2:]
        return weights * math.prod(n if isinstance(n, int) else math.inf for n in places)


def code_table(quantizer: Node) -> CodeTable:
    """The look-up of a half-wave quantizer."""
    attributes = quantizer.attributes
    return CodeTable(
        float(np.float32(attributes["step"])),
        2 ** attributes["bits"] - 1,
        bool(attributes.get("deadzone", 0)),
    )

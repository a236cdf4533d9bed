"""Binary graph -> graph of ONNX's own operators, weights packed eight to a byte.

Nothing but standard operators of set 18: any runtime takes the file. ONNX Runtime unpacks weights when it loads, so
they cost no time later. The scale of a filter goes into the normalisation behind its layer, which becomes a product
and a sum with two vectors; where there is none, it multiplies the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx
from onnx import helper, numpy_helper

from prunegraph.errors import OptionError
from prunegraph.graph import linear
from prunegraph.graph.external import without_weights
from prunegraph.graph.model import Graph, Node
from prunegraph.graph.shapes import shape_info
from prunegraph.operators import is_batch_normalization, passes
from prunegraph.rewriting.rewriter import Rewriter
from prunegraph.training.binary.network import binary_layers, is_plain
from prunegraph.training.binary.operators import DOMAIN

Array = np.ndarray

#: Weight i of eight is bit i of their byte.
MASKS = np.left_shift(1, np.arange(8)).astype(np.uint8)[None]

Form = Literal["arithmetic", "thresholds"]


def lower(
    graph: Graph, *, pack: bool = True, form: Form = "arithmetic", int8: Sequence[str] = ()
) -> Graph:
    """The graph without operators of its own.

    Args:
        graph: a binary graph, trained or updated.
        pack: store a binary weight in a bit; else in a float, for comparison.
        form: "arithmetic" computes levels from normalised values; "thresholds" compares a layer's output with
            numbers that hold normalisation, scales and steps. There, what binary layers compute with are whole
            numbers, which every runtime adds up to the same sum.
        int8: names of layers whose weights are stored in 8 bits, with a scale for each filter.

    Raises:
        OptionError: `form` has a value it cannot have.
    """
    if form not in ("arithmetic", "thresholds"):
        raise OptionError(f"form is arithmetic or thresholds, not {form!r}")
    return _Lowering(graph, pack, form, frozenset(int8)).run()


@dataclass(frozen=True)
class AffineMap:
    """What a normalisation does to each channel: y = x * scale + shift."""

    scale: Array
    shift: Array

    @classmethod
    def of(cls, graph: Graph, node: Node) -> AffineMap:
        factor, mean, shift = linear.normalisation(graph, node)
        return cls(factor, shift - mean * factor)


def signs(weight: Array, axis: int) -> tuple[Array, Array]:
    """Tell whether weights are positive (or 0), and the scale of each filter, as `BinaryWeight` has them."""
    others = tuple(i for i in range(weight.ndim) if i != axis)
    return weight >= 0, np.abs(weight).mean(others, dtype=np.float64)


class _Lowering:
    def __init__(self, graph: Graph, pack: bool, form: Form, int8: frozenset[str]):
        self.graph, self.pack, self.form, self.int8 = graph, pack, form, int8
        self.layers = {layer.node.index: layer for layer in binary_layers(graph)}
        self.shapes = shape_info(_plain(graph)).shapes
        self.behind = {
            index: self._normal(layer.node) for index, layer in self.layers.items()
        }
        self.before = {n.index: index for index, n in self.behind.items() if n is not None}
        self.rewriter = Rewriter(graph)
        self.names = self.rewriter.names
        self.nodes: list[onnx.NodeProto] = []
        self.shared: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        # Quantizers that compare instead of their normalisation, and those whose codes stay whole numbers.
        self.compared = {} if form == "arithmetic" else self._compared()
        self.whole = {
            index
            for index in self.compared
            if self._ends_folded(graph.nodes[index].outputs[0])
        }

    # -- what goes where --------------------------------------------------------------------

    def _normal(self, node: Node) -> Node | None:
        """The normalisation that alone reads a layer, maybe after a pool; None if the layer adds a bias itself."""
        value = node.outputs[0]
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
        gain = signs(self.graph.weights[layer.weight].read(), layer.axis)[1]
        quantizer = self._quantizer(layer.node)
        if quantizer is not None and quantizer.index in self.whole:
            gain = gain * quantizer.attributes["step"]
        return AffineMap(affine.scale * gain, affine.shift)

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
            self.nodes = []
            if node.domain == DOMAIN and node.op == "HalfWave":
                self._half_wave(node)
            elif node.domain == DOMAIN:
                self._weight(node)
            elif self._is_folded(node):
                if node.index not in skipped:
                    self._normalise(node)
            else:
                if node.name in self.int8:
                    self.rewriter.set_input(node, 1, self._dequantized(node))
                self.rewriter.insert_before(node, *self.nodes)
                continue
            self.rewriter.replace(node, self.nodes)
        return self.rewriter.finish(change=_without_own)

    def _normalise(self, node: Node) -> None:
        affine = self._affine(node)
        shape = (-1, *[1] * (len(self.shapes[node.inputs[0]]) - 2))
        scaled = self._op("Mul", node.inputs[0], self._tensor(affine.scale.reshape(shape)))
        self._op(
            "Add", scaled, self._tensor(affine.shift.reshape(shape)), output=node.outputs[0]
        )

    def _half_wave(self, node: Node) -> None:
        step, top = np.float32(node.attributes["step"]), 2 ** node.attributes["bits"] - 1
        deadzone = bool(node.attributes.get("deadzone", 0))
        value, output = node.inputs[0], node.outputs[0]
        if node.index in self.compared:
            self._compare(node, float(step), top, deadzone)
        elif deadzone:
            scale, zero = self._tensor(step), self._tensor(np.uint8(0))
            inside = self._op(
                "Clip", value, self._tensor(0.0), self._tensor(step * np.float32(top))
            )
            codes = self._op("QuantizeLinear", inside, scale, zero)
            self._op("DequantizeLinear", codes, scale, zero, output=output)
        else:
            steps = self._op("Mul", value, self._tensor(1 / float(step)))
            codes = self._op("Ceil", self._op("Sub", steps, self._tensor(0.5)))
            codes = self._op("Clip", codes, self._tensor(1.0), self._tensor(float(top)))
            levels = self._op("Mul", codes, self._tensor(step))
            positive = self._op("Greater", value, self._tensor(0.0))
            self._op("Where", positive, levels, self._tensor(0.0), output=output)

    def _compare(self, node: Node, step: float, top: int, deadzone: bool) -> None:
        """How many thresholds a layer's output is above."""
        normal = self.compared[node.index]
        affine = self._affine(normal)
        turned, limits = as_thresholds(affine, step, top, deadzone)
        shape = (-1, *[1] * (len(self.shapes[normal.inputs[0]]) - 2))
        value = normal.inputs[0]
        if (turned < 0).any():
            value = self._op("Mul", value, self._tensor(turned.reshape(shape)))
        above = [
            self._op("Greater", value, self._tensor(limit.reshape(shape)))
            for limit in limits
        ]
        codes = [self._op("Cast", each, to=onnx.TensorProto.FLOAT) for each in above]
        whole = node.index in self.whole
        total = self._op("Sum", *codes, output=node.outputs[0] if whole else "")
        if not whole:
            self._op("Mul", total, self._tensor(step), output=node.outputs[0])

    def _weight(self, node: Node) -> None:
        """A layer's weights from their bits; with their scales where no normalisation takes these."""
        weight = self.graph.weights[node.inputs[0]]
        axis = node.attributes.get("axis", 0)
        positive, gain = signs(weight.read(), axis)
        shape = [-1 if i == axis else 1 for i in range(positive.ndim)]
        readers = [index for index, _ in self.graph.consumers[node.outputs[0]]]
        folded = all(self.behind.get(index) is not None for index in readers)
        if not self.pack:
            values = np.where(positive, 1.0, -1.0) * (
                1.0 if folded else gain.astype(np.float32).reshape(shape)
            )
            self.rewriter.redirect(node.outputs[0], self._tensor(values))
            return
        bits = np.packbits(positive.reshape(-1), bitorder="little")[:, None]
        result = self._op(
            "Cast",
            self._op("BitwiseAnd", self._tensor(bits), self._tensor(MASKS)),
            to=onnx.TensorProto.BOOL,
        )
        if positive.size % 8:
            result = self._op("Reshape", result, self._tensor(np.array([-1])))
            result = self._op(
                "Slice",
                result,
                self._tensor(np.array([0])),
                self._tensor(np.array([positive.size])),
            )
        result = self._op("Reshape", result, self._tensor(np.array(positive.shape)))
        result = self._op("Where", result, self._tensor(1.0), self._tensor(-1.0))
        if not folded:
            result = self._op("Mul", result, self._tensor(gain.reshape(shape)))
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
        return self._op(
            "DequantizeLinear", self._tensor(codes), self._tensor(scale), axis=axis
        )

    def _op(self, op: str, *inputs: str, output: str = "", **attributes: int) -> str:
        output = output or self.names.short()
        proto = helper.make_node(op, inputs, [output])
        proto.attribute.extend(
            helper.make_attribute(name, value) for name, value in attributes.items()
        )
        self.nodes.append(proto)
        return output

    def _tensor(self, values: Array | np.generic | float) -> str:
        """An initializer, single precision unless it holds whole numbers; equal ones are stored once."""
        array = np.asarray(values)
        array = np.ascontiguousarray(
            array.astype(np.float32) if array.dtype == np.float64 else array
        ).reshape(array.shape)
        key = (array.dtype.name, array.shape, array.tobytes())
        if key not in self.shared:
            self.shared[key] = self.names.short()
            self.rewriter.add_tensor(numpy_helper.from_array(array, self.shared[key]))
        return self.shared[key]


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
    return Graph(model, folder=graph.folder, source=graph.source)


def as_thresholds(
    affine: AffineMap, step: float, top: int, deadzone: bool = False
) -> tuple[Array, list[Array]]:
    """A normalisation and a half-wave quantizer as comparisons with a layer's output.

    Returns:
        A sign for each channel, -1 where the normalisation turns the order; and for each level the threshold: the
        quantizer's code of channel c is the number of thresholds that sign[c] * x is above.
    """
    sign = np.where(affine.scale < 0, -1.0, 1.0)
    inner = [(i + 0.5) * step for i in range(top)]
    if not deadzone:
        inner[0] = 0.0
    size = np.abs(affine.scale)
    with np.errstate(divide="ignore", invalid="ignore"):
        limits = [(edge - affine.shift) / size for edge in inner]
    # A channel of scale 0 has the same code everywhere.
    constant = [np.where(affine.shift > edge, -np.inf, np.inf) for edge in inner]
    return sign, [
        np.where(size > 0, limit, other)
        for limit, other in zip(limits, constant, strict=True)
    ]

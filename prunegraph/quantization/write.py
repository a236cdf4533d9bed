"""Placement, scales and codes -> Graph: pairs of QuantizeLinear and DequantizeLinear around what runs in integers.

Values keep the names they have in float, so that both graphs can be compared one by one, and so do weights; a graph
output is what comes out of the pair. New names are short, since in a small model names are much of the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from prunegraph.graph.bounds import bounds
from prunegraph.graph.linear import LinearLayer
from prunegraph.graph.model import Graph, Node
from prunegraph.graph.names import redirect_subgraphs
from prunegraph.graph.order import captured
from prunegraph.operators import is_convolution, is_gemm, is_matmul, passes
from prunegraph.quantization.placement import Placement
from prunegraph.quantization.scheme import BIAS, IntType, Params, Scheme
from prunegraph.quantization.weights import Codes, bias_codes
from prunegraph.rewriting.rewriter import Rewriter

Array = np.ndarray

#: The domain of ONNX Runtime's own QuantizeLinear and DequantizeLinear, which every operator set can use.
MICROSOFT = "com.microsoft"

#: Operator set with scales by channel; below it only ONNX Runtime's own operators have them.
PER_CHANNEL = 13

#: The newest version of ONNX's QuantizeLinear and DequantizeLinear that ONNX Runtime has.
NEWEST = 25

#: IR version that knows a type, by its bits.
IR_VERSIONS = {4: 10, 8: 8, 16: 8}


@dataclass(frozen=True)
class QuantizedLayer:
    """What a quantized layer is written with: its weight, the weight's type, and its bias in float (None without)."""

    codes: Codes
    type: IntType
    bias: Array | None


def needed_opset(scheme: Scheme) -> int:
    """The operator set in which ONNX's own operators take a scheme's types."""
    return _opset_of(
        [kind for kind in (scheme.weights, scheme.activations) if kind is not None]
    )


def _opset_of(kinds: Iterable[IntType]) -> int:
    return max([PER_CHANNEL, *(kind.opset for kind in kinds)])


def write(
    placement: Placement,
    scheme: Scheme,
    params: list[Params],
    layers: Mapping[int, QuantizedLayer],
) -> Graph:
    """The quantized graph.

    Args:
        placement: what is quantized.
        scheme: the types.
        params: scale and zero point of each of the placement's groups.
        layers: weights and biases by node index: of its layers, and of those whose weights alone are integers.
    """
    return _QdqWriter(placement, scheme, params, layers).run()


class _QdqWriter:
    def __init__(
        self,
        placement: Placement,
        scheme: Scheme,
        params: list[Params],
        layers: Mapping[int, QuantizedLayer],
    ):
        self.placement, self.scheme, self.params, self.layers = (
            placement,
            scheme,
            params,
            layers,
        )
        self.graph = graph = placement.graph
        kinds = [scheme.activations] if scheme.activations is not None else []
        #: Of pairs around activations; weights have their own.
        self.domain = self._domain(*kinds)
        self.rewriter = Rewriter(graph)
        self.names = self.rewriter.names
        #: What takes the place of the node that is being written, or goes before all of them.
        self.nodes: list[onnx.NodeProto] = []
        self.pairs: dict[str, str] = {}
        self.scales: dict[int, list[str]] = {}
        self.zeros: dict[tuple[str, int], str] = {}
        self.replaced: set[str] = set()
        #: Results of DequantizeLinear, and what operators that it is moved through make of them.
        self.moved: set[str] = set()
        self.held: dict[str, str] = {}
        self.absorbed = {
            act: node for node, act in placement.absorbed.items() if self._is_implied(act)
        }
        self.quantized = {
            self.placement.result(n) for n in graph.nodes if placement.is_quantized(n)
        }
        self.quantized |= {
            v for index in placement.computed for v in graph.nodes[index].outputs[1:] if v
        }

    def run(self) -> Graph:
        for value in self.graph.inputs:
            self._pair_behind(value)
        self.rewriter.insert_first(*self.nodes)
        for node in self.graph.in_file():
            self.nodes = []
            if node.index not in self.absorbed:
                self._write(node)
            self.rewriter.replace(node, self.nodes)
        return self.rewriter.finish(change=self._declare)

    # -- nodes ------------------------------------------------------------------------------

    def _write(self, node: Node) -> None:
        proto = onnx.NodeProto()
        proto.CopyFrom(node.proto)
        layer = self.layers.get(node.index)
        if layer is not None:
            self._set_weights(node, proto, layer)
        for slot, value in enumerate(node.proto.input):
            if value in self.placement.group_of and (
                value in self.quantized or self._reads(node, slot)
            ):
                proto.input[slot] = self._name_of_pair(value)
        before = next(
            (b for b, act in self.placement.absorbed.items() if act == node.index), None
        )
        if before is not None:  # an activation that its range does not imply
            proto.input[0] = self._name_of_pair(node.inputs[0])
        redirect_subgraphs(
            proto, {value: self._in_subgraph(value) for value in captured(proto)}
        )
        self.nodes.append(proto)
        # ONNX Runtime ends the process (1.32, an index out of range) where what comes out of a DequantizeLinear that it
        # has moved through is read inside a subgraph.
        if passes(node, "scales") and proto.input[0] in self.moved:
            self.moved.update(node.outputs)
        for slot, value in enumerate(node.outputs):
            after = self.placement.absorbed.get(node.index)
            if slot == 0 and after is not None and after in self.absorbed:
                value = self.graph.nodes[after].outputs[0]
            proto.output[slot] = value
            if slot == 0 and after is not None and after not in self.absorbed:
                self._pair(value, self._name_of_pair(value), self._group(after))
            elif (
                value in self.graph.outputs
                and value in self.placement.group_of
                and value in self.quantized
            ):
                proto.output[slot] = self.names.new(f"{value}/float")
                self._pair(proto.output[slot], value, self.placement.group_of[value])
            else:
                self._pair_behind(value)

    def _in_subgraph(self, value: str) -> str:
        """Say what a subgraph reads for a value: what the nodes around it read.

        An activation may be in nothing but the range of a pair. What a DequantizeLinear would be moved behind is held
        by a Max of one input, which changes nothing and which it is not moved through.
        """
        if value in self.placement.group_of and value in self.quantized:
            return self._name_of_pair(value)
        if value not in self.moved:
            return value
        if value not in self.held:
            self.held[value] = self.names.numbered("d")
            self._add("Max", [value], self.held[value], "")
        return self.held[value]

    def _group(self, act: int) -> int:
        return self.placement.group_of[self.graph.nodes[act].outputs[0]]

    def _reads(self, node: Node, slot: int) -> bool:
        """Tell whether an input is data that a quantized node reads in integers."""
        if node.index in self.placement.layers:
            return slot == 0 and self.scheme.activations is not None
        return node.index in self.placement.computed

    def _name_of_pair(self, value: str) -> str:
        if value in self.graph.outputs and value in self.quantized:
            return value
        if value not in self.pairs:
            self.pairs[value] = self.names.numbered("d")
        return self.pairs[value]

    def _pair_behind(self, value: str) -> None:
        if value in self.placement.group_of:
            self._pair(value, self._name_of_pair(value), self.placement.group_of[value])

    def _pair(self, created: str, result: str, group: int) -> None:
        """A QuantizeLinear and a DequantizeLinear behind a value that has been made."""
        scale = self._scale(group)
        codes = self.names.numbered("q")
        self._add("QuantizeLinear", [created, *scale], codes, self.domain)
        self._add("DequantizeLinear", [codes, *scale], result, self.domain)
        self.moved.add(result)

    def _domain(self, *kinds: IntType) -> str:
        """Whose QuantizeLinear and DequantizeLinear have types in the model's operator set."""
        opset = self.graph.opsets.get("", 1)
        version = onnx.defs.get_schema(
            "QuantizeLinear", max(opset, PER_CHANNEL)
        ).since_version
        return "" if opset >= _opset_of(kinds) and version <= NEWEST else MICROSOFT

    def _add(
        self, op: str, inputs: list[str], output: str, domain: str, **attributes: int
    ) -> None:
        proto = helper.make_node(op, inputs, [output], domain=domain or None)
        proto.attribute.extend(
            helper.make_attribute(name, value) for name, value in attributes.items()
        )
        self.nodes.append(proto)

    def _scale(self, group: int) -> list[str]:
        """Names of a group's scale and zero point."""
        if group not in self.scales:
            params = self.params[group]
            scale = self._tensor(
                self.names.numbered("s"), np.asarray(params.scale, np.float32)
            )
            self.scales[group] = [scale, self._zero(params)]
        return self.scales[group]

    def _zero(self, params: Params) -> str:
        """The name of a zero point; equal ones are one tensor."""
        key = params.type.name, params.zero_point
        if key not in self.zeros:
            value = np.asarray(params.zero_point).astype(params.type.dtype)
            self.zeros[key] = self._tensor(self.names.numbered("z"), value)
        return self.zeros[key]

    def _is_implied(self, act: int) -> bool:
        """Tell whether codes cannot say what an activation would not let through."""
        node = self.graph.nodes[act]
        limits, given = bounds(self.graph, node), self.params[self._group(act)]
        assert limits is not None  # or it had not been absorbed
        low, high = (limit / given.scale + given.zero_point for limit in limits)
        return bool(
            np.rint(low) <= given.type.lowest and np.rint(high) >= given.type.highest
        )

    # -- weights ----------------------------------------------------------------------------

    def _set_weights(
        self, node: Node, proto: onnx.NodeProto, layer: QuantizedLayer
    ) -> None:
        codes, name = layer.codes, node.inputs[1]
        attributes = {
            "axis": codes.axis,
            **({"block_size": codes.block} if codes.block else {}),
        }
        # ONNX Runtime fuses a Gemm or MatMul only if its weight has a zero point.
        zero = not is_convolution(node)
        proto.input[1] = self._dequantized(
            name, codes.codes, codes.scales, layer.type, zero=zero, **attributes
        )
        if not is_matmul(node):
            del proto.input[2:]
        if layer.bias is not None:
            base = node.input(2) or f"{node.name}/bias"
            proto.input.append(self._bias(node, base, layer))
        for attribute in [a for a in proto.attribute if a.name in ("alpha", "beta")]:
            proto.attribute.remove(attribute)

    def _bias(self, node: Node, base: str, layer: QuantizedLayer) -> str:
        assert layer.bias is not None
        if not self.scheme.integer_bias or node.index not in self.placement.layers:
            return self._tensor(self._own(base), layer.bias.astype(np.float32))
        given = self.params[self.placement.group_of[node.inputs[0]]]
        scales = (np.float32(given.scale) * layer.codes.scales).astype(np.float32)
        return self._dequantized(base, bias_codes(layer.bias, scales), scales, BIAS, axis=0)

    def _dequantized(
        self,
        name: str,
        codes: Array,
        scales: Array,
        kind: IntType,
        zero: bool = False,
        **attributes: int,
    ) -> str:
        """The value of symmetric codes, which take a weight's name; `zero`: whether to spell a zero point of 0 out."""
        middle = 0 if kind.signed else kind.highest // 2 + 1
        held = self._tensor(self._own(name), (codes + middle).astype(kind.dtype))
        inputs = [held, self._tensor(self.names.numbered("s"), scales)]
        if zero or middle:
            inputs.append(
                self._tensor(
                    self.names.numbered("z"),
                    np.full(scales.shape, middle).astype(kind.dtype),
                )
            )
        result = self.names.numbered("d")
        self._add("DequantizeLinear", inputs, result, self._domain(kind), **attributes)
        return result

    def _own(self, name: str) -> str:
        """A weight's own name, if no other reader needs the float one."""
        weight = self.graph.weights.get(name)
        if weight is None:
            return self.names.new(name)
        free = weight.holder is None and len(self.graph.consumers[name]) == 1
        return (
            name
            if free and name not in self.graph.outputs and name not in self.replaced
            else self.names.numbered("w")
        )

    def _tensor(self, name: str, values: Array) -> str:
        self.replaced.add(name)
        if name in self.graph.weights:
            self.rewriter.drop_weight(name)
        self.rewriter.add_tensor(
            numpy_helper.from_array(
                np.ascontiguousarray(values).reshape(values.shape), name
            )
        )
        return name

    # -- the model ----------------------------------------------------------------------------

    def _declare(self, model: onnx.ModelProto) -> None:
        """Versions and domains that the types need; what is declared of values that are no longer there goes."""
        kinds = [layer.type for layer in self.layers.values()] + [
            param.type for param in self.params
        ]
        model.ir_version = max(
            [model.ir_version, *(IR_VERSIONS[kind.bits] for kind in kinds)]
        )
        if MICROSOFT not in self.graph.opsets and any(
            proto.domain == MICROSOFT for proto in model.graph.node
        ):
            model.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
        _keep(
            model.graph.input,
            [entry for entry in model.graph.input if entry.name in self.graph.inputs],
        )
        created = {output for proto in model.graph.node for output in proto.output}
        _keep(
            model.graph.value_info,
            [entry for entry in model.graph.value_info if entry.name in created],
        )


def _keep(field: object, entries: Iterable[onnx.ValueInfoProto]) -> None:
    """Leave only some entries in a repeated field; inputs that declare initializers would not be constants."""
    copies = [
        onnx.ValueInfoProto.FromString(entry.SerializeToString()) for entry in entries
    ]
    del field[:]  # type: ignore[attr-defined]
    field.extend(copies)  # type: ignore[attr-defined]


def float_bias(graph: Graph, node: Node) -> Array | None:
    """A layer's bias [outputs] times its factor, or None where it has none."""
    layer = LinearLayer(graph, node)
    needs_one = is_gemm(node) and node.version < 11
    return layer.vector() if layer.bias or needs_one else None

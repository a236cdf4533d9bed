"""What quantization did to each layer, and the types that layers of any model have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from prunegraph.graph.linear import LinearLayer
from prunegraph.graph.model import Graph, Node
from prunegraph.graph.shapes import shape_info
from prunegraph.measuring.sqnr import decibels
from prunegraph.operators import is_dequantize
from prunegraph.quantization.mixed import put_back
from prunegraph.quantization.placement import Placement
from prunegraph.quantization.saturation import held_type
from prunegraph.quantization.scheme import Scheme
from prunegraph.quantization.weights import Codes


@dataclass(frozen=True)
class LayerReport:
    """A layer after quantization.

    Args:
        name: of the node.
        op: its operator.
        weights: type of the weight, "float32" where it stays.
        activations: type of what it reads.
        weight_sqnr: dB of the rounded weight; None in float.
        sqnr: dB of what it makes, all noise before it included; None where that was not measured.
        reason: why it stays or goes back to float, or "".
    """

    name: str
    op: str
    weights: str
    activations: str
    weight_sqnr: float | None
    sqnr: float | None
    reason: str = ""


def layer_reports(
    placement: Placement,
    scheme: Scheme,
    codes: Mapping[int, Codes],
    noise: Mapping[str, float],
    wide: Scheme | None = None,
) -> tuple[LayerReport, ...]:
    """A report of every layer; `noise` is SQNR by value, `wide` the scheme of layers that were put back."""
    back = put_back(placement) if wide is not None else []
    schemes = {**dict.fromkeys(placement.layers, scheme), **dict.fromkeys(back, wide)}
    return tuple(
        _report(placement, schemes.get(n.index), codes, noise, n)
        for n in placement.graph.layers
    )


def _report(
    placement: Placement,
    scheme: Scheme | None,
    codes: Mapping[int, Codes],
    noise: Mapping[str, float],
    node: Node,
) -> LayerReport:
    match, reason = noise.get(placement.result(node)), placement.floats.get(node.name, "")
    if scheme is None:
        return LayerReport(node.name, node.op, "float32", "float32", None, match, reason)
    weight = LinearLayer(placement.graph, node).weighted()
    own = codes[node.index]
    lost = decibels(
        float(np.square(weight).sum()), float(np.square(weight - own.values()).sum())
    )
    activations = scheme.activations.name if scheme.activations is not None else "float32"
    held = held_type(own.codes, own.axis, scheme).name
    return LayerReport(node.name, node.op, held, activations, lost, match, reason)


@dataclass(frozen=True)
class LayerTypes:
    """Types in which a layer's weight and input are held."""

    name: str
    op: str
    weights: str
    activations: str


def layer_types(graph: Graph) -> tuple[LayerTypes, ...]:
    """The types of every layer of a graph, seen through DequantizeLinear nodes."""
    known = shape_info(graph).types
    result = []
    for node in graph.layers:
        weight = graph.weights[str(graph.main_weight(node))]
        result.append(
            LayerTypes(
                node.name,
                node.op,
                _name(weight.tensor.data_type),
                _name(_held(graph, node, known)),
            )
        )
    return tuple(result)


def _held(graph: Graph, node: Node, types: Mapping[str, int]) -> int:
    """The type behind a layer's data."""
    value = next(
        (v for v in node.inputs if v and graph.weight_behind(v) is None), node.inputs[0]
    )
    before = graph.nodes[graph.producer[value]] if value in graph.producer else None
    if before is not None and is_dequantize(before):
        value = before.inputs[0]
    return types.get(value, onnx.TensorProto.UNDEFINED)


def _name(kind: int) -> str:
    name = str(onnx.TensorProto.DataType.Name(kind)).lower()
    return {"float": "float32", "double": "float64", "undefined": "?"}.get(name, name)

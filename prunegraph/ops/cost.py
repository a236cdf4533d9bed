"""What a graph costs: multiply-accumulates, parameters, bytes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx

from prunegraph.graph.model import Graph, Node, Weight
from prunegraph.graph.shapes import shape_info
from prunegraph.ops.rule import Shape, rule_for

#: Inputs that hold neither trained parameters nor data: running statistics, sizes, bounds.
NOT_PARAMETERS = {
    "BatchNormalization": (3, 4),
    "Resize": (1, 2, 3),
    "Upsample": (1,),
}

#: Element types of indices and sizes.
INDEX_TYPES = (
    onnx.TensorProto.INT64,
    onnx.TensorProto.INT32,
    onnx.TensorProto.BOOL,
    onnx.TensorProto.STRING,
)


@dataclass(frozen=True)
class Cost:
    """`macs` at the sizes of the analysis (batch 1), `params` counted, `bytes` of all weights."""

    macs: int
    params: int
    bytes: int


def cost(graph: Graph) -> Cost:
    """Cost of a whole graph. Only contractions (convolutions, matrix products) count as MACs."""
    shapes = shape_info(graph).shapes
    return Cost(
        sum(node_macs(node, shapes) for node in graph.nodes),
        sum(
            weight.size for weight in graph.weights.values() if is_parameter(graph, weight)
        ),
        sum(weight_bytes(weight, weight.shape) for weight in graph.weights.values()),
    )


def node_macs(node: Node, shapes: Mapping[str, Shape]) -> int:
    """Multiply-accumulates of one node, 0 where it is none or its shapes are not known."""
    rule = rule_for(node)
    if (
        rule is None
        or rule.macs is None
        or not all(v in shapes for v in (*node.inputs, *node.outputs) if v)
    ):
        return 0
    return rule.macs(node, _all(node.inputs, shapes), _all(node.outputs, shapes))


def _all(values: Sequence[str], shapes: Mapping[str, Shape]) -> list[Shape]:
    return [shapes.get(value, ()) for value in values]


def is_parameter(graph: Graph, weight: Weight) -> bool:
    """Tell whether a constant is a trained parameter: no scalar, no size or index, no running statistic."""
    if not weight.shape or weight.tensor.data_type in INDEX_TYPES:
        return False
    readers = graph.consumers.get(weight.name, ())
    return any(
        slot not in NOT_PARAMETERS.get(graph.nodes[node].op, ()) for node, slot in readers
    )


def weight_bytes(weight: Weight, shape: Shape) -> int:
    """Bytes of a weight with a given shape; sub-byte types are packed."""
    bits = {"INT4": 4, "UINT4": 4, "INT2": 2, "UINT2": 2, "FLOAT4E2M1": 4}
    name = onnx.TensorProto.DataType.Name(weight.tensor.data_type)
    return math.ceil(math.prod(shape) * bits.get(name, weight.dtype.itemsize * 8) / 8)

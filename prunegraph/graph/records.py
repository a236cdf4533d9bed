"""Nodes as plain JSON: what a program in any language needs to know of a graph."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import onnx

from prunegraph.graph.model import Graph, Node
from prunegraph.graph.shapes import shape_info
from prunegraph.operators import info

#: Sizes of values by name.
Shapes = Mapping[str, Sequence[int]]


def node_records(graph: Graph, shapes: Shapes | None = None) -> list[dict[str, Any]]:
    """All nodes in topological order.

    Args:
        graph: the model.
        shapes: sizes of values, by default the smallest that fit; what is not in there is null in the records.
    """
    if shapes is None:
        shapes = shape_info(graph).shapes
    return [_record(graph, node, shapes) for node in graph.nodes]


def _record(graph: Graph, node: Node, shapes: Shapes) -> dict[str, Any]:
    return {
        "index": node.index,
        "name": node.name,
        "op": node.op,
        "domain": node.domain,
        "attributes": {key: plain(value) for key, value in node.attributes.items()},
        "parents": [list(parent) for parent in node.parents],
        "inputs": list(node.inputs),
        "outputs": list(node.outputs),
        "input_shapes": _sizes(node.inputs, shapes),
        "output_shapes": _sizes(node.outputs, shapes),
        "layer": node.layer,
        **({"body": node.subgraph.name} if node.subgraph is not None else {}),
        **_window(graph, node, shapes),
        "channels": {
            "inputs": node.channels.inputs,
            "outputs": node.channels.outputs,
            "weights": {
                role: {
                    "name": name,
                    "shape": list(graph.weights[name].shape),
                    "dtype": str(graph.weights[name].dtype),
                }
                for role, name in node.channels.weights.items()
            },
        },
    }


def _sizes(values: Sequence[str], shapes: Shapes) -> list[list[int] | None]:
    """Shapes of values; None for one that is left out, or whose shape is not known."""
    return [
        [int(size) for size in shapes[value]] if value in shapes else None
        for value in values
    ]


def _window(graph: Graph, node: Node, shapes: Shapes) -> dict[str, Any]:
    """Kernel, stride, dilation, pads and groups of a convolution or pooling, with the operator's defaults."""
    operator = info(node)
    if not operator.has_window:
        return {}
    slot = operator.weight_slots[0] if operator.is_layer else None
    kernel = node.attributes.get("kernel_shape")
    if not kernel and slot is not None:
        kernel = shapes.get(node.input(slot), ())[2:]
    kernel = [int(size) for size in kernel or ()]
    automatic = plain(node.attributes.get("auto_pad", b"NOTSET"))
    given = {
        "stride": node.attributes.get("strides") or [1] * len(kernel),
        "dilation": node.attributes.get("dilations") or [1] * len(kernel),
        "pads": node.attributes.get("pads") or [0] * 2 * len(kernel),
    }
    return {
        "kernel": kernel,
        **{key: [int(size) for size in value] for key, value in given.items()},
        **({"pads": automatic} if automatic != "NOTSET" else {}),
        **({"groups": int(node.attributes.get("group", 1))} if slot is not None else {}),
    }


def plain(value: Any) -> Any:
    """An attribute's value as JSON: tensors and subgraphs by shape and name only, "inf" and "nan" as text."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, (int, float, str)):
        return value
    if isinstance(value, onnx.TensorProto):
        return {"tensor": value.name, "shape": list(value.dims)}
    if isinstance(value, onnx.GraphProto):
        return {"graph": value.name}
    if hasattr(value, "__iter__"):
        return [plain(item) for item in value]
    return str(value)

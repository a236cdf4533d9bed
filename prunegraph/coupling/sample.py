"""Shapes that no inference gives: said by a rule, or read off one run.

Operators of ONNX Runtime have no inference. Where all inputs of such a node have known shapes, its
output's shape follows from them, and one run on random data shows it. Shapes that depend on
the data itself (behind a NonZero, a TopK) are not taken from a run: they would hold for
that data only.
"""

from __future__ import annotations

import onnx

from prunegraph.errors import PrunegraphError
from prunegraph.graph.inference import infer_outputs
from prunegraph.graph.model import Graph, Node
from prunegraph.graph.shape_info import ShapeInfo
from prunegraph.graph.shapes import shape_info
from prunegraph.ops import rule_for
from prunegraph.ops.cost import Cost, cost
from prunegraph.runtime.data import random_inputs
from prunegraph.runtime.session import run_values


def complete(graph: Graph, shape_info: ShapeInfo) -> None:
    """Fill in shapes of nodes that have a rule but no inference."""
    _ask_rules(graph, shape_info)
    if not any(_is_open(node, shape_info) for node in graph.nodes):
        return
    names = [
        v
        for node in graph.nodes
        for v in node.outputs
        if v in graph.outer and v not in shape_info.shapes
    ]
    try:
        values = run_values(graph, random_inputs(graph, batch=1), names)
    except PrunegraphError:  # it does not run here; the nodes stay barriers
        return
    for node in graph.nodes:
        if _is_open(node, shape_info):
            for output in node.outputs:
                if output in values and output not in shape_info.shapes:
                    shape_info.shapes[output] = values[output].shape
                    shape_info.types[output] = onnx.helper.np_dtype_to_tensor_dtype(
                        values[output].dtype
                    )
        elif any(
            v and v not in shape_info.shapes for v in node.outputs
        ) and not shape_info.is_dead(node):
            infer_outputs(node, shape_info)


def _ask_rules(graph: Graph, shape_info: ShapeInfo) -> None:
    """Shapes that rules give, and what follows from them."""
    asked = False
    for node in graph.nodes:
        rule = rule_for(node)
        if rule is not None and rule.shapes is not None and _is_open(node, shape_info):
            asked = True
            shapes = rule.shapes(
                node, [shape_info.shapes.get(value, ()) for value in node.inputs]
            )
            for output, shape in zip(node.outputs, shapes, strict=True):
                shape_info.shapes[output] = tuple(shape)
                shape_info.types[output] = shape_info.types[node.inputs[0]]
        elif asked and any(v and v not in shape_info.shapes for v in node.outputs):
            infer_outputs(node, shape_info)


def full_cost(graph: Graph) -> Cost:
    """Cost of a graph, layers behind operators without inference included."""
    complete(graph, shape_info(graph))
    return cost(graph)


def _is_open(node: Node, shape_info: ShapeInfo) -> bool:
    """Tell whether a node has a rule and known inputs, but outputs that ONNX's inference says nothing of."""
    if all(v in shape_info.shapes for v in node.outputs if v) or (
        not node.domain and onnx.defs.has(node.op)
    ):
        return False
    rule = rule_for(node)
    return (
        rule is not None
        and rule.propagate is not None
        and shape_info.graph.outer.issuperset(v for v in node.outputs if v)
        and all(v in shape_info.shapes for v in node.inputs if v)
    )

"""Shapes that no inference gives: said by a rule, or read off one run.

Operators of ONNX Runtime have no inference. Where all inputs of such a node have known shapes, its
output's shape follows from them, and one run on random data shows it. Shapes that depend on
the data itself (behind a NonZero, a TopK) are not taken from a run: they would hold for
that data only.
"""

from __future__ import annotations

import onnx

from prunegraph.errors import PrunegraphError
from prunegraph.graph.facts import Facts, facts
from prunegraph.graph.inference import infer_outputs
from prunegraph.graph.model import Graph, Node
from prunegraph.ops import rule_for
from prunegraph.ops.cost import Cost, cost
from prunegraph.runtime.data import random_inputs
from prunegraph.runtime.session import run_values


def complete(graph: Graph, facts: Facts) -> None:
    """Fill in shapes of nodes that have a rule but no inference."""
    _ask_rules(graph, facts)
    if not any(_is_open(node, facts) for node in graph.nodes):
        return
    names = [v for node in graph.nodes for v in node.outputs if v in graph.outer and v not in facts.shapes]
    try:
        values = run_values(graph, random_inputs(graph, batch=1), names)
    except PrunegraphError:  # it does not run here; the nodes stay barriers
        return
    for node in graph.nodes:
        if _is_open(node, facts):
            for output in node.outputs:
                if output in values and output not in facts.shapes:
                    facts.shapes[output] = values[output].shape
                    facts.types[output] = onnx.helper.np_dtype_to_tensor_dtype(values[output].dtype)
        elif any(v and v not in facts.shapes for v in node.outputs) and not facts.is_dead(node):
            infer_outputs(node, facts)


def _ask_rules(graph: Graph, facts: Facts) -> None:
    """Shapes that rules give, and what follows from them."""
    asked = False
    for node in graph.nodes:
        rule = rule_for(node)
        if rule is not None and rule.shapes is not None and _is_open(node, facts):
            asked = True
            shapes = rule.shapes(node, [facts.shapes.get(value, ()) for value in node.inputs])
            for output, shape in zip(node.outputs, shapes, strict=True):
                facts.shapes[output] = tuple(shape)
                facts.types[output] = facts.types[node.inputs[0]]
        elif asked and any(v and v not in facts.shapes for v in node.outputs):
            infer_outputs(node, facts)


def full_cost(graph: Graph) -> Cost:
    """Cost of a graph, layers behind operators without inference included."""
    complete(graph, facts(graph))
    return cost(graph)


def _is_open(node: Node, facts: Facts) -> bool:
    """Whether a node has a rule and known inputs, but outputs that ONNX's inference says nothing of."""
    if all(v in facts.shapes for v in node.outputs if v) or (not node.domain and onnx.defs.has(node.op)):
        return False
    rule = rule_for(node)
    return (
        rule is not None
        and rule.spread is not None
        and facts.graph.outer.issuperset(v for v in node.outputs if v)
        and all(v in facts.shapes for v in node.inputs if v)
    )

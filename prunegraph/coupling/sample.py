"""Shapes that no inference gives: read off one run.

Operators of ONNX Runtime have no inference. Where all inputs of such a node have known shapes, its
output's shape follows from them, and one run on random data shows it. Shapes that depend on
the data itself (behind a NonZero, a TopK) are not taken from a run: they would hold for
that data only.
"""

from __future__ import annotations

import onnx

from prunegraph.errors import PrunegraphError
from prunegraph.graph.facts import Facts, infer_outputs
from prunegraph.graph.model import Graph, Node
from prunegraph.ops import rule_for
from prunegraph.runtime.data import random_inputs
from prunegraph.runtime.session import run_values


def complete(graph: Graph, facts: Facts) -> None:
    """Fill in shapes of nodes that have a rule but no inference."""
    if not any(_is_open(node, facts) for node in graph.nodes):
        return
    names = [v for node in graph.nodes for v in node.outputs if v and v not in facts.shapes]
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
        elif any(v and v not in facts.shapes for v in node.outputs):
            infer_outputs(node, facts)


def _is_open(node: Node, facts: Facts) -> bool:
    rule = rule_for(node)
    return (
        rule is not None
        and rule.spread is not None
        and not (node.domain == "" and onnx.defs.has(node.op))
        and all(v in facts.shapes for v in node.inputs if v)
        and any(v and v not in facts.shapes for v in node.outputs)
    )

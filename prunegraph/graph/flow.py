"""Shapes and numbers that If, Loop and Scan hand into their subgraphs and out of them.

A value that a Loop or Scan carries from iteration to iteration keeps its shape, or its shape is not
known at all: the subgraph is looked at with the first iteration's shapes, and again without those that
it changes. Numbers are never known across iterations. Of a branch that is dead nothing counts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prunegraph.graph.control import DOMAIN, ENTER, LOOP_HEAD, RETURN, Scanned, Subgraph
from prunegraph.graph.model import Node
from prunegraph.graph.shape_info import ShapeInfo
from prunegraph.operators import is_cast, is_constant, is_identity


def is_control(node: Node) -> bool:
    """Tell whether a node hands values into subgraphs or out of them."""
    return node.domain == DOMAIN or bool(node.subgraphs)


def hand_on(node: Node, info: ShapeInfo, visit: Callable[[Node], None]) -> None:
    """Shapes and types of the outputs of such a node.

    Args:
        node: an `Enter`, a `Return`, or an If, Loop or Scan with subgraphs.
        info: what is known so far; added to.
        visit: adds what is known of a node.
    """
    if node.op == ENTER:
        _enter(node, info)
    elif node.op == RETURN:
        for source, target in zip(node.inputs, node.outputs, strict=True):
            _copy(info, source, target)
    elif node.op == "If":
        _leave_if(node, info)
    else:
        _settle(node, info, visit)
        (_leave_loop if node.op == "Loop" else _leave_scan)(node, info)


def carried(node: Node, enter: Node) -> list[tuple[str, str]]:
    """Values that a Loop or Scan carries: as its subgraph gets them, and as it hands them back."""
    if node.op == "Loop":
        formal, returned = enter.outputs[LOOP_HEAD:], node.inputs[1:]
    else:
        states = Scanned.of(node.proto).states
        formal, returned = enter.outputs[:states], node.inputs[:states]
    return list(zip(formal, returned, strict=False))


def _copy(info: ShapeInfo, source: str, target: str) -> None:
    if target and source in info.shapes:
        info.shapes[target], info.types[target] = info.shapes[source], info.types[source]


def _enter(node: Node, info: ShapeInfo) -> None:
    subgraph = node.subgraphs[0]
    operator = subgraph.owner.op_type
    first = 0
    if operator == "Loop":
        first = LOOP_HEAD
        for formal, entry in zip(
            node.outputs, subgraph.graph.input[:LOOP_HEAD], strict=False
        ):
            info.shapes[formal] = (1,) * len(entry.type.tensor_type.shape.dim)
            info.types[formal] = entry.type.tensor_type.elem_type
    scan = Scanned.of(subgraph.owner) if operator == "Scan" else None
    for slot in range(first, len(node.outputs)):
        source, formal = node.inputs[slot], node.outputs[slot]
        if formal in info.varying:
            continue
        _copy(info, source, formal)
        if scan is not None and slot >= scan.states and formal in info.shapes:
            shape = list(info.shapes[formal])
            info.iterations[subgraph] = shape.pop(scan.input_axes[slot - scan.states])
            info.shapes[formal] = tuple(shape)


def _settle(node: Node, info: ShapeInfo, visit: Callable[[Node], None]) -> None:
    """Forget the shapes of carried values that an iteration changes, and look at the subgraph again."""
    nodes = info.graph.nodes
    pairs = carried(node, nodes[node.enter])
    while True:
        changed = [
            a for a, b in pairs if a in info.shapes and info.shapes.get(b) != info.shapes[a]
        ]
        if not changed:
            return
        info.varying.update(changed)
        inside = nodes[node.enter : node.index]
        for value in (
            output for inner in inside if not is_constant(inner) for output in inner.outputs
        ):
            shape_info: dict[str, Any]
            for shape_info in (info.shapes, info.types, info.known, info.folded):
                shape_info.pop(value, None)
        for inner in inside:
            visit(inner)


def _leave_if(node: Node, info: ShapeInfo) -> None:
    live = [subgraph for subgraph in node.subgraphs if subgraph not in info.dead]
    for index, output in enumerate(node.outputs):
        values = [subgraph.outputs[index] for subgraph in live]
        shapes = [info.shapes.get(value) for value in values]
        if not output or None in shapes or any(shape != shapes[0] for shape in shapes):
            continue
        _copy(info, values[0], output)
        constant = info.constant(values[0]) if len(live) == 1 else None
        if constant is not None and (
            values[0] in info.known or constant.dtype.kind in "ib"
        ):
            info.known[output] = constant


def _leave_loop(node: Node, info: ShapeInfo) -> None:
    enter, subgraph = info.graph.nodes[node.enter], node.subgraphs[0]
    pairs = carried(node, enter)
    limit = info.constant(enter.inputs[0]) if enter.inputs[0] else None
    if limit is not None and limit.size == 1 and _goes_on(enter, subgraph, info):
        info.iterations[subgraph] = max(int(limit.item()), 0)
    else:
        info.guessed.add(subgraph)
    for (formal, _), output in zip(pairs, node.outputs, strict=False):
        _copy(info, formal, output)
    for returned, output in zip(
        node.inputs[1 + len(pairs) :], node.outputs[len(pairs) :], strict=True
    ):
        _stack(info, returned, output, subgraph, 0)


def _leave_scan(node: Node, info: ShapeInfo) -> None:
    scan, subgraph = Scanned.of(node.proto), node.subgraphs[0]
    for slot, (returned, output) in enumerate(zip(node.inputs, node.outputs, strict=True)):
        if slot < scan.states:
            _copy(info, returned, output)
        else:
            _stack(info, returned, output, subgraph, scan.output_axes[slot - scan.states])


def _stack(
    info: ShapeInfo, returned: str, output: str, subgraph: Subgraph, axis: int
) -> None:
    """One element of the result for every iteration."""
    if not output or returned not in info.shapes:
        return
    shape = list(info.shapes[returned])
    iterations = info.iterations.get(subgraph, info.guess)
    shape.insert(axis if axis >= 0 else len(shape) + 1 + axis, iterations)
    info.shapes[output], info.types[output] = tuple(shape), info.types[returned]


def _goes_on(enter: Node, subgraph: Subgraph, info: ShapeInfo) -> bool:
    """Tell whether a Loop's condition is true from the first iteration to the last."""

    def is_true(value: str) -> bool:
        constant = info.constant(value)
        return constant is not None and constant.size == 1 and bool(constant.item())

    last = subgraph.outputs[0]
    nodes, producer = info.graph.nodes, info.graph.producer
    while last in producer and _only_renames(nodes[producer[last]]):
        last = nodes[producer[last]].inputs[0]
    starts = not enter.inputs[1] or is_true(enter.inputs[1])
    return starts and (last == enter.outputs[1] or is_true(last))


def _only_renames(node: Node) -> bool:
    return is_identity(node) or is_cast(node)

"""What is known of values that If, Loop and Scan hand into their bodies and out of them.

A value that a Loop or Scan carries from turn to turn keeps its shape, or its shape is not
known at all: the body is looked at with the first turn's shapes, and again without those that
it changes. Numbers are never known across turns. A condition that is the same whatever the
inputs' sizes takes one branch for good; the other one is dead, and nothing in it counts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from prunegraph.graph.control import DOMAIN, ENTER, LOOP_HEAD, RETURN, Body, Scanned
from prunegraph.graph.evaluate import evaluate

if TYPE_CHECKING:
    from prunegraph.graph.facts import Facts
    from prunegraph.graph.model import Node

Shape = tuple[int, ...]

#: Operators whose result holds elements of their first input, unchanged.
MOVES = frozenset({"Gather", "Slice", "Squeeze", "Unsqueeze", "Reshape", "Transpose", "Identity", "Cast"})


def is_control(node: Node) -> bool:
    """Whether a node hands values into bodies or out of them."""
    return node.domain == DOMAIN or bool(node.bodies)


def hand_on(node: Node, found: Facts, visit: Callable[[Node], None]) -> None:
    """Shapes and types of the outputs of such a node.

    Args:
        node: an `Enter`, a `Return`, or an If, Loop or Scan with bodies.
        found: the facts so far; added to.
        visit: finds the facts of a node.
    """
    if node.op == ENTER:
        _enter(node, found)
    elif node.op == RETURN:
        for source, target in zip(node.inputs, node.outputs, strict=True):
            _copy(found, source, target)
    elif node.op == "If":
        _leave_if(node, found)
    else:
        _settle(node, found, visit)
        (_leave_loop if node.op == "Loop" else _leave_scan)(node, found)


def carried(node: Node, enter: Node) -> list[tuple[str, str]]:
    """Values that a Loop or Scan carries: as its body gets them, and as it hands them back."""
    if node.op == "Loop":
        formal, returned = enter.outputs[LOOP_HEAD:], node.inputs[1:]
    else:
        states = Scanned.of(node.proto).states
        formal, returned = enter.outputs[:states], node.inputs[:states]
    return list(zip(formal, returned, strict=False))


def _copy(found: Facts, source: str, target: str) -> None:
    if target and source in found.shapes:
        found.shapes[target], found.types[target] = found.shapes[source], found.types[source]


def _enter(node: Node, found: Facts) -> None:
    body = node.bodies[0]
    operator = body.owner.op_type
    first = 0
    if operator == "Loop":
        first = LOOP_HEAD
        for formal, entry in zip(node.outputs, body.graph.input[:LOOP_HEAD], strict=False):
            found.shapes[formal] = (1,) * len(entry.type.tensor_type.shape.dim)
            found.types[formal] = entry.type.tensor_type.elem_type
    scan = Scanned.of(body.owner) if operator == "Scan" else None
    for slot in range(first, len(node.outputs)):
        source, formal = node.inputs[slot], node.outputs[slot]
        if formal in found.varying:
            continue
        _copy(found, source, formal)
        if scan is not None and slot >= scan.states and formal in found.shapes:
            shape = list(found.shapes[formal])
            found.turns[body] = shape.pop(scan.input_axes[slot - scan.states])
            found.shapes[formal] = tuple(shape)


def _settle(node: Node, found: Facts, visit: Callable[[Node], None]) -> None:
    """Forget the shapes of carried values that a turn changes, and look at the body again."""
    nodes = found.graph.nodes
    pairs = carried(node, nodes[node.enter])
    while True:
        changed = [a for a, b in pairs if a in found.shapes and found.shapes.get(b) != found.shapes[a]]
        if not changed:
            return
        found.varying.update(changed)
        inside = nodes[node.enter : node.index]
        for value in (output for inner in inside if inner.op != "Constant" for output in inner.outputs):
            facts: dict[str, Any]
            for facts in (found.shapes, found.types, found.known, found.folded):
                facts.pop(value, None)
        for inner in inside:
            visit(inner)


def _leave_if(node: Node, found: Facts) -> None:
    live = [body for body in node.bodies if body not in found.dead]
    for index, output in enumerate(node.outputs):
        values = [body.outputs[index] for body in live]
        shapes = [found.shapes.get(value) for value in values]
        if not output or None in shapes or any(shape != shapes[0] for shape in shapes):
            continue
        _copy(found, values[0], output)
        constant = found.constant(values[0]) if len(live) == 1 else None
        if constant is not None and (values[0] in found.known or constant.dtype.kind in "ib"):
            found.known[output] = constant


def _leave_loop(node: Node, found: Facts) -> None:
    enter, body = found.graph.nodes[node.enter], node.bodies[0]
    pairs = carried(node, enter)
    limit = found.constant(enter.inputs[0]) if enter.inputs[0] else None
    if limit is not None and limit.size == 1 and _goes_on(enter, body, found):
        found.turns[body] = max(int(limit.item()), 0)
    else:
        found.guessed.add(body)
    for (formal, _), output in zip(pairs, node.outputs, strict=False):
        _copy(found, formal, output)
    for returned, output in zip(node.inputs[1 + len(pairs) :], node.outputs[len(pairs) :], strict=True):
        _stack(found, returned, output, body, 0)


def _leave_scan(node: Node, found: Facts) -> None:
    scan, body = Scanned.of(node.proto), node.bodies[0]
    for slot, (returned, output) in enumerate(zip(node.inputs, node.outputs, strict=True)):
        if slot < scan.states:
            _copy(found, returned, output)
        else:
            _stack(found, returned, output, body, scan.output_axes[slot - scan.states])


def _stack(found: Facts, returned: str, output: str, body: Body, axis: int) -> None:
    """One element of the result for every turn."""
    if not output or returned not in found.shapes:
        return
    shape = list(found.shapes[returned])
    turns = found.turns.get(body, found.guess)
    shape.insert(axis if axis >= 0 else len(shape) + 1 + axis, turns)
    found.shapes[output], found.types[output] = tuple(shape), found.types[returned]


def _goes_on(enter: Node, body: Body, found: Facts) -> bool:
    """Whether a Loop's condition is true from the first turn to the last."""

    def is_true(value: str) -> bool:
        constant = found.constant(value)
        return constant is not None and constant.size == 1 and bool(constant.item())

    last = body.outputs[0]
    nodes, producer = found.graph.nodes, found.graph.producer
    while last in producer and nodes[producer[last]].op in ("Identity", "Cast"):
        last = nodes[producer[last]].inputs[0]
    starts = not enter.inputs[1] or is_true(enter.inputs[1])
    return starts and (last == enter.outputs[1] or is_true(last))


# -- branches that are never taken ------------------------------------------------------


def dead_branches(found: Facts) -> frozenset[Body]:
    """Branches that no input takes, as far as these facts tell."""
    dead = set(found.dead)
    nodes = found.graph.nodes
    for node in nodes:
        if node.op == "If" and node.bodies and not found.is_dead(node):
            condition = nodes[node.enter].inputs[0]
            value = found.constant(condition)
            if value is not None and value.size == 1 and not open_elements(found, condition, {}).any():
                dead.add(node.bodies[1 if value.item() else 0])
    return frozenset(dead)


def open_elements(found: Facts, value: str, seen: dict[str, np.ndarray]) -> np.ndarray:
    """Which elements of a known value were computed from sizes that inputs may have or not.

    Stricter than `Facts.varies`: a comparison of two sizes counts, whatever came out of it.
    """

    def mark(node: Node, value: str) -> np.ndarray | None:
        if node.op in ("Shape", "Size"):
            return found.varies(value)
        if node.op == "If" and node.bodies:
            live = next(body for body in node.bodies if body not in found.dead)
            return trace_elements(found, live.outputs[node.outputs.index(value)], mark, seen)
        return np.ones((), bool) if is_control(node) else None

    return trace_elements(found, value, mark, seen)


def trace_elements(
    found: Facts, value: str, mark: Callable[[Node, str], np.ndarray | None], seen: dict[str, np.ndarray]
) -> np.ndarray:
    """Which elements of a known value were computed from marked ones.

    Args:
        found: the facts.
        value: the known value.
        mark: gives the marks of a node's output of that name, in a shape that broadcasts to its own, or None where they
            follow from those of its inputs.
        seen: marks by value so far; added to.
    """
    if value not in seen:
        constant = found.constant(value)
        assert constant is not None
        node = found.graph.nodes[found.graph.producer[value]] if value in found.graph.producer else None
        if node is None or node.op == "Constant":
            seen[value] = np.zeros(constant.shape, bool)
        elif (marked := mark(node, value)) is not None:
            seen[value] = np.broadcast_to(marked, constant.shape)
        else:
            flags = [trace_elements(found, v, mark, seen) for v in node.inputs if v]
            seen[value] = _traced(found, node, constant, flags)
    return seen[value]


def _traced(found: Facts, node: Node, constant: np.ndarray, flags: list[np.ndarray]) -> np.ndarray:
    """The same of a node's result, from its inputs' elements."""
    if not any(flag.any() for flag in flags):
        return np.zeros(constant.shape, bool)
    moved: np.ndarray | None = None
    if node.op == "Concat":
        moved = evaluate(node, [flag.astype(np.int64) for flag in flags])
    elif node.op in MOVES and not any(flag.any() for flag in flags[1:]):
        places = [found.constant(v) if v else None for v in node.inputs[1:]]
        moved = evaluate(node, [flags[0].astype(np.int64), *places])
    return np.ones(constant.shape, bool) if moved is None or moved.shape != constant.shape else moved.astype(bool)

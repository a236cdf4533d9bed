"""What is known of values that If, Loop and Scan hand into their subgraphs and out of them.

A value that a Loop or Scan carries from iteration to iteration keeps its shape, or its shape is not
known at all: the subgraph is looked at with the first turn's shapes, and again without those that
it changes. Numbers are never known across turns. A condition that is the same whatever the
inputs' sizes takes one branch for good; the other one is dead, and nothing in it counts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from prunegraph.graph.control import DOMAIN, ENTER, LOOP_HEAD, RETURN, Scanned, Subgraph
from prunegraph.graph.evaluate import evaluate
from prunegraph.operators import (
    is_cast,
    is_concat,
    is_constant,
    is_identity,
    measures,
    moves_data,
)

if TYPE_CHECKING:
    from prunegraph.graph.model import Node
    from prunegraph.graph.shape_info import ShapeInfo

Shape = tuple[int, ...]


def is_control(node: Node) -> bool:
    """Whether a node hands values into subgraphs or out of them."""
    return node.domain == DOMAIN or bool(node.subgraphs)


def hand_on(node: Node, info: ShapeInfo, visit: Callable[[Node], None]) -> None:
    """Shapes and types of the outputs of such a node.

    Args:
        node: an `Enter`, a `Return`, or an If, Loop or Scan with subgraphs.
        found: the facts so far; added to.
        visit: finds the facts of a node.
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
    """Forget the shapes of carried values that a turn changes, and look at the subgraph again."""
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
    """One element of the result for every turn."""
    if not output or returned not in info.shapes:
        return
    shape = list(info.shapes[returned])
    iterations = info.iterations.get(subgraph, info.guess)
    shape.insert(axis if axis >= 0 else len(shape) + 1 + axis, iterations)
    info.shapes[output], info.types[output] = tuple(shape), info.types[returned]


def _goes_on(enter: Node, subgraph: Subgraph, info: ShapeInfo) -> bool:
    """Whether a Loop's condition is true from the first turn to the last."""

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


# -- branches that are never taken ------------------------------------------------------


def dead_branches(info: ShapeInfo) -> frozenset[Subgraph]:
    """Branches that no input takes, as far as these facts tell."""
    dead = set(info.dead)
    nodes = info.graph.nodes
    for node in nodes:
        if node.op == "If" and node.subgraphs and not info.is_dead(node):
            condition = nodes[node.enter].inputs[0]
            value = info.constant(condition)
            if (
                value is not None
                and value.size == 1
                and not open_elements(info, condition, {}).any()
            ):
                dead.add(node.subgraphs[1 if value.item() else 0])
    return frozenset(dead)


def open_elements(info: ShapeInfo, value: str, seen: dict[str, np.ndarray]) -> np.ndarray:
    """Which elements of a known value were computed from sizes that inputs may have or not.

    Stricter than `Facts.varies`: a comparison of two sizes counts, whatever came out of it.
    """

    def mark(node: Node, value: str) -> np.ndarray | None:
        if measures(node):
            return info.varies(value)
        if node.op == "If" and node.subgraphs:
            live = next(
                subgraph for subgraph in node.subgraphs if subgraph not in info.dead
            )
            return trace_elements(info, live.outputs[node.outputs.index(value)], mark, seen)
        return np.ones((), bool) if is_control(node) else None

    return trace_elements(info, value, mark, seen)


def trace_elements(
    info: ShapeInfo,
    value: str,
    mark: Callable[[Node, str], np.ndarray | None],
    seen: dict[str, np.ndarray],
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
        constant = info.constant(value)
        assert constant is not None
        node = (
            info.graph.nodes[info.graph.producer[value]]
            if value in info.graph.producer
            else None
        )
        if node is None or is_constant(node):
            seen[value] = np.zeros(constant.shape, bool)
        elif (marked := mark(node, value)) is not None:
            seen[value] = np.broadcast_to(marked, constant.shape)
        else:
            flags = [trace_elements(info, v, mark, seen) for v in node.inputs if v]
            seen[value] = _traced(info, node, constant, flags)
    return seen[value]


def _traced(
    info: ShapeInfo, node: Node, constant: np.ndarray, flags: list[np.ndarray]
) -> np.ndarray:
    """The same of a node's result, from its inputs' elements."""
    if not any(flag.any() for flag in flags):
        return np.zeros(constant.shape, bool)
    moved: np.ndarray | None = None
    if is_concat(node):
        moved = evaluate(node, [flag.astype(np.int64) for flag in flags])
    elif moves_data(node) and not any(flag.any() for flag in flags[1:]):
        places = [info.constant(v) if v else None for v in node.inputs[1:]]
        moved = evaluate(node, [flags[0].astype(np.int64), *places])
    return (
        np.ones(constant.shape, bool)
        if moved is None or moved.shape != constant.shape
        else moved.astype(bool)
    )

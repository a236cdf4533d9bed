"""Known values that depend on sizes of the run, and branches that no input takes.

Whether a number is the same whatever the inputs' sizes are shows at other sizes. A condition that is
takes one branch for good; the other one is dead, and nothing in it counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from prunegraph.graph.control import Subgraph
from prunegraph.graph.evaluate import evaluate
from prunegraph.graph.flow import is_control
from prunegraph.graph.inference import given, shape_info_at, visit
from prunegraph.graph.model import Graph, Node
from prunegraph.graph.shape_info import ITERATIONS, Shape, ShapeInfo
from prunegraph.graph.sizes import candidate_sizes, symbolic_axes
from prunegraph.operators import is_concat, is_constant, measures, moves_data

#: Operators whose outputs depend on more than their inputs.
CONTROL = frozenset({"If", "Loop", "Scan", "SequenceMap"})


def varies(info: ShapeInfo, value: str) -> np.ndarray:
    """Tell which elements of a known value depend on sizes that are only known at run time."""
    here = info.known.get(value)
    symbolic = symbolic_axes(info.graph)
    if here is None or not (info.guessed or any(symbolic.values())):
        constant = info.constant(value)
        return np.zeros(() if constant is None else constant.shape, bool)
    there = _elsewhere(info, value, symbolic)
    if there is None or there.shape != here.shape:
        return np.ones(here.shape, bool)
    return np.asarray(here != there)


def _elsewhere(
    info: ShapeInfo, value: str, symbolic: Mapping[str, list[int]]
) -> np.ndarray | None:
    """A known value at other sizes of the symbolic axes. Only nodes it is computed from are looked at."""
    graph, dead = info.graph, info.dead
    other = info.elsewhere
    if other is None:
        sizes = max(
            candidate_sizes(graph, batch=3),
            key=lambda sizes: _differing(info, sizes, symbolic),
        )
        # Through subgraphs of control flow values do not travel one by one.
        other = (
            shape_info_at(graph, sizes, ITERATIONS + 1, dead)
            if graph.subgraphs
            else given(graph, sizes, dead=dead)
        )
    if not other.is_whole:
        above = _above(graph, value, other)
        for node in above:
            visit(node, other, {})
        if other.constant(value) is None or any(node.op in CONTROL for node in above):
            other = shape_info_at(graph, other.sizes, dead=dead)
    info.elsewhere = other
    return other.constant(value)


def _differing(
    info: ShapeInfo, sizes: Mapping[str, Shape], symbolic: Mapping[str, list[int]]
) -> int:
    """Tell how many symbolic axes of the inputs have another size than here."""
    return sum(
        sizes[n][axis] != info.sizes[n][axis]
        for n, axes in symbolic.items()
        for axis in axes
    )


def _above(graph: Graph, value: str, known: ShapeInfo) -> list[Node]:
    """Nodes that a value is computed from and that have not been visited, in topological order."""
    result: set[int] = set()
    queue = [graph.producer[value]]
    while queue:
        index = queue.pop()
        if index not in result and not all(
            o in known.shapes for o in graph.nodes[index].outputs if o
        ):
            result.add(index)
            queue += (parent for parent, _ in graph.nodes[index].parents)
    return [graph.nodes[index] for index in sorted(result)]


def dead_branches(info: ShapeInfo) -> frozenset[Subgraph]:
    """Branches that no input takes, as far as is known."""
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
    """Tell which elements of a known value were computed from sizes that inputs may have or not.

    Stricter than `varies`: a comparison of two sizes counts, whatever came out of it.
    """

    def mark(node: Node, value: str) -> np.ndarray | None:
        if measures(node):
            return varies(info, value)
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
    """Tell which elements of a known value were computed from marked ones.

    Args:
        info: what is known.
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

"""Routers written out: the largest of some scores say which slices of stacked weights are read.

A mixture of experts that an exporter writes operator by operator scores all experts for every token, takes the `k` with
the largest scores (a TopK, often behind a Softmax), and reads the weights of these by their numbers (Gather, GatherND).
If nothing else reads the numbers, experts are channels: where one goes, those behind it move up in the scores and
in the stacks alike. The softmax is then over the experts that are left, as if the others' scores were minus infinity.
"""

from __future__ import annotations

from dataclasses import dataclass

from prunegraph.graph.model import Graph, Node
from prunegraph.graph.shape_info import ShapeInfo
from prunegraph.operators import info, is_gather, is_softmax, is_top_k, moves_data


@dataclass(frozen=True)
class Router:
    """A TopK whose numbers pick slices of weights.

    Args:
        scores: the value that it reads; experts are its last axis.
        count: how many it takes.
        nodes: indices of the TopK and of the Softmax before it, if there is one.
        lookups: nodes that pick slices along axis 0 of their first input.
    """

    scores: str
    count: int
    nodes: frozenset[int]
    lookups: frozenset[int]


def find_routers(graph: Graph, shape_info: ShapeInfo) -> list[Router]:
    """All routers of the main graph."""
    routers = (
        _match(graph, shape_info, node)
        for node in graph.nodes
        if is_top_k(node) and node.subgraph is None
    )
    return [router for router in routers if router is not None]


def _match(graph: Graph, shape_info: ShapeInfo, node: Node) -> Router | None:
    scores = node.inputs[0]
    shape = shape_info.shapes.get(scores, ())
    count = shape_info.constant(node.inputs[1]) if len(node.inputs) > 1 else None
    is_last = node.attributes.get("axis", -1) % max(len(shape), 1) == len(shape) - 1
    is_largest = node.attributes.get("largest", 1)
    if count is None or len(shape) < 2 or not (is_last and is_largest):
        return None
    lookups = _lookups(graph, shape_info, node.outputs[1], shape[-1])
    if not lookups:
        return None
    nodes = {node.index}
    maker = graph.nodes[graph.producer[scores]] if scores in graph.producer else None
    if maker is not None and is_softmax(maker) and maker.version >= 13:
        if maker.attributes.get("axis", -1) % len(shape) != len(shape) - 1:
            return None
        nodes.add(maker.index)
    return Router(scores, int(count.reshape(-1)[0]), frozenset(nodes), lookups)


def _lookups(
    graph: Graph, shape_info: ShapeInfo, numbers: str, experts: int
) -> frozenset[int] | None:
    """The nodes that numbers reach, all of which pick slices of weights; None where something else reads them."""
    result, queue = set(), [numbers]
    for value in queue:
        if value in graph.outputs:
            return None
        for index, slot in graph.consumers.get(value, ()):
            node = graph.nodes[index]
            if slot == 1 and _picks_slices(graph, shape_info, node, experts):
                result.add(index)
            elif slot == 0 and moves_data(node) and not is_gather(node):
                queue += [output for output in node.outputs if output not in queue]
            else:
                return None
    return frozenset(result)


def _picks_slices(graph: Graph, shape_info: ShapeInfo, node: Node, experts: int) -> bool:
    """Tell whether a node reads, by number, what lies along axis 0 of a stack of so many weights."""
    if node.subgraph is not None or graph.weight_behind(node.inputs[0]) is None:
        return False
    if shape_info.shapes.get(node.inputs[0], ())[:1] != (experts,):
        return False
    if is_gather(node):
        return not node.attributes.get("axis", 0)
    depth = shape_info.shapes.get(node.inputs[1], (0,))[-1]
    is_plain = depth == 1 and not node.attributes.get("batch_dims", 0)
    return info(node).indices == "leading" and is_plain

"""The weights of a pruned graph against those of the original and a plan's cuts, entry by entry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from prunegraph.graph.model import Graph, Node
from prunegraph.masked.original import Reader, readers
from prunegraph.selection.plan import Cut


def wrong_weight(
    graph: Graph, cuts: Sequence[Cut], pruned: Graph, has_moved: bool = False
) -> str | None:
    """Say which weight of a pruned graph is not the original's without what its cuts remove.

    Nodes are known by their outputs, and by their names too where some make what a sum made
    that went (`has_moved`).

    Nothing is said of a graph most of whose nodes have been changed or renamed since it was cut.
    """
    index = readers(graph)
    removed: dict[Reader, dict[int, Cut]] = {}
    weight_of: dict[Reader, str] = {}
    for cut in cuts:
        reader = index[cut.node or ""], cut.input or 0
        removed.setdefault(reader, {})[cut.axis] = cut
        weight_of[reader] = cut.weight
    for weight in dict.fromkeys(weight_of.values()):
        weight_of |= dict.fromkeys(graph.consumers[weight], weight)
    twins = {(node.op, node.outputs): node for node in pruned.nodes}
    for each in graph.nodes if has_moved else ():
        named = pruned.named.get(each.name)
        if named is not None and named.op == each.op:
            twins.setdefault((each.op, each.outputs), named)
    nodes = {node for node, _ in removed}
    # A node may go, one that only a branch that never runs reads; where most are gone, names have been changed.
    if 2 * sum(
        (graph.nodes[node].op, graph.nodes[node].outputs) in twins for node in nodes
    ) < len(nodes):
        return None
    for (node, slot), weight in weight_of.items():
        twin = twins.get((graph.nodes[node].op, graph.nodes[node].outputs))
        if twin is not None and not _is_right(
            graph, weight, removed.get((node, slot), {}), pruned, twin, slot
        ):
            return f"input {slot} of node {twin.name!r} ({twin.op}) is not {weight!r} without what the plan removes"
    return None


def _is_right(
    graph: Graph,
    weight: str,
    removed: Mapping[int, Cut],
    pruned: Graph,
    node: Node,
    slot: int,
) -> bool:
    values = graph.weights[weight].read()
    # Blocks are counted along axes as they were.
    for axis, cut in sorted(removed.items(), key=lambda item: item[1].over is None):
        if cut.over is None:
            stays = np.setdiff1d(np.arange(values.shape[axis]), cut.removed)
            values = np.take(values, stays, axis)
            continue
        rows = np.moveaxis(values, (cut.over, axis), (0, 1))
        remaining = [
            np.delete(row, list(gone), axis=0)
            for row, gone in zip(rows, cut.blocks, strict=True)
        ]
        values = np.moveaxis(np.stack(remaining), (0, 1), (cut.over, axis))
    own = _constant(pruned, node.input(slot))
    if own is None:
        return not removed
    return (
        own.dtype == values.dtype
        and own.shape == values.shape
        and own.tobytes() == values.tobytes()
    )


def _constant(graph: Graph, value: str) -> np.ndarray | None:
    """The numbers at an input, where they are a weight: as it is, turned, or handed on as a subgraph returns it."""
    if value in graph.weights:
        return graph.weights[value].read()
    node = graph.nodes[graph.producer[value]] if value in graph.producer else None
    if node is None or node.op not in ("Identity", "Transpose"):
        return None
    read = _constant(graph, node.inputs[0])
    if read is None or node.op == "Identity":
        return read
    return np.transpose(read, node.attributes.get("perm"))

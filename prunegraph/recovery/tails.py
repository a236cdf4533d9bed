"""What comes behind a layer: up to which value its outputs are compared with the original's, and in which order
layers are fitted for that.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass

from prunegraph.coupling.survivors import Survivors
from prunegraph.graph import linear
from prunegraph.graph.model import Graph, Node
from prunegraph.operators import is_add, is_batch_normalization, is_matmul
from prunegraph.recovery.passing import Passing, passing


@dataclass(frozen=True)
class Tail:
    """What comes behind a layer, up to the value that is compared with the original's.

    `bias` is a constant that an Add behind a MatMul adds, `normal` a BatchNormalization, `other` the other operand
    of a residual sum ("" without one), `passing` what lets only part of the value through; None where all counts.
    """

    value: str
    bias: str = ""
    normal: Node | None = None
    other: str = ""
    passing: Passing | None = None


def run_order(pruned: Graph) -> list[int]:
    """A topological order in which, of two layers that meet in a sum, the one with more inputs runs last.

    That one is fitted to the sum, and can make up for more.
    """
    keys = [float(node.index) for node in pruned.nodes]
    for node in pruned.nodes:
        sides = (
            [side for value in node.inputs if (side := _layer_before(pruned, value))]
            if is_add(node)
            else []
        )
        if len(sides) == 2:
            weak, strong = sorted(
                sides,
                key=lambda side: linear.matrix_size(
                    side, pruned.weights[side.inputs[1]].shape
                ),
            )
            keys[strong.index] = max(keys[strong.index], weak.index + 0.5)
    readers = {
        n.index: {i for v in n.outputs for i, _ in pruned.consumers.get(v, ())}
        for n in pruned.nodes
    }
    waiting = [len({parent for parent, _ in node.parents}) for node in pruned.nodes]
    ready = [(keys[index], index) for index, count in enumerate(waiting) if not count]
    heapq.heapify(ready)
    order = []
    while ready:
        _, index = heapq.heappop(ready)
        order.append(index)
        for reader in readers[index]:
            waiting[reader] -= 1
            if not waiting[reader]:
                heapq.heappush(ready, (keys[reader], reader))
    return order


def _layer_before(pruned: Graph, value: str) -> Node | None:
    """The layer that makes a value, maybe through a BatchNormalization or the Add of a bias."""
    node = pruned.nodes[pruned.producer[value]] if value in pruned.producer else None
    if node is None or linear.is_linear(pruned, node):
        return node
    if is_batch_normalization(node):
        return _layer_before(pruned, node.inputs[0])
    for before, _ in node.parents if is_add(node) else ():
        layer = pruned.nodes[before]
        behind = _bias_behind(pruned, layer) if linear.is_linear(pruned, layer) else None
        if behind is not None and behind[0] is node:
            return layer
    return None


def _bias_behind(pruned: Graph, layer: Node) -> tuple[Node, int] | None:
    return linear.add_behind(pruned, layer) if is_matmul(layer) else None


def tail_of(
    survivors: Survivors,
    pruned: Graph,
    node: Node,
    place: Mapping[int, int],
    *,
    activations: bool = False,
) -> Tail:
    """Say what a layer feeds.

    Maybe a BatchNormalization or the Add of a bias, maybe a sum whose other side is made before the layer.
    """
    labels = survivors.coupling.value_labels
    normal, behind = linear.batch_normalization(pruned, node), _bias_behind(pruned, node)
    if normal is not None and labels(normal.outputs[0]) is None:
        normal = None
    if behind is not None and labels(behind[0].outputs[0]) is None:
        behind = None
    bias = "" if behind is None else behind[0].inputs[behind[1]]
    value = (normal or (behind or [node])[0]).outputs[0]
    other = _other_side(survivors, pruned, value, node, place)
    if other:
        value = pruned.nodes[pruned.consumers[value][0][0]].outputs[0]
    return Tail(value, bias, normal, other, passing(pruned, value, activations=activations))


def _other_side(
    survivors: Survivors, pruned: Graph, value: str, node: Node, place: Mapping[int, int]
) -> str:
    """The other operand of the Add that alone reads a value, if it is there before the layer runs; else ""."""
    readers = pruned.consumers.get(value, ())
    add = (
        pruned.nodes[readers[0][0]]
        if len(readers) == 1 and value not in pruned.outputs
        else None
    )
    if (
        add is None
        or not is_add(add)
        or survivors.coupling.value_labels(add.outputs[0]) is None
    ):
        return ""
    other = next((v for v in add.inputs if v != value), "")
    if (
        other in pruned.weights
        or place.get(pruned.producer.get(other, -1), -1) >= place[node.index]
    ):
        return ""
    shapes = survivors.coupling.shape_info.shapes
    return (
        other
        if shapes.get(other) == shapes.get(value) == shapes.get(add.outputs[0])
        else ""
    )

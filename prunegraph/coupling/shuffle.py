"""Channel shuffles: Reshape, Transpose, Reshape that only permute one axis.

Read operator by operator such a chain would tie channels into a handful of classes,
because a reshape can only lose whole rows or columns. Read as the permutation it is, every
channel stays free; a cut writes it back as a Gather.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from prunegraph.graph.model import Graph, Node
from prunegraph.graph.shape_info import ShapeInfo
from prunegraph.operators import is_reshape, is_transpose
from prunegraph.ops.movement import atoms


@dataclass(frozen=True)
class Shuffle:
    """`output = take(source, order, axis)`; `inner` are the nodes before the last one."""

    source: str
    output: str
    axis: int
    order: np.ndarray
    inner: tuple[int, int]


def find_shuffles(graph: Graph, shape_info: ShapeInfo) -> dict[int, Shuffle]:
    """Shuffles by the index of their last Reshape."""
    result = {}
    for node in graph.nodes:
        if is_transpose(node):
            shuffle = _match(graph, shape_info, node)
            if shuffle is not None:
                result[graph.consumers[node.outputs[0]][0][0]] = shuffle
    return result


def _match(graph: Graph, shape_info: ShapeInfo, transpose: Node) -> Shuffle | None:
    first = (
        graph.nodes[graph.producer[transpose.inputs[0]]]
        if transpose.inputs[0] in graph.producer
        else None
    )
    users = graph.consumers.get(transpose.outputs[0], [])
    if first is None or not is_reshape(first) or len(users) != 1:
        return None
    last = graph.nodes[users[0][0]]
    alone = len(graph.consumers[first.outputs[0]]) == 1
    hidden = not {first.outputs[0], transpose.outputs[0]} & set(graph.outputs)
    if not is_reshape(last) or users[0][1] != 0 or not (alone and hidden):
        return None
    shapes = [
        shape_info.shapes.get(v)
        for v in (first.inputs[0], first.outputs[0], last.outputs[0])
    ]
    if None in shapes or shapes[0] != shapes[2]:
        return None
    source, middle, _ = shapes
    assert source is not None and middle is not None
    perm = transpose.attributes.get("perm") or range(len(middle))[::-1]
    result = _permuted_axis(source, middle, list(perm))
    if result is None:
        return None
    return Shuffle(
        first.inputs[0],
        last.outputs[0],
        result[0],
        result[1],
        (first.index, transpose.index),
    )


def _permuted_axis(
    source: tuple[int, ...], middle: tuple[int, ...], perm: list[int]
) -> tuple[int, np.ndarray] | None:
    """The one axis whose elements change places, and their order; None where it is no shuffle."""
    try:
        split = atoms(source, middle)
        merged = atoms([middle[axis] for axis in perm], source)
    except ValueError:
        return None
    if len(split) != len(merged) or len({j for _, _, j in split}) != len(split):
        return None
    owner = {j: i for _, i, j in split}
    moved: dict[int, list[int]] = {}
    for _, position, target in merged:
        moved.setdefault(target, []).append(perm[position])
    changed = None
    for axis, parts in moved.items():
        mine = [j for _, i, j in split if i == axis]
        if any(owner[part] != axis for part in parts) or len(parts) != len(mine):
            return None
        if parts != mine:
            if changed is not None:
                return None
            block = np.arange(source[axis]).reshape([middle[j] for j in mine])
            changed = (
                axis,
                block.transpose([mine.index(part) for part in parts]).reshape(-1),
            )
    return changed

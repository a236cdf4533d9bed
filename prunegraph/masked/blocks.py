"""Where blocks that lose channels of their own can be told apart.

The batch may share an axis with them (`torch.nn.MultiheadAttention` computes on [batch x heads, tokens, channels]), and
how long that is, and which of its indices are of which head, is known when the model runs. A mask is then made of an
earlier value, and moved as that value is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prunegraph.coupling.coupling import Coupling
from prunegraph.coupling.survivors import Survivors
from prunegraph.graph.model import Node
from prunegraph.labels.blocks import Blocks
from prunegraph.labels.labels import Labels, Listed
from prunegraph.operators import info, is_cast

Array = np.ndarray


@dataclass(frozen=True)
class Origin:
    """A value that another one is, moved: its name, and the nodes that move it, in order."""

    value: str
    moves: tuple[Node, ...] = ()


def origins(coupling: Coupling, value: str) -> list[Origin]:
    """What a value of the main graph comes from by moves and by what keeps its axes; the farthest first."""
    graph, shapes = coupling.graph, coupling.shape_info.shapes
    result = [Origin(value)]
    while value in graph.producer:
        node = graph.nodes[graph.producer[value]]
        if node.subgraph is not None or len(node.outputs) != 1:
            break
        data = [slot for slot, name in enumerate(node.inputs) if name not in graph.weights]
        moves = result[0].moves
        if info(node).moves == "all":
            value = node.inputs[0]
            moves = moves if is_cast(node) else (node, *moves)
        elif info(node).shape in ("input", "broadcast") and len(data) == 1:
            if shapes.get(node.inputs[data[0]]) != shapes.get(value):
                break
            value = node.inputs[data[0]]
        else:
            break
        result.insert(0, Origin(value, moves))
    return result


def staying(survivors: Survivors, blocks: Blocks) -> Array:
    """Which channels of each block are not masked [blocks, channels of one].

    Of a block that goes as a whole nothing is: its zeros might be divided by.
    """
    stays: Array = ~survivors.removed(survivors.coupling.channels.block_numbers(blocks))
    stays[~stays.any(axis=1)] = True
    return stays


def mask_of(
    survivors: Survivors, blocks: Blocks, axes: Sequence[Labels], dtype: np.dtype
) -> Array | None:
    """Ones for the channels of blocks that stay, broadcast against a value; None where it has no such channels."""
    stays = staying(survivors, blocks)
    numbers = survivors.coupling.channels.block_numbers(blocks)
    over = blocks.over(axes)
    for axis, labels in enumerate(axes):
        shape = [1] * len(axes)
        if blocks.is_inner(labels):
            if over is None:
                return None
            one = np.asarray(stays[over[1]], dtype)
            shape[over[0]], shape[axis] = one.shape
            return (one if over[0] < axis else one.T).reshape(shape)
        root = survivors.coupling.channels.root(labels)
        if isinstance(root, Listed) and np.isin(root.ids, numbers).all():
            one = ~np.isin(root.ids, numbers[~stays])
            shape[axis] = len(one)
            return np.asarray(one, dtype).reshape(shape)
    return None

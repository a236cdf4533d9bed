"""Integer inputs that are indices: into which axes, and so how large they may be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from prunegraph.graph.inference import shape_info_at
from prunegraph.graph.model import Graph, Node
from prunegraph.graph.shape_info import Shape, ShapeInfo
from prunegraph.graph.shapes import shape_info
from prunegraph.operators import (
    info,
    is_block_gather,
    is_gather,
    is_reshape,
    is_transpose,
    passes,
)

#: Tables of com.microsoft's EmbedLayerNormalization: slot of the indices -> slot of the table.
EMBEDDINGS = {0: 2, 1: 4}
EMBED_NORM = "EmbedLayerNormalization"


@dataclass(frozen=True)
class Range:
    """Whole numbers from `lowest` to below `end`."""

    lowest: int
    end: int

    def __and__(self, other: Range) -> Range:
        return Range(max(self.lowest, other.lowest), min(self.end, other.end))


def ranges(graph: Graph, sizes: Mapping[str, Shape]) -> dict[str, Range]:
    """Of each input that holds indices or lengths, what they may be where inputs have these shapes."""
    uses = _uses(graph)
    if not uses:
        return {}
    known = shape_info(graph)
    if dict(known.sizes) != dict(sizes):
        known = shape_info_at(graph, sizes, dead=known.dead)
    result: dict[str, Range] = {}
    for name, node, slot in uses:
        allowed = _allowed(node, slot, known)
        if allowed is not None:
            result[name] = result[name] & allowed if name in result else allowed
    return result


@dataclass(frozen=True)
class TableUse:
    """A place where a graph input, unchanged, says which rows of a weight are taken: axis 0 of `table`."""

    input: str
    node: int
    table: str


def table_uses(graph: Graph) -> list[TableUse]:
    """All places where inputs of whole numbers pick rows of weights."""
    tables = (
        (name, node, table_of(graph, node)) for name, node, slot in _uses(graph) if slot
    )
    return [TableUse(name, node.index, table) for name, node, table in tables if table]


def table_of(graph: Graph, node: Node) -> str | None:
    """The weight whose rows (along its axis 0) a node picks at positions that are not known before; None for others."""
    is_plain, in_blocks = is_gather(node), is_block_gather(node)
    if not (is_plain or in_blocks) or not node.input(1):
        return None
    if node.attributes.get("axis" if is_plain else "gather_axis", 0):
        return None
    known = shape_info(graph)
    if node.inputs[1] in graph.weights or node.inputs[1] in known.known:
        return None
    value = node.inputs[0]
    while value in graph.producer:
        carrier = graph.nodes[graph.producer[value]]
        sizes = [known.shapes.get(each, ())[:1] for each in (carrier.inputs[0], value)]
        keeps_rows = is_reshape(carrier) and sizes[0] == sizes[1] != ()
        if is_transpose(carrier) or not (passes(carrier, "weights") or keeps_rows):
            return None
        value = carrier.inputs[0]
    return value if value in graph.weights else None


def _table_slot(node: Node, slot: int) -> int:
    return EMBEDDINGS[slot] if node.op == EMBED_NORM else 0


def _uses(graph: Graph) -> list[tuple[str, Node, int]]:
    """Inputs that reach, unchanged, a slot that holds indices or lengths: (input, node, slot)."""
    if "index_uses" not in graph.cache:
        readers: dict[str, list[Node]] = {}
        for node in graph.nodes:
            for value in dict.fromkeys(node.inputs):
                readers.setdefault(value, []).append(node)
        graph.cache["index_uses"] = [
            (entry.name, node, slot)
            for entry in graph.model.graph.input
            if entry.name in graph.inputs and _is_integer(entry.type.tensor_type.elem_type)
            for node, slot in _reached(entry.name, readers)
        ]
    result: list[tuple[str, Node, int]] = graph.cache["index_uses"]
    return result


def _is_integer(kind: int) -> bool:
    try:
        return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind)).kind in "iu"
    except KeyError:
        return False


def _reached(value: str, readers: Mapping[str, list[Node]]) -> Iterator[tuple[Node, int]]:
    seen, queue = {value}, [value]
    while queue:
        now = queue.pop()
        for node in readers.get(now, ()):
            slots = [slot for slot, name in enumerate(node.inputs) if name == now]
            yield from ((node, slot) for slot in slots if _is_index(node, slot))
            if info(node).moves and not all(_is_index(node, slot) for slot in slots):
                new = [output for output in node.outputs if output and output not in seen]
                seen.update(new)
                queue += new


def _is_index(node: Node, slot: int) -> bool:
    if info(node).indices:
        return slot == 1
    if node.op == EMBED_NORM:
        return slot in EMBEDDINGS
    return info(node).lengths == slot


def _allowed(node: Node, slot: int, known: ShapeInfo) -> Range | None:
    """Say what the indices of a slot may be; None where the shape of what they point into is not known."""
    table = node.inputs[_table_slot(node, slot)]
    shape = known.shapes.get(table)
    if not shape:
        return None
    if info(node).lengths is not None:
        default = node.attributes.get("layout", 0) if info(node).is_recurrent else 0
        axis = int(node.attributes.get("time_axis", default))
        return Range(1, shape[axis] + 1)
    if info(node).indices == "leading":
        places = known.shapes.get(node.inputs[1])
        if not places:
            return None
        first = int(node.attributes.get("batch_dims", 0))
        pointed = shape[first : first + places[-1]]
        return Range(0, min(pointed)) if pointed else None
    axis = 0 if node.op == EMBED_NORM else int(node.attributes.get("axis", 0))
    return Range(0, shape[axis]) if -len(shape) <= axis < len(shape) else None

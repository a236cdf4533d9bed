"""Sizes by which configuration files describe a transformer, before and after a cut."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from prunegraph.coupling.survivors import Survivors
from prunegraph.graph.indices import table_of
from prunegraph.graph.model import Graph, Node
from prunegraph.operators import is_reshape

#: Attributes of attention as one operator: heads of the queries, and of keys and values.
QUERY_HEADS = ("num_heads", "q_num_heads")
KEY_HEADS = ("kv_num_heads",)


@dataclass(frozen=True)
class Described:
    """What a configuration says of a model, by field; None where it says nothing.

    `hidden` is the width of the residual stream, `inner` that of the MLPs, `heads` and `key_heads` count heads of
    queries and of keys, `head_size` is the width of one.
    """

    hidden: int | None = None
    inner: int | None = None
    heads: int | None = None
    key_heads: int | None = None
    head_size: int | None = None


def sizes_after(described: Described, survivors: Survivors) -> dict[str, set[int]]:
    """What is left of each described size, in every layer; nothing for one that is not found in the graph."""
    result: dict[str, set[int]] = {}
    places = (
        *_stream(described, survivors),
        *_inner(described, survivors),
        *_reshaped(described, survivors),
        *_operators(described, survivors),
    )
    for field, size in places:
        result.setdefault(field, set()).add(size)
    return result


def lost_layers(count: int, survivors: Survivors) -> tuple[set[int], set[int]]:
    """Layers of a model of so many that are gone as a whole, and those that are gone in part, by number.

    A layer is as many residual branches as come on each: an attention and an MLP, or both side by side. Nothing is
    said where branches cannot be shared out so.
    """
    branches = survivors.coupling.branches
    outer = [b for b in branches if not any(other.holds(b) for other in branches)]
    if not survivors.branches or not count or len(outer) % count:
        return set(), set()
    each = len(outer) // count
    names = {branch.name for branch in survivors.branches}
    gone = [sum(b.name in names for b in outer[i * each :][:each]) for i in range(count)]
    whole = {layer for layer, lost in enumerate(gone) if lost == each}
    return whole, {layer for layer, lost in enumerate(gone) if 0 < lost < each}


def _stream(described: Described, survivors: Survivors) -> Iterator[tuple[str, int]]:
    """The columns of the tables of tokens."""
    graph = survivors.coupling.graph
    for table in dict.fromkeys(filter(None, (table_of(graph, n) for n in graph.nodes))):
        shape = graph.weights[table].shape
        if len(shape) == 2 and shape[1] == described.hidden:
            kept = survivors.value(table)[1]
            yield "hidden", shape[1] if kept is None else len(kept)


def _inner(described: Described, survivors: Survivors) -> Iterator[tuple[str, int]]:
    """What the layers read that lead from an MLP's width back into the stream."""
    graph = survivors.coupling.graph
    if described.inner is None or described.inner in _head_widths(described):
        return
    for node in graph.layers:
        if node.index in survivors.gone:
            continue
        data = _data(graph, node)
        shape = survivors.coupling.shape_info.shapes.get(data, ())
        output = survivors.coupling.shape_info.shapes.get(node.outputs[0], ())
        if shape[-1:] == (described.inner,) and output[-1:] == (described.hidden,):
            after = survivors.shape(data)
            assert after is not None
            yield "inner", after[-1]


def _head_widths(described: Described) -> set[int]:
    """Widths of all heads together, and of the stream: an MLP as wide cannot be told from them."""
    sizes = described.head_size or 0
    return {
        described.hidden or 0,
        *((count or 0) * sizes for count in (described.heads, described.key_heads)),
    }


def _data(graph: Graph, node: Node) -> str:
    """What a layer reads besides its weight."""
    weight = graph.main_weight(node)
    return next(
        (v for v in node.inputs[:2] if graph.weight_behind(v) != weight), node.inputs[0]
    )


def _reshaped(described: Described, survivors: Survivors) -> Iterator[tuple[str, int]]:
    """Heads as an axis of their own: a Reshape parts an axis into heads and head size."""
    shapes = survivors.coupling.shape_info.shapes
    for node in survivors.coupling.graph.nodes:
        if not is_reshape(node) or node.index in survivors.gone:
            continue
        merged, parted = (
            shapes.get(value, ()) for value in (node.inputs[0], node.outputs[0])
        )
        after = survivors.shape(node.outputs[0])
        if len(parted) < 3 or after is None or parted[-1] != described.head_size:
            continue
        for field in ("heads", "key_heads"):
            count = getattr(described, field)
            if parted[-2] == count and merged[-1:] == (count * parted[-1],):
                yield field, after[-2]
                yield "head_size", after[-1]


def _operators(described: Described, survivors: Survivors) -> Iterator[tuple[str, int]]:
    """Heads that attention as one operator has as attributes, and the size of those of its query."""
    coupling = survivors.coupling
    for node in coupling.graph.nodes:
        if node.index in survivors.gone:
            continue
        bound = coupling.attributes.get(node.index, {})
        counts = {
            name: survivors.size(labels) * times for name, (labels, times) in bound.items()
        }
        for field, names in (("heads", QUERY_HEADS), ("key_heads", KEY_HEADS)):
            for name in names:
                if name in counts and node.attributes.get(name) == getattr(
                    described, field
                ):
                    yield field, counts[name]
                    yield from _query(node, described, survivors, field, counts[name])


def _query(
    node: Node, described: Described, survivors: Survivors, field: str, heads: int
) -> Iterator[tuple[str, int]]:
    before = survivors.coupling.shape_info.shapes.get(node.inputs[0], ())
    after = survivors.shape(node.inputs[0])
    width = (described.heads or 0) * (described.head_size or 0)
    if field == "heads" and after is not None and before[-1:] == (width,):
        yield "head_size", after[-1] // heads

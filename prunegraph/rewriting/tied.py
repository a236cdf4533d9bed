"""Graph -> Graph: a table of tokens and the output layer that is a copy of it become one weight again.

A model that ties them holds one matrix. Exporters write it twice, the second time transposed, since that is how a
matrix product reads it: the largest weight of a small language model stands in the file twice.
"""

from __future__ import annotations

from collections.abc import Iterator

from onnx import helper

from prunegraph.graph.indices import table_of
from prunegraph.graph.model import Graph, Weight
from prunegraph.rewriting.rewriter import Rewriter

#: Weights of fewer bytes are not worth a node.
LEAST = 1 << 14

#: Rows that are compared at once.
ROWS = 4096


def tie_copies(graph: Graph, least: int = LEAST) -> Graph:
    """Let readers of a copy of a table of tokens read the table itself, through a Transpose where it is turned.

    Exact: the same numbers are read. ONNX Runtime turns a constant when it loads the file, so that a session computes
    what it did. The graph is returned as it is where there is nothing to share.

    Args:
        graph: the model; it is not touched.
        least: how many bytes a table has at least.
    """
    rewriter = Rewriter(graph)
    for table, other, turned in _copies(graph, least):
        _share(rewriter, table, other, turned=turned)
    return graph if rewriter.is_idle else rewriter.finish()


def copies(graph: Graph, least: int = LEAST) -> frozenset[str]:
    """Names of the weights that are copies of a table of tokens, turned or not; see `tie_copies`."""
    key = ("copies", least)
    if key not in graph.cache:
        graph.cache[key] = frozenset(other.name for _, other, _ in _copies(graph, least))
    result: frozenset[str] = graph.cache[key]
    return result


def _copies(graph: Graph, least: int) -> Iterator[tuple[Weight, Weight, bool]]:
    """Tables of tokens, a copy of each, and whether it is turned; every copy once."""
    tables = dict.fromkeys(filter(None, (table_of(graph, node) for node in graph.nodes)))
    known: set[str] = set(tables)
    for name in tables:
        table = graph.weights[name]
        if not _is_shareable(graph, table) or table.size * table.dtype.itemsize < least:
            continue
        for other in graph.weights.values():
            if other.name in known or not _is_shareable(graph, other):
                continue
            turned = next(
                (
                    turned
                    for turned in (False, True)
                    if _is_copy(table, other, turned=turned)
                ),
                None,
            )
            if turned is not None:
                known.add(other.name)
                yield table, other, turned


def _is_shareable(graph: Graph, weight: Weight) -> bool:
    """Tell whether a weight is a float matrix of the main graph that its nodes alone read."""
    readers = graph.consumers.get(weight.name, ())
    return (
        weight.is_float
        and len(weight.shape) == 2
        and weight.holder is None
        and weight.name not in graph.outputs
        and bool(readers)
        and all(
            graph.nodes[node].subgraph is None and slot < len(graph.nodes[node].inputs)
            for node, slot in readers
        )
    )


def _is_copy(table: Weight, other: Weight, *, turned: bool) -> bool:
    """Tell whether a weight has a table's values, or those of the table turned."""
    shape = table.shape[::-1] if turned else table.shape
    if other.shape != shape or other.tensor.data_type != table.tensor.data_type:
        return False
    first, second = table.read(), other.read().T if turned else other.read()
    return all(
        first[at : at + ROWS].tobytes() == second[at : at + ROWS].tobytes()
        for at in range(0, len(first), ROWS)
    )


def _share(rewriter: Rewriter, table: Weight, other: Weight, *, turned: bool) -> None:
    """Let all that read a weight read the table."""
    graph, value = rewriter.graph, table.name
    readers = graph.consumers[other.name]
    if turned:
        value = rewriter.names.new(f"{table.name}/turned")
        rewriter.insert_first(
            helper.make_node("Transpose", [table.name], [value], name=value, perm=[1, 0])
        )
    for index, slot in readers:
        rewriter.set_input(graph.nodes[index], slot, value)

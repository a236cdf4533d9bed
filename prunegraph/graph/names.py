"""Names for what is added to a graph, and reads of a value under another name."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import numpy as np
import onnx

from prunegraph.graph.model import Graph
from prunegraph.graph.order import subgraphs


class Names:
    """Gives names that nothing in a graph or its subgraphs has, and none twice.

    Values and nodes share one set of names. Those by which `graph.control` tells apart what several subgraphs call the
    same are in it too.
    """

    def __init__(self, graph: Graph | onnx.GraphProto):
        self._count = 0
        if isinstance(graph, onnx.GraphProto):
            self._taken = set(names_in(graph))
            return
        self._taken = {
            *names_in(graph.model.graph),
            *graph.weights,
            *graph.producer,
            *graph.inputs,
        }
        self._taken.update(node.name for node in graph.nodes)

    def new(self, wanted: str) -> str:
        """The name that is wanted, with underscores behind it where something has it."""
        while wanted in self._taken:
            wanted += "_"
        self._taken.add(wanted)
        return wanted

    def numbered(self, prefix: str) -> str:
        """The prefix with the next number."""
        self._count += 1
        return self.new(f"{prefix}{self._count}")

    def short(self) -> str:
        """The first free one of 0, 1, ... z, 10, ... (base 36): in a small model names are much of the file."""
        while (name := np.base_repr(self._count, 36).lower()) in self._taken:
            self._count += 1
        self._taken.add(name)
        return name


def names_in(graph: onnx.GraphProto) -> Iterator[str]:
    """Every name of a value or node that a graph and the graphs inside its nodes use, some of them several times."""
    for entry in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        yield entry.name
    for sparse in graph.sparse_initializer:
        yield from (sparse.values.name, sparse.indices.name)
    for note in graph.quantization_annotation:
        yield note.tensor_name
        yield from (entry.value for entry in note.quant_parameter_tensor_names)
    for node in graph.node:
        yield node.name
        yield from node.input[:]
        yield from node.output[:]
        for subgraph in subgraphs(node):
            yield from names_in(subgraph)


def _own(graph: onnx.GraphProto) -> set[str]:
    """Names of the values that a graph has of its own; they hide values of the same name around it."""
    names = {entry.name for entry in (*graph.input, *graph.initializer)}
    names.update(sparse.values.name for sparse in graph.sparse_initializer)
    names.update(output for node in graph.node for output in node.output)
    return names - {""}


def redirect(node: onnx.NodeProto, renamed: Mapping[str, str]) -> None:
    """Let a node read values under other names, in place; so do the graphs inside it, where nothing hides the value.

    Args:
        node: it is changed.
        renamed: new names by old ones. No graph inside the node may use a new name for a value of its own (`Names`).
    """
    for slot, value in enumerate(node.input):
        if value in renamed:
            node.input[slot] = renamed[value]
    redirect_subgraphs(node, renamed)


def redirect_subgraphs(node: onnx.NodeProto, renamed: Mapping[str, str]) -> None:
    """The same for the graphs inside a node alone; what the node itself reads stays."""
    for subgraph in subgraphs(node):
        _redirect_inside(subgraph, renamed)


def _redirect_inside(subgraph: onnx.GraphProto, renamed: Mapping[str, str]) -> None:
    visible = _without(renamed, _own(subgraph))
    if not visible:
        return
    for node in subgraph.node:
        redirect(node, visible)
    for output in subgraph.output:
        # What a subgraph returns is known by its place; the name is that of a value.
        output.name = visible.get(output.name, output.name)


def _without(renamed: Mapping[str, str], hidden: Collection[str]) -> Mapping[str, str]:
    return {old: new for old, new in renamed.items() if old not in hidden}

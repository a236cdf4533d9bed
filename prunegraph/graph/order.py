"""Topological order of a graph's nodes, and the errors of graphs that have none."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from prunegraph.errors import ModelError
from prunegraph.operators import is_constant

# Repeated fields are read as slices, `proto.input[:]`: going through one directly ends in an exception, which
# costs more than the copy.


def captured(proto: onnx.NodeProto) -> tuple[str, ...]:
    """Outer values that the subgraphs in a node's attributes read, each once."""
    return tuple(dict.fromkeys(v for graph in subgraphs(proto) for v in _free(graph)))


def subgraphs(proto: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Graphs in a node's attributes."""
    for attribute in proto.attribute[:]:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == onnx.AttributeProto.GRAPHS:
            yield from attribute.graphs


def nested(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and all graphs inside its nodes, outer ones first."""
    yield graph
    for node in graph.node:
        for inner in subgraphs(node):
            yield from nested(inner)


def _free(graph: onnx.GraphProto) -> Iterator[str]:
    """Values a subgraph uses but does not make."""
    created = {i.name for i in graph.input} | {t.name for t in graph.initializer}
    created |= {output for proto in graph.node for output in proto.output}
    created |= {sparse.values.name for sparse in graph.sparse_initializer}
    for proto in graph.node:
        yield from (
            v for v in (*proto.input[:], *captured(proto)) if v and v not in created
        )
    yield from (o.name for o in graph.output if o.name not in created)


def sort(graph: onnx.GraphProto, given: set[str], source: str) -> list[onnx.NodeProto]:
    """The nodes of `graph` in topological order, stable where the file's order is one.

    Args:
        given: names that need no node (inputs and weights).
        source: the model's name, for messages.

    Raises:
        ModelError: a value is made twice, read but never made, or depends on itself.
    """
    created = set(given)
    in_order = True
    for proto in graph.node:
        in_order = in_order and all(
            not v or v in created for v in (*proto.input[:], *captured(proto))
        )
        for output in proto.output[:]:
            # A Constant's output is among the weights already.
            if output in created and not (output in given and is_constant(proto)):
                raise ModelError(
                    f"{source}: value {output!r} is made twice (node {proto.name or proto.op_type!r})"
                )
            if output:
                created.add(output)
    for name in (o.name for o in graph.output):
        if name not in created:
            raise ModelError(f"{source}: graph output {name!r} is made by no node")
    return list(graph.node) if in_order else _sort(graph, created, source)


def _sort(graph: onnx.GraphProto, created: set[str], source: str) -> list[onnx.NodeProto]:
    import networkx

    producer = {
        output: i for i, proto in enumerate(graph.node) for output in proto.output if output
    }
    digraph = networkx.DiGraph()
    digraph.add_nodes_from(range(len(graph.node)))
    for index, proto in enumerate(graph.node):
        for value in (*proto.input, *captured(proto)):
            if value and value not in created:
                raise ModelError(
                    f"{source}: node {proto.name or proto.op_type!r} reads {value!r}, which nothing makes"
                )
            if value in producer:
                digraph.add_edge(producer[value], index)
    try:
        return [graph.node[i] for i in networkx.lexicographical_topological_sort(digraph)]
    except networkx.NetworkXUnfeasible:
        cycle = [graph.node[edge[0]] for edge in networkx.find_cycle(digraph)]
        names = " -> ".join(proto.name or proto.output[0] for proto in cycle[:6])
        raise ModelError(
            f"{source}: nodes depend on each other in a cycle: {names}"
        ) from None

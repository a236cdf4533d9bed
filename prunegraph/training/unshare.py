"""Weights that a file stores once because they were equal, taken apart.

Exporters store equal tensors once: all biases that are still zero, all running means of a fresh network. As parameters
they would be trained as one, and running statistics would be written by several nodes. A weight stays shared where
the layers share their kernels as well: then it is one layer that is used several times. A weight that is a graph output
keeps its value there.
"""

from __future__ import annotations

from collections.abc import Iterator

from prunegraph.graph import control
from prunegraph.graph.model import Graph, Node
from prunegraph.graph.names import Names
from prunegraph.rewriting.rewriter import Rewriter
from prunegraph.rewriting.weights import tensor_like

#: Roles of weights with one value a channel.
VECTORS = frozenset({"bias", "scale", "mean", "variance", "slope"})


def copies(graph: Graph) -> dict[str, str]:
    """Names of the copies that `untied` makes, and what they are copies of."""
    return {copy: name for _, _, copy, name in _plan(graph)}


def untied(graph: Graph) -> Graph:
    """The graph with a vector of its own for every layer; the graph itself if that is so already."""
    plan = list(_plan(graph))
    if not plan:
        return graph
    rewriter = Rewriter(graph)
    for index, slot, copy, _ in plan:
        rewriter.set_input(graph.nodes[index], slot, copy)
    for copy, name in dict.fromkeys((copy, name) for _, _, copy, name in plan):
        weight = graph.weights[name]
        rewriter.add_tensor(tensor_like(weight, weight.read(), copy))
    return rewriter.finish(swept=False)


def _plan(graph: Graph) -> Iterator[tuple[int, int, str, str]]:
    """Node, slot, name of the copy, name of the weight, for each reader that gets a copy."""
    names = Names(graph)
    for name, readers in graph.consumers.items():
        # What a graph gives as an output is no parameter: layers that read it are trained on a copy.
        shown = name in graph.outputs
        if (
            name not in graph.weights
            or not graph.weights[name].is_float
            or (len(readers) < 2 and not shown)
        ):
            continue
        users: dict[object, str] = {}
        for index, slot in readers:
            node = graph.nodes[index]
            if (
                node.subgraph is not None
                or node.subgraphs
                or node.domain == control.DOMAIN
                or slot >= len(node.inputs)
            ):
                continue
            if not (shown or _is_vector(node, name, slot)):
                continue
            user = _user(graph, node)
            if user not in users:
                users[user] = (
                    name
                    if not users and not shown
                    else names.new(f"{name}/{len(users) + 1}")
                )
            if users[user] != name:
                yield index, slot, users[user], name


def _is_vector(node: Node, name: str, slot: int) -> bool:
    held = node.channels.weights
    return slot > 0 and any(held.get(role) == name for role in VECTORS)


def _user(graph: Graph, node: Node) -> object:
    """Say what says that two readers are one layer: its operator, and its kernel or that of the layer before it."""
    kernel = node.channels.weights.get("weight")
    if kernel is None and node.parents:
        kernel = graph.nodes[node.parents[0][0]].channels.weights.get("weight")
    return (node.op, kernel if kernel is not None else node.index)

"""Which weights of a graph are trained."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Literal

from prunegraph.errors import UnknownNameError
from prunegraph.graph import linear
from prunegraph.graph.model import Graph, Node
from prunegraph.operators import (
    info,
    is_constant,
    is_dequantize,
    is_gather,
    is_matmul,
    is_quantize,
)

#: Running statistics: BatchNormalization writes them itself.
STATISTICS = ("mean", "variance")


#: Normalisations that exporters also write where the framework's has no weights, or has them elsewhere (GroupNorm as
#: InstanceNormalization and Mul): ones and zeros in `Constant` nodes stand in for them.
PLAIN = frozenset({"GroupNormalization", "InstanceNormalization", "LayerNormalization"})


def trainable_names(
    graph: Graph, chosen: Literal["layers", "all"] | Collection[str]
) -> set[str]:
    """Names of the weights that are parameters; see `GraphModule`. Raises UnknownNameError."""
    able = {
        name for name in _of_main_graph(graph) if graph.weights[name].is_float
    } - statistics(graph)
    if chosen == "all":
        return {name for name in able if graph.weights[name].size > 1} - scale_names(graph)
    if chosen == "layers":
        return able & {
            name for node in graph.nodes for name in _of_layer(graph, node)
        } - scale_names(graph)
    for name in chosen:
        if name not in able:
            raise UnknownNameError("weight to train", name, able)
    return set(chosen)


def _of_main_graph(graph: Graph) -> Iterator[str]:
    """Weights that `write_back` reaches; those of subgraphs are not among them."""
    yield from (tensor.name for tensor in graph.model.graph.initializer)
    yield from (node.output[0] for node in graph.model.graph.node if is_constant(node))


def statistics(graph: Graph) -> set[str]:
    """Means and variances of BatchNormalization."""
    result = (
        node.channels.weights.get(role, "") for node in graph.nodes for role in STATISTICS
    )
    return {name for name in result if name}


def scale_names(graph: Graph) -> set[str]:
    """Scales of QuantizeLinear and DequantizeLinear that `write_back` reaches."""
    nodes = (node for node in graph.nodes if is_quantize(node) or is_dequantize(node))
    return {node.inputs[1] for node in nodes} & set(_of_main_graph(graph))


def _of_layer(graph: Graph, node: Node) -> Iterator[str]:
    """Weights that a node trains, looked up through operators that only carry them."""
    if roles := info(node).roles:
        for slot, role in enumerate(roles):
            result = (
                graph.weight_behind(node.input(slot))
                if role and role not in STATISTICS
                else None
            )
            if result is not None and not (
                node.op in PLAIN and graph.weights[result].holder is not None
            ):
                yield result
    elif node.op == "Einsum":
        yield from (value for value in node.inputs if value in graph.weights)
    elif (
        is_gather(node)
        and len(getattr(graph.weights.get(node.inputs[0]), "shape", ())) == 2
    ):
        yield node.inputs[0]
    bias = linear.bias_behind(graph, node) if is_matmul(node) else None
    if (
        bias is not None
        and graph.weights[bias].size == graph.weights[node.inputs[1]].shape[-1]
    ):
        yield bias

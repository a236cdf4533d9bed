"""The explanation of a fixed layer: the way from its channels to what pins them."""

from __future__ import annotations

from dataclasses import dataclass

import networkx

from prunegraph.coupling.coupling import Coupling
from prunegraph.errors import OptionError
from prunegraph.graph.layer_names import named_layers
from prunegraph.graph.model import Node
from prunegraph.labels.labels import Labels, Listed, Uniform
from prunegraph.labels.reasons import Kind, Reason

#: What a person can do about a reason, by its kind.
ADVICE = {
    Kind.GRAPH_OUTPUT: "the layer makes an output of the model; its width is the model's interface",
    Kind.GRAPH_INPUT: "the axis comes from the model's input; its width is the model's interface",
    Kind.NO_RULE: "register a rule for the operator (docs/plugins.md), or replace it",
    Kind.SPATIAL: "the axis is spatial here; its size follows from the input",
    Kind.OTHER_FACTOR: "the axis is pruned in units of its other factor; --attention chooses in attention",
    Kind.ONE_CHANNEL: "what ties them (a lookup, a shared table, heads that share keys) would have to go first",
    Kind.CONTROL_FLOW: "move the value out of the subgraph",
    Kind.CAPTURED: "the subgraph is not looked into; move the value's use out of it",
    Kind.CHANGES_SHAPE: "let the subgraph hand the value back in the shape it got it in",
    Kind.BRANCHES_DIFFER: "let both branches return the same shape",
    Kind.UNKNOWN_SHAPE: "give the model's inputs fixed sizes, or the operator that makes the value a rule",
    Kind.RUNS_ALONG: "the axis is what the subgraph runs over, one element an iteration",
    Kind.OPERATOR: "the operator reads the axis as a whole",
}


@dataclass(frozen=True)
class Why:
    """The layer, how many of its channels are fixed, why, and the nodes from the layer to the cause."""

    layer: str
    channels: int
    of: int
    reason: Reason | None
    path: tuple[str, ...]
    advice: str


def explain(coupling: Coupling, layer: str) -> Why:
    """Explain one layer.

    Raises:
        UnknownNameError: no such layer.
        OptionError: several layers are called so.
    """
    graph = coupling.graph
    layer, *others = named_layers(graph, [layer])
    if others:
        raise OptionError(
            f"give one layer to explain: {layer}, {', '.join(others[:3])}, ... are called so"
        )
    node = graph.node(layer)
    fixed = next((f for f in coupling.fixed if f.layer == layer), None)
    width = node.channels.outputs or _width(coupling, node)
    if fixed is None and coupling.shape_info.is_dead(node):
        return Why(layer, 0, width, None, (), "it is in a branch that never runs")
    if fixed is None:
        groups = ", ".join(g.id for g in coupling.groups if layer in g.layers)
        return Why(
            layer,
            0,
            width,
            None,
            (),
            f"all channels can be pruned (groups {groups or 'none'})",
        )
    return Why(
        layer,
        fixed.channels,
        fixed.of,
        Reason(fixed.reason, fixed.because, fixed.kind),
        _path(coupling, node, fixed.because),
        ADVICE[fixed.kind],
    )


def _width(coupling: Coupling, node: Node) -> int:
    return max(
        (labels.size for labels in coupling.labels.get(node.outputs[0], ())), default=0
    )


def _path(coupling: Coupling, node: Node, because: str) -> tuple[str, ...]:
    """The shortest way through values that carry fixed channels, from the layer to the cause."""
    graph = coupling.graph
    digraph = networkx.Graph()
    for value, readers in graph.consumers.items():
        if not _carries_fixed(coupling, value):
            continue
        maker = (
            graph.nodes[graph.producer[value]].name if value in graph.producer else value
        )
        digraph.add_edges_from((maker, graph.nodes[reader].name) for reader, _ in readers)
    for value in graph.outputs:
        if value in graph.producer:
            digraph.add_edge(graph.nodes[graph.producer[value]].name, value)
    try:
        return tuple(networkx.shortest_path(digraph, node.name, because))
    except (networkx.NetworkXNoPath, networkx.NodeNotFound):
        return (node.name, because)


def _carries_fixed(coupling: Coupling, value: str) -> bool:
    labels: tuple[Labels, ...] = coupling.labels.get(value, ())
    return any(
        bool(coupling.channels.all_pinned(axis)) and not isinstance(axis, Uniform)
        for axis in labels
    ) or any(isinstance(axis, Listed) for axis in labels)

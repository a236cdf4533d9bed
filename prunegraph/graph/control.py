"""Subgraphs of If, Loop and Scan, inlined: their nodes stand among the others, under names of their own.

A node with subgraphs becomes

    Enter     reads what the node reads; its outputs are the inputs of the subgraph
    ...       the nodes of the subgraph (of both branches, one after the other)
    Return    one for each subgraph: reads what the subgraph returns and hands it on
    If, ...   the node itself; its inputs are what was handed on

so that values flow through subgraphs like through any other nodes. `Enter` and `Return` are of
the domain `prunegraph`; they are never written to a file. Names that two subgraphs share, as
branches do, get the subgraph's name in front.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import onnx

from prunegraph.graph import order
from prunegraph.operators import is_constant

DOMAIN = "prunegraph"
ENTER, RETURN = "Enter", "Return"

#: Attributes that hold the subgraphs of an operator.
SUBGRAPHS = {"If": ("then_branch", "else_branch"), "Loop": ("body",), "Scan": ("body",)}

#: Inputs of a Loop before the carried values: how often it runs at most, and whether it runs at all.
LOOP_HEAD = 2


@dataclass(frozen=True, eq=False)
class Subgraph:
    """A subgraph that a node runs.

    `names` maps the names of values made in it to their unique ones, `outputs` are what it
    returns, by unique names. `owner` is the node that runs it, `parent` the subgraph that one is in.
    """

    name: str
    attribute: str
    outputs: tuple[str, ...]
    graph: onnx.GraphProto = field(repr=False)
    owner: onnx.NodeProto = field(repr=False)
    parent: Subgraph | None = field(repr=False)
    names: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True)
class NodeContext:
    """The surroundings of a node in the file: its name, the subgraph it is in, and the subgraphs it runs.

    `inputs` replaces those of the protobuf, where given; `enter` is the index of the `Enter` that
    belongs to a node with subgraphs.
    """

    label: str = ""
    subgraph: Subgraph | None = None
    subgraphs: tuple[Subgraph, ...] = ()
    enter: int = -1
    inputs: tuple[str, ...] | None = None


#: The place of a node that has nothing to do with control flow.
PLAIN = NodeContext()


@dataclass(frozen=True)
class Scanned:
    """The way a Scan takes its inputs apart and puts its outputs together, by the numbers of its attributes."""

    states: int
    input_axes: tuple[int, ...]
    output_axes: tuple[int, ...]

    @classmethod
    def of(cls, proto: onnx.NodeProto) -> Scanned:
        attributes = {a.name: a for a in proto.attribute}
        scanned = attributes["num_scan_inputs"].i
        states = len(proto.input) - scanned

        def axes(name: str, count: int) -> tuple[int, ...]:
            return tuple(attributes[name].ints) if name in attributes else (0,) * count

        created = len(proto.output) - states
        return cls(
            states, axes("scan_input_axes", scanned), axes("scan_output_axes", created)
        )


def obstacle(proto: onnx.NodeProto, opset: int) -> str | None:
    """The reason why a node's subgraphs cannot be inlined, or None."""
    subgraphs = {
        a.name: a.g for a in proto.attribute if a.type == onnx.AttributeProto.GRAPH
    }
    if proto.domain not in ("", "ai.onnx") or tuple(sorted(subgraphs)) != tuple(
        sorted(SUBGRAPHS.get(proto.op_type, ()))
    ):
        return f"the subgraphs of {proto.op_type} are not looked into"
    if not subgraphs:
        return f"{proto.op_type} has no subgraph"
    if proto.op_type == "Scan" and (
        opset < 9 or not any(a.name == "num_scan_inputs" for a in proto.attribute)
    ):
        return "Scan before opset 9 is not looked into"
    for name, graph in subgraphs.items():
        if graph.sparse_initializer:
            return f"its {name} holds sparse weights"
        if not all(entry.name for entry in (*graph.input, *graph.output)):
            return f"its {name} has inputs or outputs without a name"
        if not _fits(proto, graph):
            return f"its {name} does not have the inputs and outputs that {proto.op_type} gives it"
        for inner in graph.node:
            if any(True for _ in order.subgraphs(inner)) and (
                reason := obstacle(inner, opset)
            ):
                return f"its {name} holds {inner.op_type}: {reason}"
    return None


def _fits(proto: onnx.NodeProto, graph: onnx.GraphProto) -> bool:
    """Tell whether a subgraph has as many inputs and outputs as its owner needs."""
    given, output, inputs, outputs = (
        len(proto.input),
        len(proto.output),
        len(graph.input),
        len(graph.output),
    )
    if proto.op_type == "If":
        return (given, inputs, outputs) == (1, 0, output)
    if proto.op_type == "Loop":
        return inputs == given >= LOOP_HEAD and outputs == output + 1 >= inputs - 1
    if not 0 < next(a.i for a in proto.attribute if a.name == "num_scan_inputs") <= given:
        return False
    scan = Scanned.of(proto)
    axes = (
        len(scan.input_axes) == given - scan.states
        and len(scan.output_axes) == output - scan.states
    )
    return (inputs, outputs) == (given, output) and scan.states <= output and axes


def expand(
    graph: onnx.GraphProto, protos: list[onnx.NodeProto], opset: int, source: str
) -> tuple[list[onnx.NodeProto], dict[int, NodeContext]]:
    """The nodes of a graph and of all subgraphs in it, in topological order.

    Args:
        graph: the main graph.
        protos: its nodes, in topological order.
        opset: version of ONNX's own operators.
        source: the model's name, for messages.

    Returns:
        The nodes, with unique names for the values of subgraphs, and the places of those that
        control flow concerns, by index.

    Raises:
        ModelError: a subgraph is invalid.
    """
    if not any(proto.op_type in SUBGRAPHS for proto in protos):
        return protos, {}
    expansion = _Expansion(graph, opset, source)
    expansion.add(protos, None, {})
    return expansion.protos, expansion.places


class _Expansion:
    """The list of nodes as it grows."""

    def __init__(self, graph: onnx.GraphProto, opset: int, source: str):
        self.opset, self.source = opset, source
        self.protos: list[onnx.NodeProto] = []
        self.places: dict[int, NodeContext] = {}
        self.outer = frozenset(
            {*made_in(graph), *(s.values.name for s in graph.sparse_initializer)}
        )
        self.taken = set(self.outer)
        self.shared = {
            name for name, count in Counter(_node_names(graph.node)).items() if count > 1
        }

    def add(
        self,
        protos: Iterable[onnx.NodeProto],
        subgraph: Subgraph | None,
        visible: Mapping[str, str],
    ) -> None:
        """Add nodes of one graph; `visible` maps names in it to unique ones."""
        for proto in protos:
            label = self._label(proto, subgraph)
            renamed = _renamed(proto, visible) if subgraph is not None else proto
            if proto.op_type in SUBGRAPHS and obstacle(proto, self.opset) is None:
                self._control(renamed, label, subgraph, visible)
            else:
                self._append(
                    renamed, NodeContext(label, subgraph) if subgraph is not None else PLAIN
                )

    def _append(self, proto: onnx.NodeProto, place: NodeContext) -> None:
        if place is not PLAIN:
            self.places[len(self.protos)] = place
        self.protos.append(proto)

    def _label(self, proto: onnx.NodeProto, subgraph: Subgraph | None) -> str:
        label: str = proto.name or next((o for o in proto.output if o), proto.op_type)
        unique = proto.name and proto.name not in self.shared
        return label if subgraph is None or unique else f"{subgraph.name}/{label}"

    def _control(
        self,
        proto: onnx.NodeProto,
        label: str,
        parent: Subgraph | None,
        visible: Mapping[str, str],
    ) -> None:
        graphs = {
            a.name: a.g for a in proto.attribute if a.type == onnx.AttributeProto.GRAPH
        }
        subgraphs, scopes = [], []
        for attribute in SUBGRAPHS[proto.op_type]:
            name = self._unique(f"{label}/{attribute}")
            own = {value: self._unique(value, name) for value in made_in(graphs[attribute])}
            scope = {**visible, **own}
            outputs = tuple(scope.get(o.name, o.name) for o in graphs[attribute].output)
            subgraphs.append(
                Subgraph(name, attribute, outputs, graphs[attribute], proto, parent, own)
            )
            scopes.append(scope)
        entered = [subgraphs[0].names[i.name] for i in subgraphs[0].graph.input]
        enter = onnx.helper.make_node(ENTER, list(proto.input), entered, domain=DOMAIN)
        index = len(self.protos)
        self._append(enter, NodeContext(f"{label}/enter", parent, tuple(subgraphs)))
        returned: list[str] = []
        for subgraph, scope in zip(subgraphs, scopes, strict=True):
            inner = {o for node in subgraph.graph.node for o in node.output}
            given = {*self.outer, *scope} - inner
            self.add(order.sort(subgraph.graph, given, self.source), subgraph, scope)
            handed = [
                self._unique(f"{subgraph.name}/returned_{i}")
                for i in range(len(subgraph.outputs))
            ]
            back = onnx.helper.make_node(
                RETURN, list(subgraph.outputs), handed, domain=DOMAIN
            )
            self._append(back, NodeContext(f"{subgraph.name}/return", subgraph))
            returned += handed
        self._append(
            proto, NodeContext(label, parent, tuple(subgraphs), index, tuple(returned))
        )

    def _unique(self, name: str, prefix: str = "") -> str:
        """A name that nothing has yet: the name itself, else with the prefix, else numbered."""
        base = name if not prefix or name not in self.taken else f"{prefix}/{name}"
        result, copy = base, 1
        while result in self.taken:
            copy += 1
            result = f"{base}#{copy}"
        self.taken.add(result)
        return result


def made_in(graph: onnx.GraphProto) -> list[str]:
    """Names of the values a graph has of its own: inputs, weights, outputs of nodes."""
    names = [entry.name for entry in (*graph.input, *graph.initializer)]
    return list(
        dict.fromkeys([*names, *(o for node in graph.node for o in node.output if o)])
    )


def _node_names(nodes: Iterable[onnx.NodeProto]) -> Iterator[str]:
    """Names of nodes, those in subgraphs too."""
    for node in nodes:
        if node.name:
            yield node.name
        if node.op_type in SUBGRAPHS:
            for graph in order.subgraphs(node):
                yield from _node_names(graph.node)


def _renamed(proto: onnx.NodeProto, names: Mapping[str, str]) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(proto)
    rename(copy, names)
    return copy


def rename(proto: onnx.NodeProto, names: Mapping[str, str]) -> None:
    """Replace names in a node's inputs and outputs, in place."""
    for values in (proto.input, proto.output):
        for slot, value in enumerate(values):
            if value in names:
                values[slot] = names[value]


def subgraph_weights(
    protos: Sequence[onnx.NodeProto], places: Mapping[int, NodeContext]
) -> tuple[list[tuple[str, onnx.TensorProto]], list[onnx.NodeProto]]:
    """Initializers of subgraphs with their unique names, and `Constant` nodes in subgraphs."""
    subgraphs = {
        id(subgraph): subgraph for place in places.values() for subgraph in place.subgraphs
    }
    tensors = [
        (subgraph.names[t.name], t)
        for subgraph in subgraphs.values()
        for t in subgraph.graph.initializer
    ]
    constants = [
        protos[i]
        for i, place in places.items()
        if place.subgraph and is_constant(protos[i])
    ]
    return tensors, constants

"""Where quantization goes: which operators run in integers, which values get a scale, and which share one.

An operator is quantized where ONNX Runtime's CPU provider has an integer kernel for it between a DequantizeLinear
and a QuantizeLinear: layers with constant weights, and what lies between them. Softmax, normalisations, and
products of two activations (attention) stay in float. docs/quantization.md has the rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import networkx

from prunegraph.errors import ModelError
from prunegraph.graph.bounds import bounds
from prunegraph.graph.layer_names import named_layers
from prunegraph.graph.linear import LinearLayer
from prunegraph.graph.model import Graph, Node
from prunegraph.graph.shapes import shape_info
from prunegraph.operators import (
    info,
    is_concat,
    is_convolution,
    is_dequantize,
    is_max_pool,
    is_quantize,
    is_resize,
    is_split,
    passes,
)
from prunegraph.quantization.scheme import Scheme

#: Words that stand for the first and the last layer in a list of layers.
FIRST, LAST = "first", "last"


@dataclass(frozen=True)
class Placement:
    """What is quantized in a graph.

    Args:
        graph: with its BatchNormalization folded.
        layers: quantized layers, by node index.
        computed: other operators that run in integers, by node index.
        absorbed: activations that bound the range of the node before them, by that node's index.
        groups: quantized values; all of a group share one scale. The first of a group are where its range is seen.
        group_of: the group of each quantized value, as an index.
        floats: layers left in float, with the reason.
    """

    graph: Graph = field(repr=False)
    layers: tuple[int, ...]
    computed: tuple[int, ...]
    absorbed: dict[int, int]
    groups: tuple[tuple[str, ...], ...]
    group_of: dict[str, int] = field(repr=False)
    floats: dict[str, str]

    def is_quantized(self, node: Node) -> bool:
        """Tell whether a node reads or makes integers."""
        return node.index in self.layers or node.index in self.computed

    def result(self, node: Node) -> str:
        """The value a node makes, behind the activation it absorbs."""
        after = self.absorbed.get(node.index)
        return self.graph.nodes[after].outputs[0] if after is not None else node.outputs[0]


def place(graph: Graph, scheme: Scheme, keep: Iterable[str] = ()) -> Placement:
    """Decide what is quantized.

    Args:
        graph: with its BatchNormalization folded.
        scheme: types and target.
        keep: layers that stay in float, by name; "first" and "last" stand for those layers.

    Raises:
        UnknownNameError: no layer of that name.
        ModelError: the model is quantized already, or nothing in it can be.
    """
    if any(is_quantize(node) or is_dequantize(node) for node in graph.nodes):
        raise ModelError(f"{graph.source}: is quantized already; give the float model")
    placer = _Placer(graph, scheme, keep)
    if not placer.layers and not keep:
        why = next(iter(placer.floats.values()), "it has none")
        raise ModelError(f"{graph.source}: has no layer that can be quantized: {why}")
    return placer.run()


def kept_names(graph: Graph, keep: Iterable[str]) -> set[str]:
    """Names of layers that patterns name; "first" and "last" stand for those. Raises UnknownNameError, OptionError."""
    names = [node.name for node in graph.layers]
    result = set()
    for pattern in keep:
        if pattern in (FIRST, LAST) and names and pattern not in names:
            result.add(names[0 if pattern == FIRST else -1])
        else:
            result.update(named_layers(graph, [pattern]))
    return result


class _Placer:
    """Forward, what could run in integers; backward, what of it some layer wants in integers."""

    def __init__(self, graph: Graph, scheme: Scheme, keep: Iterable[str]):
        self.graph, self.scheme = graph, scheme
        self.types, self.shapes = shape_info(graph).types, shape_info(graph).shapes
        kept = kept_names(graph, keep)
        self.floats: dict[str, str] = {}
        self.layers: set[int] = set()
        for node in graph.layers:
            reason = "asked for" if node.name in kept else self._obstacle(node)
            if reason:
                self.floats[node.name] = reason
            else:
                self.layers.add(node.index)
        self.quantized: set[str] = set()
        self.computed: set[int] = set()
        self.absorbed: dict[int, int] = {}

    def run(self) -> Placement:
        if self.scheme.activations is not None:
            if self.scheme.target.around:
                self._forward()
                self._backward()
            groups = self._groups()
        else:
            groups = []
        return Placement(
            self.graph,
            tuple(sorted(self.layers)),
            tuple(sorted(self.computed)),
            self.absorbed,
            tuple(groups),
            {value: index for index, group in enumerate(groups) for value in group},
            self.floats,
        )

    # -- layers -----------------------------------------------------------------------------

    def _obstacle(self, node: Node) -> str:
        """Why a layer cannot be quantized, or ""."""
        if not info(node).is_linear or node.domain:
            return f"{node.op} has no integer kernel"
        return LinearLayer(self.graph, node).no_integers()

    # -- what lies between ----------------------------------------------------------------------

    def _forward(self) -> None:
        for node in self.graph.nodes:
            if node.index in self.layers:
                self.quantized.add(node.outputs[0])
            elif node.subgraph is not None or node.domain or node.captured:
                continue
            elif (before := self._bounded(node)) is not None:
                self.absorbed[before] = node.index
                self.quantized.add(node.outputs[0])
            elif self._computes(node):
                self.computed.add(node.index)
                self.quantized.update(v for v in node.outputs if v)

    def _bounded(self, node: Node) -> int | None:
        """The node whose range an activation bounds, if that is all that happens to its output."""
        before = self.graph.producer.get(node.input(0))
        if not self._is_bound(node) or before is None:
            return None
        value, source = node.inputs[0], self.graph.nodes[before]
        alone = len(self.graph.consumers[value]) == 1 and value not in self.graph.outputs
        computes = before in self.layers or (
            before in self.computed and info(source).quantized == "computes"
        )
        return before if alone and computes and before not in self.absorbed else None

    def _is_bound(self, node: Node) -> bool:
        return bounds(self.graph, node) is not None

    def _computes(self, node: Node) -> bool:
        if info(node).quantized == "moves":
            rest = [v for v in node.outputs[1:] if v and not is_split(node)]
            return (
                node.input(0) in self.quantized and not rest and self._moves_plainly(node)
            )
        if is_concat(node) or info(node).quantized == "computes":
            return all(value in self.quantized for value in node.inputs)
        return False

    def _moves_plainly(self, node: Node) -> bool:
        if is_resize(node):
            return node.attributes.get("mode", b"nearest") in (
                b"nearest",
                b"linear",
            ) and not self._extrapolates(node)
        # Before operator set 12 a MaxPool takes floats only.
        return not is_max_pool(node) or node.version >= 12

    def _extrapolates(self, node: Node) -> bool:
        return (
            node.attributes.get("coordinate_transformation_mode", b"")
            == b"tf_crop_and_resize"
        )

    def _backward(self) -> None:
        """Leave in float what no layer reads, directly or by way of others in integers.

        What only moves data, and loses nothing by it, may have an activation or normalisation in float behind it.
        """
        wanted: set[str] = set()
        reached: set[str] = set()
        for node in reversed(self.graph.nodes):
            if passes(node, "integers") and reached & set(node.outputs) and node.inputs:
                reached.add(node.inputs[0])
            results = [v for v in node.outputs if v]
            after = self.absorbed.get(node.index)
            if after is not None:
                results = [self.graph.nodes[after].outputs[0]]
            if node.index in self.layers:
                wanted.add(node.inputs[0])
                reached.add(node.inputs[0])
                if not is_convolution(node) and not wanted & set(results):
                    self._leave_in_float(node, results)
            elif node.index in self.computed:
                only_moves = _joins_scales(node)
                if wanted & set(results) or (only_moves and reached & set(results)):
                    wanted.update(self.data(node))
                    reached.update(self.data(node))
                else:
                    self.computed.discard(node.index)
                    self._leave_in_float(node, results)

    def _leave_in_float(self, node: Node, results: Sequence[str]) -> None:
        """Quantize neither what a node makes nor what the activation makes that it had absorbed."""
        self.quantized -= {*node.outputs, *results}
        self.absorbed.pop(node.index, None)

    def data(self, node: Node) -> Sequence[str]:
        """The activations a quantized node reads."""
        return (
            node.inputs[:1]
            if node.index in self.layers or info(node).quantized == "moves"
            else node.inputs
        )

    # -- scales ---------------------------------------------------------------------------------

    def _groups(self) -> list[tuple[str, ...]]:
        """Quantized values by shared scale, each group in the order of the graph."""
        ties = networkx.Graph()
        for node in self.graph.nodes:
            if node.index in self.layers:
                ties.add_node(node.inputs[0])
                if self._result(node) in self.quantized and self.scheme.target.around:
                    ties.add_node(self._result(node))
            elif node.index in self.computed:
                values = [
                    *self.data(node),
                    self._result(node),
                    *(v for v in node.outputs[1:] if v),
                ]
                ties.add_nodes_from(values)
                if _joins_scales(node):
                    ties.add_edges_from((values[0], other) for other in values[1:])
        order = {value: place for place, value in enumerate(ties)}
        return [
            tuple(sorted(group, key=order.__getitem__))
            for group in networkx.connected_components(ties)
        ]

    def _result(self, node: Node) -> str:
        after = self.absorbed.get(node.index)
        return self.graph.nodes[after].outputs[0] if after is not None else node.outputs[0]


def _joins_scales(node: Node) -> bool:
    """Tell whether what an operator reads and makes has one scale: it moves values, or joins them."""
    return info(node).quantized == "moves" or is_concat(node)


def sources(graph: Graph, value: str) -> Iterator[str]:
    """Where the numbers of a value come from, through operators that only move them."""
    queue = [value]
    while queue:
        name = queue.pop()
        node = graph.nodes[graph.producer[name]] if name in graph.producer else None
        if (
            node is not None
            and is_concat(node)
            and all(v in graph.producer for v in node.inputs)
        ):
            queue.extend(node.inputs)
        elif (
            node is not None
            and info(node).quantized == "moves"
            and (not is_resize(node))
            and node.inputs[0] in graph.producer
        ):
            queue.append(node.inputs[0])
        else:
            yield name

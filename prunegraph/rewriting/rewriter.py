"""A graph, rewritten: edits are collected one by one, then made into a new graph at once.

What a rewrite has to see to, whatever it is for, is here: fresh names, every reader of a
value (those in the subgraphs of If, Loop and Scan too), names of graph outputs, initializers
that are graph outputs, files before IR version 4, and that no weight is copied which stays as
it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cached_property

import numpy as np
import onnx
from onnx import helper, numpy_helper

from prunegraph.graph.external import without_graph
from prunegraph.graph.model import Graph, Node, Weight
from prunegraph.graph.names import Names, redirect
from prunegraph.operators import is_constant
from prunegraph.rewriting.unused import drop_unused
from prunegraph.rewriting.weights import tensor_like

Array = np.ndarray

#: The first IR version in which an initializer need not be declared as an input.
FREE_INITIALIZERS = 4


class Rewriter:
    """Edits of a main graph's nodes, and of weights wherever they are; the graph itself is not touched.

    Nodes keep their places, and values and weights their names, unless told otherwise. Nodes that are put in read what
    they were given: `redirect` does not concern them.
    """

    def __init__(self, graph: Graph):
        self.graph = graph
        self._edited: dict[int, onnx.NodeProto] = {}
        self._instead: dict[int, list[onnx.NodeProto]] = {}
        self._first: list[onnx.NodeProto] = []
        self._before: dict[int, list[onnx.NodeProto]] = {}
        self._after: dict[int, list[onnx.NodeProto]] = {}
        self._renamed: dict[str, str] = {}
        self._tensors: dict[str, onnx.TensorProto] = {}
        self._added: list[onnx.TensorProto] = []
        self._dropped: set[str] = set()

    @cached_property
    def names(self) -> Names:
        """Gives fresh names; everything that is added has one of them. Many edits add nothing."""
        return Names(self.graph)

    # -- nodes ------------------------------------------------------------------------------

    def edit(self, node: Node) -> onnx.NodeProto:
        """The node as it will be, to be changed in place."""
        if node.index not in self._edited:
            proto = onnx.NodeProto()
            proto.CopyFrom(node.proto)
            self._edited[node.index] = proto
        return self._edited[node.index]

    def set_input(self, node: Node, slot: int, value: str) -> None:
        """Let a node read a value at a slot, behind inputs that are left out where it has fewer."""
        proto = self.edit(node)
        while len(proto.input) <= slot:
            proto.input.append("")
        proto.input[slot] = value

    def replace(self, node: Node, protos: Iterable[onnx.NodeProto]) -> None:
        """Put others (or none) in a node's place; they make what of its outputs is read."""
        self._instead[node.index] = list(protos)

    def insert_first(self, *protos: onnx.NodeProto) -> None:
        """Put nodes before all others."""
        self._first += protos

    def insert_before(self, node: Node, *protos: onnx.NodeProto) -> None:
        """Put nodes before one."""
        self._before.setdefault(node.index, []).extend(protos)

    def insert_after(self, node: Node, *protos: onnx.NodeProto) -> None:
        """Put nodes behind one."""
        self._after.setdefault(node.index, []).extend(protos)

    # -- values -----------------------------------------------------------------------------

    def redirect(self, value: str, other: str) -> None:
        """Let all that read a value read another one, subgraphs included. A graph output keeps its name and value."""
        self._renamed[value] = other

    def take_over(self, value: str, wanted: str) -> str:
        """Let the node that makes a value make it under a fresh name, which is returned.

        What is put in behind it must make the value from now on, for all readers and as a graph output.
        """
        proto = self.edit(self.graph.nodes[self.graph.producer[value]])
        fresh = self.names.new(wanted)
        proto.output[list(proto.output).index(value)] = fresh
        return fresh

    # -- weights ----------------------------------------------------------------------------

    def add_initializer(
        self, wanted: str, values: Array, like: Weight | None = None
    ) -> str:
        """Add a weight under a fresh name, which is returned; type and documentation are those of `like`."""
        name = self.names.new(wanted)
        self.add_tensor(
            tensor_like(like, values, name)
            if like is not None
            else numpy_helper.from_array(values, name)
        )
        return name

    def add_tensor(self, tensor: onnx.TensorProto) -> None:
        """Add a weight under the name that it has: a fresh one of `names`, or that of a dropped weight."""
        self._added.append(tensor)

    def set_weight(self, name: str, values: Array) -> None:
        """Replace the values of a weight; where it is a graph output as well, that keeps its value."""
        weight = self.graph.weights[name]
        values = np.ascontiguousarray(values).reshape(values.shape)
        if name in self.graph.outputs:
            self.redirect(name, self.add_initializer(name, values, weight))
        else:
            self._tensors[name] = tensor_like(weight, values, name)

    def drop_weight(self, name: str) -> None:
        """Take an initializer out, so that another one may have its name."""
        self._dropped.add(name)

    # -- the result -------------------------------------------------------------------------

    @property
    def is_idle(self) -> bool:
        """Tell whether nothing was asked for."""
        edits = (self._edited, self._instead, self._first, self._before, self._after)
        return not any((*edits, self._renamed, self._tensors, self._added, self._dropped))

    def finish(
        self, *, swept: bool = True, change: Callable[[onnx.ModelProto], None] | None = None
    ) -> Graph:
        """The new graph.

        Args:
            swept: whether nodes and weights that lost their last reader go.
            change: what else is done to the model, such as its operator sets; it sees nodes and no weights.

        Raises:
            ModelError: the edits do not make a valid graph.
        """
        graph, model = self.graph, without_graph(self.graph.model)
        model.graph.node.extend(self._nodes())
        if change is not None:
            change(model)
        if model.ir_version < FREE_INITIALIZERS:
            declared = {entry.name for entry in model.graph.input}
            model.graph.input.extend(
                helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
                for tensor in self._added
                if tensor.name not in declared
            )
        for tensor in self._initializers():
            model.graph.initializer.append(tensor)
        if swept:
            drop_unused(model.graph, graph.model.graph)
        return Graph(model, folder=graph.folder, source=graph.source, keeps=graph)

    def _nodes(self) -> Iterator[onnx.NodeProto]:
        yield from self._first
        for node in self.graph.in_file():
            yield from self._before.get(node.index, ())
            if node.index in self._instead:
                yield from (self._read(proto) for proto in self._instead[node.index])
            else:
                yield self._valued(node, self._edited.get(node.index, node.proto))
            yield from self._after.get(node.index, ())

    def _valued(self, node: Node, proto: onnx.NodeProto) -> onnx.NodeProto:
        """A node with the values it reads now; a `Constant` or a subgraph with those it holds now."""
        if self._tensors and (is_constant(node) or node.subgraphs):
            holder = onnx.NodeProto()
            holder.CopyFrom(proto)
            self._set_inside(node, holder)
            return self._read(holder)
        return self._read(proto)

    def _set_inside(self, node: Node, proto: onnx.NodeProto) -> None:
        """Give new values to the weight that a node holds, or to those of its subgraphs, in place."""
        if is_constant(node) and node.outputs[0] in self._tensors:
            del proto.attribute[:]
            proto.attribute.append(
                helper.make_attribute("value", self._tensors[node.outputs[0]])
            )
        for subgraph in node.subgraphs:
            graph = next(
                each.g for each in proto.attribute if each.name == subgraph.attribute
            )
            for tensor in graph.initializer:
                own, changed = tensor.name, self._tensors.get(subgraph.names[tensor.name])
                if changed is not None:
                    tensor.CopyFrom(changed)
                    tensor.name = own
            for inner, held in zip(self.graph.in_file(subgraph), graph.node, strict=True):
                self._set_inside(inner, held)

    def _read(self, proto: onnx.NodeProto) -> onnx.NodeProto:
        if not self._renamed:
            return proto
        copy = onnx.NodeProto()
        copy.CopyFrom(proto)
        redirect(copy, self._renamed)
        return copy

    def _initializers(self) -> Iterator[onnx.TensorProto]:
        for tensor in self.graph.model.graph.initializer:
            if tensor.name not in self._dropped:
                yield self._tensors.get(tensor.name, tensor)
        yield from self._added

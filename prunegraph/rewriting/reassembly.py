"""Rewritten nodes, put back where the file has them: into the main graph, and into subgraphs.

Analysis sees the nodes of all subgraphs in one list (`graph.control`); a file has them nested. A
subgraph keeps the names it has in the file. An If of which only one branch ever runs is replaced by
that branch: the other one was not looked at, and might not fit any more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import onnx
from onnx import helper

from prunegraph.coupling.survivors import Survivors
from prunegraph.graph import control
from prunegraph.graph.control import Subgraph
from prunegraph.graph.model import Node
from prunegraph.graph.shape_info import ShapeInfo
from prunegraph.operators import is_constant
from prunegraph.rewriting.declared import declare
from prunegraph.rewriting.unused import drop_unused
from prunegraph.rewriting.weights import LazyTensor, WeightEditor

#: What a node becomes (nodes before it, itself, and nodes after it), and new tensors they read.
Rewritten = tuple[Sequence[onnx.NodeProto], Sequence[onnx.TensorProto]]


class Reassembly:
    """The graphs of a rewritten model, put together again.

    Args:
        shape_info: of the original.
        editor: weights that change; those of subgraphs are put there, see `outside`.
        rewrite: what a node becomes.
        survivors: what is left of every axis, for the shapes that subgraphs declare; None where
            nothing changes its shape.
    """

    def __init__(
        self,
        shape_info: ShapeInfo,
        editor: WeightEditor,
        rewrite: Callable[[Node], Rewritten],
        survivors: Survivors | None = None,
    ):
        self.graph, self.shape_info, self.tensors = (
            shape_info.graph,
            shape_info,
            editor.tensors,
        )
        self.rewrite, self.survivors, self._names = rewrite, survivors, editor.names
        self._placed: set[str] = set()
        self._added: dict[Subgraph, dict[str, LazyTensor]] = {}
        self._returns = {
            n.subgraph: n
            for n in self.graph.nodes
            if n.op == control.RETURN and n.domain == control.DOMAIN
        }
        # The names of a branch that takes the place of its If must stay unique.
        kept = () if shape_info.dead else self.graph.subgraphs
        self._own = {
            unique: own
            for subgraph in kept
            for own, unique in subgraph.names.items()
            if own != unique
        }
        homes = {
            unique: subgraph
            for subgraph in self.graph.subgraphs
            for unique in subgraph.names.values()
        }
        for name, weight in editor.versions.items():
            if weight in homes:
                self._add(homes[weight], name, self.tensors[name])

    def nodes(self, subgraph: Subgraph | None = None) -> Iterator[onnx.NodeProto]:
        """The nodes of the main graph, or of a subgraph, in the file's order."""
        for node in self.graph.in_file(subgraph):
            yield from self._control(node) if node.subgraphs else self._plain(node)

    def outside(self) -> dict[str, LazyTensor]:
        """Changed and new weights that belong to the main graph; asked for when all nodes are made."""
        return {
            name: make for name, make in self.tensors.items() if name not in self._placed
        }

    def _add(self, subgraph: Subgraph | None, name: str, make: LazyTensor) -> None:
        """Put a new tensor where its reader is: what runs a subgraph may need to know it there."""
        while subgraph is not None and self._is_replacing(subgraph):
            subgraph = subgraph.parent
        if subgraph is None:
            self.tensors[name] = make
        else:
            self._placed.add(name)
            self._added.setdefault(subgraph, {})[name] = make

    def _is_replacing(self, subgraph: Subgraph) -> bool:
        """Tell whether the subgraph takes the place of its If."""
        return any(
            dead.owner is subgraph.owner and dead is not subgraph
            for dead in self.shape_info.dead
        )

    def _rewritten(self, node: Node) -> Sequence[onnx.NodeProto]:
        protos, tensors = self.rewrite(node)
        for tensor in tensors:
            self._add(node.subgraph, tensor.name, lambda created=tensor: created)  # type: ignore[misc]
        return protos

    def _plain(self, node: Node) -> Iterator[onnx.NodeProto]:
        for proto in self._rewritten(node):
            if node.subgraph is not None:
                if is_constant(node) and node.outputs[0] in self.tensors:
                    self._placed.add(node.outputs[0])
                    del proto.attribute[:]
                    proto.attribute.append(
                        helper.make_attribute("value", self.tensors[node.outputs[0]]())
                    )
                if self.shape_info.dead and proto.name == node.proto.name:
                    proto.name = node.name
                control.rename(proto, self._own)
            yield proto

    def _control(self, node: Node) -> Iterator[onnx.NodeProto]:
        live = [
            subgraph for subgraph in node.subgraphs if subgraph not in self.shape_info.dead
        ]
        if len(live) < len(node.subgraphs):
            yield from self._inline(node, live[0])
            return
        *before, enter = self._settled(self.graph.nodes[node.enter])
        yield from before
        proto = onnx.NodeProto()
        proto.CopyFrom(node.proto)
        for repeated in ("input", "attribute"):
            proto.ClearField(repeated)
        proto.input.extend(enter.input)
        graphs = {subgraph.attribute: subgraph for subgraph in node.subgraphs}
        for attribute in node.proto.attribute:
            if attribute.name in graphs:
                graph = self._graph(graphs[attribute.name])
                copy = proto.attribute.add(
                    name=attribute.name,
                    type=attribute.type,
                    doc_string=attribute.doc_string,
                )
                copy.g.CopyFrom(graph)
            else:
                proto.attribute.append(attribute)
        control.rename(proto, self._own)
        yield proto

    def _settled(self, node: Node) -> list[onnx.NodeProto]:
        """A node that hands on values, rewritten; the names are the file's."""
        protos = list(self._rewritten(node))
        for proto in protos[:-1]:
            control.rename(proto, self._own)
        return protos

    def _inline(self, node: Node, subgraph: Subgraph) -> Iterator[onnx.NodeProto]:
        for tensor in subgraph.graph.initializer:
            name = subgraph.names[tensor.name]
            self._add(subgraph, name, self.tensors.get(name, partial(_named, tensor, name)))
        yield from self.nodes(subgraph)
        *before, back = self._settled(self._returns[subgraph])
        yield from before
        for index, (value, output) in enumerate(zip(back.input, node.outputs, strict=True)):
            if output:
                name = self._names.new(f"{node.name}/output_{index}")
                yield helper.make_node("Identity", [value], [output], name=name)

    def _graph(self, subgraph: Subgraph) -> onnx.GraphProto:
        graph = onnx.GraphProto()
        graph.CopyFrom(subgraph.graph)
        for rewritten in ("node", "initializer", "input", "output", "value_info"):
            graph.ClearField(rewritten)
        graph.node.extend(self.nodes(subgraph))
        *before, back = self._settled(self._returns[subgraph])
        graph.node.extend(before)
        graph.initializer.extend(self._initializers(subgraph))
        for entry in subgraph.graph.input:
            graph.input.append(self._declared(entry, subgraph.names[entry.name]))
        for entry, old, new in zip(
            subgraph.graph.output, subgraph.outputs, back.input, strict=True
        ):
            if new != old:  # a subgraph may only return what it makes
                fresh = self._names.new(f"{new}/returned")
                graph.node.append(helper.make_node("Identity", [new], [fresh], name=fresh))
                new = fresh
            declared = self._declared(entry, old)
            declared.name = self._own.get(new, new)
            graph.output.append(declared)
        graph.value_info.extend(self._inner_values(subgraph))
        drop_unused(graph, subgraph.graph)
        return graph

    def _initializers(self, subgraph: Subgraph) -> Iterator[onnx.TensorProto]:
        for tensor in subgraph.graph.initializer:
            name = subgraph.names[tensor.name]
            if name in self.tensors:
                self._placed.add(name)
                yield _named(self.tensors[name](), self._own.get(name, name))
            else:
                yield _named(tensor, self._own.get(name, name))
        for make in self._added.get(subgraph, {}).values():
            yield make()

    def _declared(self, entry: onnx.ValueInfoProto, value: str) -> onnx.ValueInfoProto:
        """The declaration of an input or output of a subgraph, with the sizes it has now."""
        declared = (
            entry if self.survivors is None else declare(entry, value, self.survivors)
        )
        copy = onnx.ValueInfoProto()
        copy.CopyFrom(declared or entry)
        if declared is None:
            kind = (
                copy.type.sequence_type.elem_type
                if copy.type.HasField("sequence_type")
                else copy.type
            )
            kind.tensor_type.ClearField("shape")
        copy.name = self._own.get(value, value)
        return copy

    def _inner_values(self, subgraph: Subgraph) -> Iterator[onnx.ValueInfoProto]:
        """Declared shapes of inner values, with the sizes they have now."""
        for entry in subgraph.graph.value_info:
            value = subgraph.names.get(entry.name, entry.name)
            if self.survivors is None or declare(entry, value, self.survivors) is not None:
                yield self._declared(entry, value)


def _named(tensor: onnx.TensorProto, name: str) -> onnx.TensorProto:
    if tensor.name == name:
        return tensor
    copy = onnx.TensorProto()
    copy.CopyFrom(tensor)
    copy.name = name
    return copy

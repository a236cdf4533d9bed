"""Rewritten nodes, put back where the file has them: into the main graph, and into bodies.

Analysis sees the nodes of all bodies in one list (`graph.control`); a file has them nested. A
body keeps the names it has in the file. An If of which only one branch ever runs is replaced by
that branch: the other one was not looked at, and might not fit any more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import onnx
from onnx import helper

from prunegraph.coupling.survivors import Survivors
from prunegraph.graph import control
from prunegraph.graph.control import Body
from prunegraph.graph.facts import Facts
from prunegraph.graph.model import Node
from prunegraph.rewriting.declared import declare
from prunegraph.rewriting.unused import sweep
from prunegraph.rewriting.weights import LazyTensor, WeightEditor

#: What a node becomes (nodes before it, itself, and nodes after it), and new tensors they read.
Rewritten = tuple[Sequence[onnx.NodeProto], Sequence[onnx.TensorProto]]


class Nest:
    """The graphs of a rewritten model.

    Args:
        facts: of the original.
        editor: weights that change; those of bodies are put there, see `outside`.
        rewrite: what a node becomes.
        survivors: what is left of every axis, for the shapes that bodies declare; None where
            nothing changes its shape.
    """

    def __init__(
        self,
        facts: Facts,
        editor: WeightEditor,
        rewrite: Callable[[Node], Rewritten],
        survivors: Survivors | None = None,
    ):
        self.graph, self.facts, self.tensors = facts.graph, facts, editor.tensors
        self.rewrite, self.survivors, self._names = rewrite, survivors, editor.names
        self._placed: set[str] = set()
        self._added: dict[Body, dict[str, LazyTensor]] = {}
        self._returns = {n.body: n for n in self.graph.nodes if n.op == control.RETURN and n.domain == control.DOMAIN}
        # The names of a branch that takes the place of its If must stay unique.
        kept = () if facts.dead else self.graph.bodies
        self._own = {unique: own for body in kept for own, unique in body.names.items() if own != unique}
        homes = {unique: body for body in self.graph.bodies for unique in body.names.values()}
        for name, weight in editor.versions.items():
            if weight in homes:
                self._add(homes[weight], name, self.tensors[name])

    def nodes(self, body: Body | None = None) -> Iterator[onnx.NodeProto]:
        """The nodes of the main graph, or of a body, in the file's order."""
        for node in self.graph.in_file(body):
            yield from self._control(node) if node.bodies else self._plain(node)

    def outside(self) -> dict[str, LazyTensor]:
        """Changed and new weights that belong to the main graph; asked for when all nodes are made."""
        return {name: make for name, make in self.tensors.items() if name not in self._placed}

    def _add(self, body: Body | None, name: str, make: LazyTensor) -> None:
        """Put a new tensor where its reader is: what runs a body may need to know it there."""
        while body is not None and self._is_replacing(body):
            body = body.parent
        if body is None:
            self.tensors[name] = make
        else:
            self._placed.add(name)
            self._added.setdefault(body, {})[name] = make

    def _is_replacing(self, body: Body) -> bool:
        """Whether the body takes the place of its If."""
        return any(dead.owner is body.owner and dead is not body for dead in self.facts.dead)

    def _rewritten(self, node: Node) -> Sequence[onnx.NodeProto]:
        protos, tensors = self.rewrite(node)
        for tensor in tensors:
            self._add(node.body, tensor.name, lambda created=tensor: created)  # type: ignore[misc]
        return protos

    def _plain(self, node: Node) -> Iterator[onnx.NodeProto]:
        for proto in self._rewritten(node):
            if node.body is not None:
                if node.op == "Constant" and node.outputs[0] in self.tensors:
                    self._placed.add(node.outputs[0])
                    del proto.attribute[:]
                    proto.attribute.append(helper.make_attribute("value", self.tensors[node.outputs[0]]()))
                if self.facts.dead and proto.name == node.proto.name:
                    proto.name = node.name
                control.rename(proto, self._own)
            yield proto

    def _control(self, node: Node) -> Iterator[onnx.NodeProto]:
        live = [body for body in node.bodies if body not in self.facts.dead]
        if len(live) < len(node.bodies):
            yield from self._inline(node, live[0])
            return
        *before, enter = self._settled(self.graph.nodes[node.enter])
        yield from before
        proto = onnx.NodeProto()
        proto.CopyFrom(node.proto)
        for repeated in ("input", "attribute"):
            proto.ClearField(repeated)
        proto.input.extend(enter.input)
        graphs = {body.attribute: body for body in node.bodies}
        for attribute in node.proto.attribute:
            if attribute.name in graphs:
                graph = self._graph(graphs[attribute.name])
                copy = proto.attribute.add(name=attribute.name, type=attribute.type, doc_string=attribute.doc_string)
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

    def _inline(self, node: Node, body: Body) -> Iterator[onnx.NodeProto]:
        for tensor in body.graph.initializer:
            name = body.names[tensor.name]
            self._add(body, name, self.tensors.get(name, partial(_named, tensor, name)))
        yield from self.nodes(body)
        *before, back = self._settled(self._returns[body])
        yield from before
        for index, (value, output) in enumerate(zip(back.input, node.outputs, strict=True)):
            if output:
                name = self._names.new(f"{node.name}/output_{index}")
                yield helper.make_node("Identity", [value], [output], name=name)

    def _graph(self, body: Body) -> onnx.GraphProto:
        graph = onnx.GraphProto()
        graph.CopyFrom(body.graph)
        for rewritten in ("node", "initializer", "input", "output", "value_info"):
            graph.ClearField(rewritten)
        graph.node.extend(self.nodes(body))
        *before, back = self._settled(self._returns[body])
        graph.node.extend(before)
        graph.initializer.extend(self._initializers(body))
        for entry in body.graph.input:
            graph.input.append(self._declared(entry, body.names[entry.name]))
        for entry, old, new in zip(body.graph.output, body.outputs, back.input, strict=True):
            if new != old:  # a body may only return what it makes
                fresh = self._names.new(f"{new}/returned")
                graph.node.append(helper.make_node("Identity", [new], [fresh], name=fresh))
                new = fresh
            declared = self._declared(entry, old)
            declared.name = self._own.get(new, new)
            graph.output.append(declared)
        graph.value_info.extend(self._inner_values(body))
        sweep(graph, body.graph)
        return graph

    def _initializers(self, body: Body) -> Iterator[onnx.TensorProto]:
        for tensor in body.graph.initializer:
            name = body.names[tensor.name]
            if name in self.tensors:
                self._placed.add(name)
                yield _named(self.tensors[name](), self._own.get(name, name))
            else:
                yield _named(tensor, self._own.get(name, name))
        for make in self._added.get(body, {}).values():
            yield make()

    def _declared(self, entry: onnx.ValueInfoProto, value: str) -> onnx.ValueInfoProto:
        """What a body declares of an input or output, with the sizes it has now."""
        declared = entry if self.survivors is None else declare(entry, value, self.survivors)
        copy = onnx.ValueInfoProto()
        copy.CopyFrom(declared or entry)
        if declared is None:
            kind = copy.type.sequence_type.elem_type if copy.type.HasField("sequence_type") else copy.type
            kind.tensor_type.ClearField("shape")
        copy.name = self._own.get(value, value)
        return copy

    def _inner_values(self, body: Body) -> Iterator[onnx.ValueInfoProto]:
        """Declared shapes of inner values, with the sizes they have now."""
        for entry in body.graph.value_info:
            value = body.names.get(entry.name, entry.name)
            if self.survivors is None or declare(entry, value, self.survivors) is not None:
                yield self._declared(entry, value)


def _named(tensor: onnx.TensorProto, name: str) -> onnx.TensorProto:
    if tensor.name == name:
        return tensor
    copy = onnx.TensorProto()
    copy.CopyFrom(tensor)
    copy.name = name
    return copy

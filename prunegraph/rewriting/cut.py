"""Graph + Survivors -> Graph: every removed channel sliced out of every weight.

Nodes keep their names, order and documentation. What else changes in a node is said by
its rule: attributes that follow an axis, operands that list sizes, and the rule's repair.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from prunegraph.coupling.shuffle import Shuffle
from prunegraph.coupling.survivors import Survivors, taken
from prunegraph.errors import MISFIT, ModelError
from prunegraph.graph.external import SCRATCH, without_graph, write_stream
from prunegraph.graph.inference import skeleton
from prunegraph.graph.intake import Slicing
from prunegraph.graph.model import Graph, Node
from prunegraph.graph.onnx_io import has_external
from prunegraph.operators import is_constant
from prunegraph.ops import rule_for
from prunegraph.rewriting.branches import drop_branches
from prunegraph.rewriting.declared import declare_interface, declare_values
from prunegraph.rewriting.operands import Operands
from prunegraph.rewriting.reassembly import Reassembly, Rewritten
from prunegraph.rewriting.unused import drop_unused
from prunegraph.rewriting.weights import LazyTensor, WeightEditor

Array = np.ndarray


def cut(survivors: Survivors, scratch: Path | None = None) -> Graph:
    """The graph without its removed channels and branches; the graph itself is not touched.

    Args:
        survivors: what is left of every axis, and the branches that go.
        scratch: where to put weights of a model that has them in external files; they are
            written there one by one, and moved when the result is saved.

    Raises:
        ModelError: the result's shapes do not fit together (a rule is wrong: nothing the
            caller did).
    """
    graph = survivors.coupling.graph
    if not survivors.has_all_channels:
        graph = _without_channels(survivors, scratch)
    return drop_branches(graph, survivors.branches)


def _without_channels(survivors: Survivors, scratch: Path | None) -> Graph:
    """The graph without its removed channels."""
    coupling = survivors.coupling
    graph = coupling.graph
    editor = WeightEditor(coupling, survivors.use, taken)
    editor.run()
    operands = Operands(graph, coupling.shape_info, survivors, editor.renamed, editor.names)
    replaced = _replaced_by_gathers(survivors)

    def rewrite(node: Node) -> Rewritten:
        if node.index in replaced:
            return [], []
        edit = NodeEdit(node, survivors, operands)
        try:
            edit.run()
        except MISFIT as error:
            raise ModelError(
                f"{graph.source}: node {node.name!r} ({node.op}) cannot be cut: {error!r}"
            ) from error
        return [*edit.before, edit.proto, *edit.after], edit.tensors

    model = without_graph(graph.model)
    reassembly = Reassembly(coupling.shape_info, editor, rewrite, survivors)
    model.graph.node.extend(reassembly.nodes())
    weights = place_weights(model, graph, reassembly.outside())
    folder = graph.folder
    if has_external(graph):
        # Beside the result only what becomes a part of it: a file that is linked there.
        beside = None if graph.home.in_one_file else scratch
        folder = Path(tempfile.mkdtemp(prefix=".prunegraph-", dir=beside))
        write_stream(model, weights, folder / SCRATCH, graph.folder)
    else:
        for tensor in weights:
            model.graph.initializer.append(tensor)
    drop_unused(model.graph, graph.model.graph)
    declare_values(model.graph, survivors)
    declare_interface(model.graph, survivors)
    result = Graph(
        model,
        folder=folder,
        source=graph.source,
        scratch=folder != graph.folder,
        intake=graph.intake.then(_slicings(survivors)),
        home=graph.home,
    )
    _check(result, graph)
    return result


def _slicings(survivors: Survivors) -> dict[str, Slicing]:
    """What inputs lose, by name."""
    result = {}
    for name in survivors.coupling.graph.inputs:
        shape = survivors.coupling.shape_info.shapes[name]
        kept = {
            axis: each
            for axis, each in enumerate(survivors.value(name))
            if each is not None
        }
        if kept:
            result[name] = Slicing(kept, {axis: shape[axis] for axis in kept})
    return result


def _replaced_by_gathers(survivors: Survivors) -> set[int]:
    """Nodes inside channel shuffles that a cut turns into one Gather."""
    shuffles = survivors.coupling.shuffles.values()
    return {
        index
        for s in shuffles
        if survivors.value(s.source)[s.axis] is not None
        for index in s.inner
    }


def place_weights(
    model: onnx.ModelProto, graph: Graph, tensors: Mapping[str, LazyTensor]
) -> Iterator[onnx.TensorProto]:
    """The initializers of a rewritten model: new where `tensors` has them, else the graph's own.

    Tensors of `Constant` nodes, and inputs that declare an initializer's shape, are set in `model` at once.
    """
    remaining = dict(tensors)
    for node in model.graph.node:
        if is_constant(node) and node.output[0] in remaining:
            del node.attribute[:]
            node.attribute.append(
                helper.make_attribute("value", remaining.pop(node.output[0])())
            )
    old = {tensor.name for tensor in graph.model.graph.initializer}
    declared = {entry.name: entry for entry in model.graph.input}
    for name in remaining:
        if name in declared:
            entry, tensor = declared[name], remaining[name]()
            entry.CopyFrom(
                helper.make_tensor_value_info(
                    name, tensor.data_type, tensor.dims, entry.doc_string
                )
            )
        elif model.ir_version < 4 and name not in old:
            tensor = remaining[name]()
            model.graph.input.append(
                helper.make_tensor_value_info(name, tensor.data_type, tensor.dims)
            )
    return _initializers(graph, remaining)


def _initializers(
    graph: Graph, remaining: dict[str, LazyTensor]
) -> Iterator[onnx.TensorProto]:
    for tensor in graph.model.graph.initializer:
        make = remaining.pop(tensor.name, None)
        yield make() if make else tensor
    for make in remaining.values():
        yield make()


def _check(result: Graph, original: Graph) -> None:
    """Strict shape inference, where the original passes it: a check that needs no run."""
    try:
        onnx.shape_inference.infer_shapes(
            skeleton(result, keep_declared=True), strict_mode=True
        )
    except onnx.shape_inference.InferenceError as error:
        try:
            onnx.shape_inference.infer_shapes(
                skeleton(original, keep_declared=True), strict_mode=True
            )
        except (onnx.shape_inference.InferenceError, ValueError):
            return
        raise ModelError(
            f"{original.source}: shapes do not fit after the cut: {error}"
        ) from error
    except (
        ValueError
    ):  # a name that is no text, sizes beyond memory: ONNX's inference cannot say anything
        return


class NodeEdit:
    """One node during a cut: what `ops.rule.Edit` promises."""

    def __init__(self, node: Node, survivors: Survivors, operands: Operands):
        self.node, self.survivors, self.operands = node, survivors, operands
        self.coupling = survivors.coupling
        self.shape_info = self.coupling.shape_info
        self.proto = onnx.NodeProto()
        self.proto.CopyFrom(node.proto)
        self.before: list[onnx.NodeProto] = []
        self.after: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []
        self._wanted: dict[int, Array] = {}
        self._replaced: set[int] = set()

    def run(self) -> None:
        node = self.node
        if is_constant(node):
            return
        for slot, value in enumerate(node.inputs):
            now = self.operands.as_cut.get(value, value)
            self.proto.input[slot] = self.operands.renamed.get((node.index, slot), now)
        if node.outputs and all(output in self.shape_info.known for output in node.outputs):
            self._keep_outputs()
            return
        shuffle = self.coupling.shuffles.get(node.index)
        if shuffle is not None:
            self._cut_shuffle(shuffle)
            return
        for attribute, (labels, times) in self.coupling.attributes.get(
            node.index, {}
        ).items():
            if self.survivors.kept(labels) is not None:
                self.set_attribute(attribute, self.survivors.size(labels) * times)
        for slot in self.coupling.operands.get(node.index, ()):
            if self.is_cut(node.outputs[0]):
                rank = len(self.shape_info.shapes[node.outputs[0]])
                self.want(
                    slot,
                    np.asarray(
                        [self.size(node.outputs[0], axis) for axis in range(rank)], np.int64
                    ),
                )
        rule = rule_for(node)
        if rule is not None and rule.fix_up is not None and self.coupling.is_followed(node):
            rule.fix_up(self)
        self._settle_operands()

    def _keep_outputs(self) -> None:
        """Numbers that a caller or a subgraph reads keep their values under their names."""
        for slot, value in enumerate(self.node.outputs):
            if value in self.operands.as_cut:
                self.proto.output[slot] = self.operands.as_cut[value]
                known = self.shape_info.known[value]
                current, nodes, tensors = self.operands.corrected(
                    value, known, f"{value}/kept"
                )
                name = self.operands.names.new(f"{value}/kept/output")
                self.after += [
                    *nodes,
                    helper.make_node("Identity", [current], [value], name=name),
                ]
                self.tensors += tensors

    def _cut_shuffle(self, shuffle: Shuffle) -> None:
        if self.is_cut(shuffle.source, shuffle.axis):
            position = shuffle.order[self.kept(shuffle.output, shuffle.axis)]
            new = np.searchsorted(self.kept(shuffle.source, shuffle.axis), position)
            self.gather(shuffle.source, shuffle.axis, new)
        else:
            self._settle_operands()

    def _settle_operands(self) -> None:
        """Operands that are shape arithmetic keep their values, or get the wanted ones."""
        for slot, value in enumerate(self.node.inputs):
            if not value or slot in self._replaced:
                continue
            wanted = self._wanted.get(slot, self.shape_info.known.get(value))
            if wanted is None or self.operands.holds(value, wanted):
                continue
            name = f"{self.node.name}/input_{slot}"
            current, nodes, tensors = self.operands.corrected(value, wanted, name)
            self.before += nodes
            self.tensors += tensors
            self.proto.input[slot] = current

    # -- what rules call ----------------------------------------------------------------

    def _kept(self, value: str, axis: int) -> Array | None:
        # A weight is cut as this node reads it.
        slot = self.node.inputs.index(value) if value in self.node.inputs else -1
        labels = (
            self.coupling.value_labels(value, self.node.index if slot >= 0 else -1, slot)
            or ()
        )
        return self.survivors.kept(labels[axis]) if labels else None

    def kept(self, value: str, axis: int) -> Array:
        kept = self._kept(value, axis)
        return np.arange(self.shape_info.shapes[value][axis]) if kept is None else kept

    def size(self, value: str, axis: int) -> int:
        kept = self._kept(value, axis)
        return self.shape_info.shapes[value][axis] if kept is None else len(kept)

    def is_cut(self, value: str, axis: int | None = None) -> bool:
        axes = range(len(self.shape_info.shapes[value])) if axis is None else (axis,)
        return any(self._kept(value, each) is not None for each in axes)

    def set_attribute(self, name: str, value: Any) -> None:
        for index, attribute in enumerate(self.proto.attribute):
            if attribute.name == name:
                del self.proto.attribute[index]
                break
        if value is not None:
            self.proto.attribute.append(helper.make_attribute(name, value))

    def set_input(self, slot: int, value: Array) -> None:
        while len(self.proto.input) <= slot:
            self.proto.input.append("")
        tensor = numpy_helper.from_array(
            value, self.operands.names.new(f"{self.node.name}/input_{slot}")
        )
        self.tensors.append(tensor)
        self.proto.input[slot] = tensor.name
        self._replaced.add(slot)

    def want(self, slot: int, value: Array) -> None:
        self._wanted[slot] = value

    def gather(self, source: str, axis: int, index: Array) -> None:
        tensor = numpy_helper.from_array(
            index.astype(np.int64), self.operands.names.new(f"{self.node.name}/indices")
        )
        self.tensors.append(tensor)
        replaced = helper.make_node(
            "Gather",
            [source, tensor.name],
            list(self.node.outputs),
            name=self.proto.name,
            axis=axis,
        )
        replaced.doc_string = self.proto.doc_string
        self.proto = replaced
        self._replaced.update(range(len(self.node.inputs)))

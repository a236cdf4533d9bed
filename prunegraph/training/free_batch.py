"""A graph with a fixed batch rewritten so that any number of samples may run at once.

What holds the batch's size as a number follows the inputs: shapes of Reshape, sizes of Resize, constants that are
joined with samples (class tokens), initial states. Which axis of a value the batch is on is read off the shapes at the
given size and at twice that size. Nothing here says that the result is right: `prunegraph.training.batching` runs it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import helper, numpy_helper

from prunegraph.graph.external import without_weights
from prunegraph.graph.inference import stepwise
from prunegraph.graph.model import Graph, Node
from prunegraph.graph.names import Names
from prunegraph.graph.shape_info import ShapeInfo
from prunegraph.graph.shapes import shape_info
from prunegraph.operators import info

Array = np.ndarray
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Replaced:
    """A shape whose number on one axis became -1: what it was."""

    axis: int
    size: int


@dataclass
class _Edits:
    """What changes in the main graph, by the outputs of a node; nodes in front of it."""

    inputs: dict[tuple[str, ...], dict[int, str]] = field(default_factory=dict)
    before: dict[tuple[str, ...], list[onnx.NodeProto]] = field(default_factory=dict)
    tensors: list[onnx.TensorProto] = field(default_factory=list)
    replaced: dict[str, Replaced] = field(default_factory=dict)


def freed(graph: Graph, size: int) -> tuple[Graph, dict[str, Replaced]]:
    """The graph with a symbolic batch where it has `size`, and which shapes were changed, by constant."""
    walk = _BatchWalk(graph, size)
    for node in graph.nodes:
        walk.visit(node)
    return walk.graph_with(walk.edits), walk.edits.replaced


class _BatchWalk:
    """Goes through the nodes once, with shapes at the batch and at twice the batch."""

    def __init__(self, graph: Graph, size: int):
        self.graph, self.size = graph, size
        self.here: ShapeInfo = shape_info(graph)
        sizes = {name: _doubled(shape, size) for name, shape in self.here.sizes.items()}
        self.there, self.infer = stepwise(graph, sizes, self.here.dead)
        self.edits, self.names = _Edits(), Names(graph)
        self.rules: dict[str, Callable[[Node], None]] = {
            "Reshape": self._reshape,
            "Resize": self._resize,
            "Concat": self._concat,
        }

    def visit(self, node: Node) -> None:
        rule = self._states if info(node).is_recurrent else self.rules.get(node.op)
        if rule is not None and node.subgraph is None and not node.domain:
            rule(node)
        if node.outputs[0] not in self.there.shapes:
            self.infer(node)

    def axis(self, value: str) -> int | None:
        """The axis on which the batch lies, or None where the value does not have one."""
        here, there = self.here.shapes.get(value), self.there.shapes.get(value)
        if here is None or there is None or len(here) != len(there):
            return None
        axes = [
            axis for axis, (a, b) in enumerate(zip(here, there, strict=True)) if b == 2 * a
        ]
        return (
            axes[0]
            if len(axes) == 1 and sum(a != b for a, b in zip(here, there, strict=True)) == 1
            else None
        )

    # -- operators ------------------------------------------------------------------

    def _reshape(self, node: Node) -> None:
        data, output = node.inputs[0], node.outputs[0]
        axis, target = self.axis(data), self._constant(node.input(1))
        before, after = self.here.shapes.get(data), self.here.shapes.get(output)
        if (
            axis is None
            or target is None
            or before is None
            or after is None
            or len(target) != len(after)
        ):
            return
        ahead = int(np.prod(before[:axis], dtype=np.int64))
        place = next(
            (
                k
                for k in range(len(after))
                if int(np.prod(after[:k], dtype=np.int64)) == ahead
                and after[k]
                and after[k] % self.size == 0
            ),
            None,
        )
        if place is None:
            return
        self.there.shapes[output] = (*after[:place], 2 * after[place], *after[place + 1 :])
        self.there.types[output] = self.there.types.get(data, onnx.TensorProto.FLOAT)
        if target[place] == -1 or (target[place] == 0 and place == axis):
            return
        values = self._target(target, after, place)
        name = self._add(values, f"{node.name}/free_shape")
        self.edits.replaced[name] = Replaced(place, after[place])
        self._read(node, 1, name)

    def _target(self, target: Array, after: Shape, place: int) -> Array:
        """The shape with -1 where the batch is; a -1 elsewhere becomes the number it stands for."""
        values = [after[k] if size == -1 else int(size) for k, size in enumerate(target)]
        values[place] = -1
        return np.array(values, np.int64)

    def _resize(self, node: Node) -> None:
        axis, sizes = self.axis(node.inputs[0]), self._constant(node.input(3))
        if axis is None or sizes is None or "axes" in node.attributes:
            return
        parts = [sizes[:axis], None, sizes[axis + 1 :]]
        self._read(node, 3, self._joined(node, parts, node.inputs[0], axis))
        shape = [int(size) for size in sizes]
        shape[axis] *= 2
        self.there.shapes[node.outputs[0]] = tuple(shape)
        self.there.types[node.outputs[0]] = self.there.types.get(
            node.inputs[0], onnx.TensorProto.FLOAT
        )

    def _concat(self, node: Node) -> None:
        """Values without a batch, joined with others that have one, are repeated for every sample."""
        source = next(
            (value for value in node.inputs if self.axis(value) is not None), None
        )
        axis = self.axis(source) if source is not None else None
        rank = len(self.here.shapes.get(node.inputs[0], ()))
        if (
            source is None
            or axis is None
            or axis == int(node.attributes["axis"]) % max(rank, 1)
        ):
            return
        for slot, value in enumerate(node.inputs):
            shape = self.there.shapes.get(value)
            if (
                self.axis(value) is None
                and shape is not None
                and len(shape) > axis
                and shape[axis] == 1
            ):
                self._read(node, slot, self._repeated(node, value, shape, source, axis))
        shapes = [
            list(self.here.shapes[value])
            for value in node.inputs
            if value in self.here.shapes
        ]
        if len(shapes) == len(node.inputs) and node.outputs[0] in self.here.shapes:
            whole = list(self.here.shapes[node.outputs[0]])
            whole[axis] *= 2
            self.there.shapes[node.outputs[0]] = tuple(whole)
            self.there.types[node.outputs[0]] = self.there.types.get(
                source, onnx.TensorProto.FLOAT
            )

    def _states(self, node: Node) -> None:
        """Initial states that are numbers of the file: zeros are what the operator starts with by itself."""
        axis = 0 if node.attributes.get("layout", 0) else 1
        for slot in info(node).states:
            value = node.input(slot)
            shape = self.there.shapes.get(value)
            if (
                not value
                or self.axis(value) is not None
                or shape is None
                or self.axis(node.inputs[0]) != axis
            ):
                continue
            weight = self.graph.weights.get(value)
            if weight is not None and not np.any(weight.read()):
                self._read(node, slot, "")
            elif shape[axis] == 1:
                self._read(
                    node, slot, self._repeated(node, value, shape, node.inputs[0], axis)
                )

    # -- what is added --------------------------------------------------------------

    def _constant(self, value: str) -> Array | None:
        """Whole numbers that do not follow the batch: they are in the file, or computed from what is."""
        here, there = self.here.constant(value), self.there.constant(value)
        if here is None or there is None or here.dtype != np.int64 or here.ndim != 1:
            return None
        return here if np.array_equal(here, there) else None

    def _add(self, values: Array, name: str) -> str:
        name = self.names.new(name)
        self.edits.tensors.append(
            numpy_helper.from_array(np.asarray(values, np.int64), name)
        )
        return name

    def _node(self, reader: Node, op: str, inputs: Sequence[str], **attributes: int) -> str:
        output = self.names.new(f"{reader.name}/free_{op.lower()}")
        node = helper.make_node(op, list(inputs), [output], name=output)
        node.attribute.extend(
            helper.make_attribute(name, value) for name, value in attributes.items()
        )
        self.edits.before.setdefault(reader.outputs, []).append(node)
        return output

    def _read(self, node: Node, slot: int, value: str) -> None:
        self.edits.inputs.setdefault(node.outputs, {})[slot] = value

    def _joined(
        self, node: Node, parts: Sequence[Array | None], source: str, axis: int
    ) -> str:
        """Numbers in a row; the one that is None is a value's size on an axis."""
        shape = self._node(node, "Shape", [source])
        size = self._node(
            node,
            "Gather",
            [shape, self._add(np.array([axis]), f"{node.name}/free_axis")],
            axis=0,
        )
        names = []
        for part in parts:
            if part is None:
                names.append(size)
            elif len(part):
                names.append(self._add(part, f"{node.name}/free_sizes"))
        return self._node(node, "Concat", names, axis=0)

    def _repeated(
        self, node: Node, value: str, shape: Shape, source: str, axis: int
    ) -> str:
        ones = np.ones(len(shape), np.int64)
        target = self._joined(node, [ones[:axis], None, ones[axis + 1 :]], source, axis)
        return self._node(node, "Expand", [value, target])

    # -- the graph ------------------------------------------------------------------

    def graph_with(self, edits: _Edits) -> Graph:
        model = without_weights(self.graph.model)
        nodes = []
        for proto in model.graph.node:
            key = tuple(proto.output)
            nodes += edits.before.get(key, [])
            for slot, value in edits.inputs.get(key, {}).items():
                proto.input[slot] = value
            nodes.append(proto)
        protos = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del model.graph.node[:]
        model.graph.node.extend(protos)
        del model.graph.value_info[:]
        symbol = _symbol(model)
        for entry in model.graph.input:
            if entry.name in self.graph.inputs:
                dims = entry.type.tensor_type.shape.dim
                if dims and dims[0].dim_value == self.size:
                    dims[0].dim_param = symbol
        for entry in model.graph.output:
            axis, dims = self.axis(entry.name), entry.type.tensor_type.shape.dim
            if axis is not None and axis < len(dims):
                dims[axis].dim_param = symbol
        model.graph.initializer.extend(
            [*self.graph.model.graph.initializer, *edits.tensors]
        )
        return Graph(
            model, folder=self.graph.folder, source=self.graph.source, keeps=self.graph
        )


def _doubled(shape: Shape, size: int) -> Shape:
    return (2 * shape[0], *shape[1:]) if shape and shape[0] == size else shape


def _symbol(model: onnx.ModelProto) -> str:
    """A name for the batch that no other size has."""
    entries = (*model.graph.input, *model.graph.output)
    taken = {dim.dim_param for entry in entries for dim in entry.type.tensor_type.shape.dim}
    name = "batch"
    while name in taken:
        name += "_"
    return name

"""Weights that an exporter computes from parameters, as weights again.

Exporters leave transposed, sliced and repacked parameters to nodes. What depends on nothing but
constants is computed here; where it is moved parameters, the same nodes run on the numbers of the
elements say which ones (`prunegraph.graph.sources`). Parameters that are computed with stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from prunegraph.graph import onnx_io
from prunegraph.graph.control import SUBGRAPHS
from prunegraph.graph.names import names_in, redirect
from prunegraph.graph.shapes import shape_info
from prunegraph.graph.sources import Packed, Sources, Whole
from prunegraph.graph.varying import varies
from prunegraph.operators import (
    info,
    is_cast,
    is_concat,
    is_constant,
    is_dropout,
    is_identity,
    is_transpose,
    moves_data,
)

Array = np.ndarray


def fold(
    model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]], names: Mapping[str, str]
) -> tuple[onnx.ModelProto, Sources]:
    """Compute constants, and say where weights come from.

    Args:
        model: the exported model; its nodes are in topological order. Changed in place.
        shapes: of the module's parameters and buffers, by name.
        names: initializers that are parameters or buffers -> which.

    Returns:
        The model, and the origins of its weights.
    """
    folder = _Folder(model, shapes, names)
    folder.run()
    return model, Sources(shapes, folder.origins)


class _Folder:
    def __init__(
        self,
        model: onnx.ModelProto,
        shapes: Mapping[str, tuple[int, ...]],
        names: Mapping[str, str],
    ):
        self.model = model
        self.values: dict[str, Array] = {
            t.name: numpy_helper.to_array(t) for t in model.graph.initializer
        }
        self.origins: dict[str, Whole | Packed] = {
            name: Whole(names[name], tuple(range(value.ndim)))
            for name, value in self.values.items()
            if name in names
        }
        self._numbers = Sources(shapes, {})
        self._info = shape_info(onnx_io.from_model(model))

    def run(self) -> None:
        graph = self.model.graph
        old, kept, carriers = set(self.values), [], []
        for node in graph.node:
            if is_constant(node):
                self.values.update(_constant(node, self.model))
                carriers.append(node)
            elif self._is_foldable(node):
                self._fold(node)
            else:
                kept.append(node)
        kept, read = _needed(kept, {output.name for output in graph.output})
        names = self._names(read - old)
        for node in kept:
            redirect(node, names)
        del graph.node[:]
        graph.node.extend([*(node for node in carriers if node.output[0] in read), *kept])
        carried = {node.output[0] for node in carriers}
        self._set_weights(
            [name for name in self.values if name in read and name not in carried], names
        )
        self._name_layers(graph.node)

    def _is_foldable(self, node: onnx.NodeProto) -> bool:
        given = [value for value in node.input if value]
        if node.domain not in ("", "ai.onnx") or _is_left(node) or not given:
            return False
        if any(self._value(value) is None for value in given):
            return False
        blind = info(node).unread
        moved = [
            slot
            for slot, value in enumerate(node.input)
            if value in self.origins and slot not in blind
        ]
        if not moved:
            return all(value in self.values for value in given)
        return is_concat(node) or (moves_data(node) and moved == [0])

    def _value(self, name: str) -> Array | None:
        """A constant, or a size that is the same for all inputs."""
        if name not in self.values:
            known = self._info.known.get(name)
            return None if known is None or varies(self._info, name).any() else known
        return self.values[name]

    def _fold(self, node: onnx.NodeProto) -> None:
        blind = info(node).unread
        sources = [
            v
            for slot, v in enumerate(node.input)
            if v in self.origins and slot not in blind
        ]
        self._evaluate(node)
        if not sources:
            return
        whole = self._transposed(node, sources[0])
        if whole is not None:
            self.origins[node.output[0]] = whole
            return
        given = [
            self._elements(v) if is_concat(node) or slot == 0 else self._constant(v)
            for slot, v in enumerate(node.input)
            if v
        ]
        moved = given if is_cast(node) else _run(node, given, self.model)
        for output, elements in zip(node.output, moved, strict=True):
            self.origins[output] = Packed(elements)

    def _evaluate(self, node: onnx.NodeProto) -> None:
        results = _run(
            node, [self._constant(value) for value in node.input if value], self.model
        )
        self.values.update(zip(node.output, results, strict=True))

    def _constant(self, name: str) -> Array:
        value = self._value(name)
        assert value is not None
        return value

    def _transposed(self, node: onnx.NodeProto, source: str) -> Whole | None:
        origin = self.origins[source]
        if not isinstance(origin, Whole) or not (
            is_transpose(node) or is_identity(node) or is_cast(node)
        ):
            return None
        axes = tuple(range(len(origin.order)))
        if is_transpose(node):
            axes = next(
                (tuple(a.ints) for a in node.attribute if a.name == "perm"), axes[::-1]
            )
        return Whole(origin.tensor, tuple(origin.order[axis] for axis in axes))

    def _elements(self, value: str) -> Array:
        origin = self.origins.get(value)
        if origin is None:
            return np.full(self.values[value].shape, -1, np.int64)
        if isinstance(origin, Packed):
            return origin.elements
        return self._numbers.elements(origin.tensor).transpose(origin.order)

    def _names(self, computed: set[str]) -> dict[str, str]:
        """Names of the module for weights that were computed: a transposed parameter has its own name."""
        taken = {*self.values, *names_in(self.model.graph)}
        result: dict[str, str] = {}
        for value in sorted(computed & set(self.values)):
            origin = self.origins.get(value)
            if isinstance(origin, Whole):
                name = f"{origin.tensor}.transposed"
                if name not in taken:
                    result[value] = name
                    taken.add(name)
        return result

    def _name_layers(self, nodes: Sequence[onnx.NodeProto]) -> None:
        """Nodes with a parameter `layer.weight` are called `layer`."""
        taken = {node.name for node in nodes}
        for node in nodes:
            tensors = [
                o.tensor for v in node.input if isinstance(o := self.origins.get(v), Whole)
            ]
            name = tensors[0].rpartition(".")[0] if tensors else ""
            if name and name not in taken:
                node.name = name
                taken.add(name)

    def _set_weights(self, read: Sequence[str], names: Mapping[str, str]) -> None:
        graph = self.model.graph
        old = {tensor.name: tensor for tensor in graph.initializer}
        tensors = [
            old.get(name)
            # Not by ascontiguousarray: it makes vectors of scalars.
            or numpy_helper.from_array(np.asarray(self.values[name], order="C"), name)
            for name in read
        ]
        for tensor in tensors:
            tensor.name = names.get(tensor.name, tensor.name)
        copies = [
            onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in tensors
        ]
        del graph.initializer[:]
        graph.initializer.extend(copies)
        self.origins = {
            names.get(name, name): origin
            for name, origin in self.origins.items()
            if name in read
        }


def _is_left(node: onnx.NodeProto) -> bool:
    """Tell whether a node's result is not the same every time, or it runs other graphs."""
    return info(node).is_random or is_dropout(node) or node.op_type in SUBGRAPHS


def _constant(node: onnx.NodeProto, model: onnx.ModelProto) -> dict[str, Array]:
    """The value of a Constant node, by its name."""
    if node.attribute[0].name == "value":
        return {node.output[0]: numpy_helper.to_array(node.attribute[0].t)}
    return {node.output[0]: _run(node, [], model)[0]}


def _needed(
    nodes: Sequence[onnx.NodeProto], read: set[str]
) -> tuple[list[onnx.NodeProto], set[str]]:
    """Nodes on which the outputs depend, and all values that are read."""
    kept = []
    for node in reversed(nodes):
        if read & set(node.output):
            kept.append(node)
            read |= _reads(node)
    return kept[::-1], read


def _reads(node: onnx.NodeProto) -> set[str]:
    """Values that a node reads, also those its subgraphs take from outside."""
    inner = {
        v
        for a in node.attribute
        for g in (a.g, *a.graphs)
        for each in g.node
        for v in _reads(each)
    }
    return {*node.input, *inner} - {""}


def _run(
    node: onnx.NodeProto, given: Sequence[Array], model: onnx.ModelProto
) -> list[Array]:
    """One node by ONNX's reference implementation."""
    names = [value for value in node.input if value]
    inputs = dict(zip(names, given, strict=True))
    entries = [
        helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape
        )
        for name, value in inputs.items()
    ]
    outputs = [helper.make_empty_tensor_value_info(name) for name in node.output]
    whole = helper.make_model(
        helper.make_graph([node], "fold", entries, outputs),
        opset_imports=list(model.opset_import),
        ir_version=10,
    )
    return [np.asarray(result) for result in ReferenceEvaluator(whole).run(None, inputs)]

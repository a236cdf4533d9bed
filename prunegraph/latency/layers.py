"""The latency table: every layer timed alone, in a model of one node, at the widths in question.

A run of a model of one node is more than the node: what a run of next to nothing takes is in every time, and in that of
the whole model once. The table predicts. Fused activations, layout changes between layers and everything that is
no layer are not in it; what counts is measured on whole models (`prunegraph.latency.search`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from prunegraph.coupling.coupling import Coupling
from prunegraph.coupling.survivors import Survivors
from prunegraph.errors import MISFIT, PrunegraphError
from prunegraph.graph.model import Graph, Node
from prunegraph.graph.onnx_io import from_model
from prunegraph.latency.cache import Cache
from prunegraph.measuring.latency import Timer, product_model
from prunegraph.ops.cost import node_macs

Shape = tuple[int, ...]

#: Under which the cache has what a run takes that has next to nothing to do.
IDLE = "(a run)"


class LayerTable:
    """Times of a graph's layers (nodes that multiply and accumulate) at any widths.

    Args:
        coupling: the graph's analysis.
        timer: what measures a layer that is not in the cache yet; None where nothing is to be measured.
        cache: where times are kept.
    """

    def __init__(self, coupling: Coupling, timer: Timer | None, cache: Cache):
        self.coupling, self.timer, self.cache = coupling, timer, cache
        shapes = coupling.shape_info.shapes
        self.layers = [node for node in coupling.graph.nodes if node_macs(node, shapes)]

    def predict(self, survivors: Survivors) -> float:
        """Milliseconds of one run of all layers, one after the other."""
        nodes = (node for node in self.layers if node.index not in survivors.gone)
        return self.idle + sum(self.net(node, survivors) for node in nodes)

    @property
    def idle(self) -> float:
        """Milliseconds of a run that has next to nothing to do; 0 where that was not measured."""
        if IDLE not in self.cache.layers and self.timer is not None:
            self.cache.layers[IDLE] = self._alone(lambda: product_model(1, 1))
        return self.cache.layers.get(IDLE, 0.0)

    def net(self, node: Node, survivors: Survivors) -> float:
        """Milliseconds of one layer at the widths that are left, as a part of a run."""
        return max(self.time(node, survivors) - self.idle, 0.0)

    def time(self, node: Node, survivors: Survivors) -> float:
        """Milliseconds of a run of one layer alone, at the widths that are left."""
        key = self.key(node, survivors)
        if key not in self.cache.layers:
            self.cache.layers[key] = self._alone(lambda: self._model(node, survivors))
        return self.cache.layers[key]

    def _alone(self, model: Callable[[], Graph]) -> float:
        """Milliseconds of a model by itself; 0 for one that does not run so: the table says nothing of it."""
        assert self.timer is not None
        try:
            return self.timer.alone(model())
        except (PrunegraphError, *MISFIT):
            return 0.0

    def estimate(self, survivors: Survivors) -> tuple[float, float, int] | None:
        """What the cache says without measuring: milliseconds of all layers before and after, and how many are guessed.

        A layer that was never timed at the widths that are left is taken to be as much faster as it has fewer MACs.
        None where some layer was never timed as it is.
        """
        whole = Survivors(self.coupling, {})
        before = after = self.idle
        guessed = 0
        for node in self.layers:
            full = self.cache.layers.get(self.key(node, whole))
            if full is None:
                return None
            before += max(full - self.idle, 0.0)
            if node.index in survivors.gone:
                continue
            now = self.cache.layers.get(self.key(node, survivors))
            if now is None:
                guessed += 1
                now = full * self._macs(node, survivors) / self._macs(node, whole)
            after += max(now - self.idle, 0.0)
        return before, after, guessed

    def work(self, node: Node, survivors: Survivors) -> tuple[int, int]:
        """MACs of a layer at the widths that are left, and the bytes of all it reads and writes, weights included."""
        shapes = self._shapes(node, survivors)
        types, weights = self.coupling.shape_info.types, self.coupling.graph.weights
        moved = 0
        for value in {*node.inputs, *node.outputs} - {""}:
            kind = (
                weights[value].tensor.data_type if value in weights else types.get(value, 0)
            )
            size = helper.tensor_dtype_to_np_dtype(kind).itemsize if kind else 0
            moved += math.prod(shapes.get(value, ())) * size
        return node_macs(node, shapes), moved

    def _macs(self, node: Node, survivors: Survivors) -> int:
        """MACs of a layer at the widths that are left."""
        return node_macs(node, self._shapes(node, survivors))

    def _shapes(self, node: Node, survivors: Survivors) -> dict[str, Shape]:
        """Shapes of all values, those of the layer at the widths that are left."""
        shapes = dict(self.coupling.shape_info.shapes)
        for slot, value in enumerate(node.inputs):
            if value:
                shapes[value] = self._shape(node, slot, survivors)
        for value in node.outputs:
            labels = self.coupling.labels.get(value)
            if labels is not None:
                shapes[value] = tuple(survivors.size(each) for each in labels)
        return shapes

    def key(self, node: Node, survivors: Survivors) -> str:
        """Operator, attributes, types and shapes: all that a layer's time depends on."""
        types, weights = self.coupling.shape_info.types, self.coupling.graph.weights
        attributes = sorted(
            str(helper.printable_attribute(a))
            for a in self._proto(node, survivors).attribute
        )
        inputs = []
        for slot, value in enumerate(node.inputs):
            kind = (
                weights[value].tensor.data_type if value in weights else types.get(value, 0)
            )
            shape = "x".join(map(str, self._shape(node, slot, survivors))) if value else "-"
            inputs.append(f"{'W' if self._is_weight(value) else ''}{shape}:{kind}")
        return f"{node.domain}{node.op} {node.version} [{', '.join(attributes)}] {' '.join(inputs)}"

    def _shape(self, node: Node, slot: int, survivors: Survivors) -> Shape:
        """Shape of an input at the widths that are left."""
        value = node.inputs[slot]
        labels = self.coupling.value_labels(value, node.index, slot)
        if labels is not None:
            return tuple(survivors.size(each) for each in labels)
        weight = self.coupling.graph.weights.get(value)
        return (
            weight.shape if weight is not None else self.coupling.shape_info.shapes[value]
        )

    def _is_weight(self, value: str) -> bool:
        return bool(value) and self.coupling.graph.weight_behind(value) is not None

    def _proto(self, node: Node, survivors: Survivors) -> onnx.NodeProto:
        """The node with the attributes that follow its widths."""
        proto = onnx.NodeProto()
        proto.CopyFrom(node.proto)
        for name, (labels, times) in self.coupling.attributes.get(node.index, {}).items():
            kept = [a for a in proto.attribute if a.name != name]
            del proto.attribute[:]
            proto.attribute.extend(
                [*kept, helper.make_attribute(name, survivors.size(labels) * times)]
            )
        return proto

    def _model(self, node: Node, survivors: Survivors) -> Graph:
        """A model of that one node; weights are constants, so that they are packed as they are in the whole model."""
        graph, types = self.coupling.graph, self.coupling.shape_info.types
        tensors: dict[str, onnx.TensorProto] = {}
        inputs: dict[str, onnx.ValueInfoProto] = {}
        for slot, value in enumerate(node.inputs):
            if not value or value in tensors or value in inputs:
                continue
            shape = self._shape(node, slot, survivors)
            if self._is_weight(value):
                tensors[value] = numpy_helper.from_array(self._weight(value, shape), value)
            else:
                inputs[value] = helper.make_tensor_value_info(value, types[value], shape)
        outputs = [onnx.ValueInfoProto(name=name) for name in node.outputs if name]
        subgraph = helper.make_graph(
            [self._proto(node, survivors)],
            "layer",
            list(inputs.values()),
            outputs,
            list(tensors.values()),
        )
        opsets = [
            helper.make_opsetid(domain, version) for domain, version in graph.opsets.items()
        ]
        # Before IR 4, weights would have to be inputs too, and would not be packed.
        version = max(graph.model.ir_version, 4)
        return from_model(
            helper.make_model(subgraph, opset_imports=opsets, ir_version=version),
            source=node.name,
        )

    def _weight(self, value: str, shape: Sequence[int]) -> np.ndarray:
        """Values of a weight's kind: its own where it has some, so that scales and zero points are valid."""
        weight = self.coupling.graph.weights.get(value)
        if weight is not None:
            return np.resize(weight.read(), tuple(shape))
        dtype = helper.tensor_dtype_to_np_dtype(self.coupling.shape_info.types[value])
        return np.random.default_rng(0).standard_normal(tuple(shape)).astype(dtype)

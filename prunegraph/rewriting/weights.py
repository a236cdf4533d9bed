"""Weights of a rewritten model: which reader gets which version of a shared tensor."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import numpy_helper

from prunegraph.coupling.coupling import Coupling
from prunegraph.coupling.survivors import Own
from prunegraph.coupling.uses import Use
from prunegraph.graph.model import Graph, Weight
from prunegraph.graph.names import Names

Array = np.ndarray
Key = tuple[bytes | None, ...]

#: What to do to each axis of a weight: None for nothing, else the indices that stay.
Axes = list[Array | Own | None]

#: A tensor that is made when it is written, so that one is in memory at a time.
LazyTensor = Callable[[], onnx.TensorProto]

#: Makes the new values from the old ones.
Change = Callable[[Array, Axes], Array]


class WeightEditor:
    """New tensors for all weights that change, and new names for readers that part ways.

    After `run`, `tensors` maps a weight's (old or new) name to its tensor, `renamed` maps `(node
    index, slot)` to the name that input reads from now on, and `versions` new names to old ones. `names` gives
    fresh names for whatever else the rewrite adds.
    """

    def __init__(self, coupling: Coupling, plan: Callable[[Use], Axes], change: Change):
        self.graph: Graph = coupling.graph
        self.names = Names(self.graph)
        self.is_dead = coupling.shape_info.is_dead
        self.plan, self.change = plan, change
        self.uses = {(use.weight, use.node, use.slot): use for use in coupling.uses}
        self.tensors: dict[str, LazyTensor] = {}
        self.renamed: dict[tuple[int, int], str] = {}
        self.versions: dict[str, str] = {}

    def run(self) -> None:
        for name in dict.fromkeys(use.weight for use in self.uses.values()):
            self._edit(self.graph.weights[name])

    def _edit(self, weight: Weight) -> None:
        versions: dict[Key, list[tuple[int, int]]] = {}
        axes_of: dict[Key, Axes] = {}
        # An output, or a use in a subgraph, reads the weight as it is.
        if weight.name in self.graph.outputs:
            versions[(None,) * len(weight.shape)] = []
        for node, slot in self.graph.consumers.get(weight.name, ()):
            if self.is_dead(self.graph.nodes[node]):
                continue
            use = self.uses.get((weight.name, node, slot)) or self.uses.get(
                (weight.name, -1, -1)
            )
            nothing: Axes = [None] * len(weight.shape)
            axes = self.plan(use) if use is not None else nothing
            key: Key = tuple(None if kept is None else kept.tobytes() for kept in axes)
            versions.setdefault(key, []).append((node, slot))
            axes_of[key] = axes
        for index, (key, readers) in enumerate(versions.items()):
            changed = any(part is not None for part in key)
            name = (
                weight.name if index == 0 else self.names.new(f"{weight.name}/{index + 1}")
            )
            if changed or index:
                self.tensors[name] = self._lazy(weight, axes_of.get(key, []), name)
            if index:
                self.renamed.update(dict.fromkeys(readers, name))
                self.versions[name] = weight.name

    def _lazy(self, weight: Weight, axes: Axes, name: str) -> LazyTensor:
        return lambda: tensor_like(weight, self.change(weight.read(), axes), name)


def tensor_like(weight: Weight, values: Array, name: str) -> onnx.TensorProto:
    """A tensor with new values that keeps the old one's type and documentation."""
    tensor = numpy_helper.from_array(values, name)
    tensor.data_type = weight.tensor.data_type
    tensor.doc_string = weight.tensor.doc_string
    tensor.metadata_props.extend(weight.tensor.metadata_props)
    return tensor

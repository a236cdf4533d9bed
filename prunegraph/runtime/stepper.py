"""Running a graph piece by piece, for all samples: what the next piece needs is kept, nothing is run twice.

Sequential recovery changes one layer after the other and looks at what each gets from those
before it. Running the whole network for every layer would cost the square of its depth.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx

from prunegraph.graph import control
from prunegraph.graph.model import Graph, Node
from prunegraph.runtime.data import Batch
from prunegraph.runtime.memory import release
from prunegraph.runtime.piece import opened_piece, read_by
from prunegraph.runtime.session import run
from prunegraph.runtime.store import Store

Array = np.ndarray


class Stepper:
    """A graph that is run node by node, over all batches.

    Args:
        graph: the model.
        batches: the samples; they are kept like any other value.
        store: where values are kept.
        run_order: indices of the nodes in the order in which they run; a topological order.

    Raises:
        ModelError: a piece of the graph cannot be run by itself (a value that is no tensor,
            a type ONNX Runtime cannot hand over).
    """

    def __init__(
        self,
        graph: Graph,
        batches: Iterable[Batch],
        store: Store,
        run_order: Sequence[int] | None = None,
    ):
        self.graph = graph
        self.order = list(range(len(graph.nodes))) if run_order is None else list(run_order)
        self.place = {index: place for place, index in enumerate(self.order)}
        self.at = 0
        self.batches = 0
        self._store = store
        for index, batch in enumerate(batches):
            self.batches = index + 1
            for name, array in batch.items():
                self._store.put(index, name, array)
        self._last = {
            value: self.place[node.index]
            for node in self._outer()
            for value in read_by(node.proto)
        }

    def _outer(self) -> list[Node]:
        """The nodes that run, in order: those with subgraphs run as a whole, constants are weights."""
        nodes = [self.graph.nodes[index] for index in self.order]
        return [
            node
            for node in nodes
            if is_outer(node) and node.outputs[0] not in self.graph.weights
        ]

    def advance(
        self, until: int, weights: Mapping[str, Array], protos: Mapping[int, onnx.NodeProto]
    ) -> None:
        """Run the nodes before one that have not run yet.

        Args:
            until: index of the first node that is not run.
            weights: values that replace those of the graph.
            protos: nodes that replace those of the graph, by index.
        """
        stop = self.place[until]
        nodes = [node for node in self._outer() if self.at <= self.place[node.index] < stop]
        now = [protos.get(node.index, node.proto) for node in nodes]
        created = {output for proto in now for output in proto.output if output}
        read = {value for proto in now for value in read_by(proto)}
        needed = sorted(v for v in created if self._last.get(v, -1) >= stop)
        self.at = stop
        if needed:
            self._run(now, read - created, needed, weights)
        alive = {name for name in self._store.names() if self._last.get(name, -1) >= stop}
        self._store.drop(self._store.names() - alive)
        release()

    def value(self, name: str, batch: int) -> Array:
        """A value that has been made and is still needed, for one batch."""
        return self._store.get(batch, name)

    def _run(
        self,
        protos: Sequence[onnx.NodeProto],
        read: set[str],
        wanted: list[str],
        weights: Mapping[str, Array],
    ) -> None:
        given = {
            name: (self._store.get(0, name).dtype, self._store.shape(name))
            for name in sorted(read & self._store.names())
        }
        with opened_piece(
            self.graph, protos, given, wanted, weights, spins=False
        ) as opened:
            for batch in range(self.batches):
                inputs = {name: self._store.get(batch, name) for name in given}
                values = run(opened, inputs, wanted)
                for name, array in zip(wanted, values, strict=True):
                    self._store.put(batch, name, array)


def is_outer(node: Node) -> bool:
    """Tell whether a node stands in the file's main graph."""
    return node.subgraph is None and node.domain != control.DOMAIN

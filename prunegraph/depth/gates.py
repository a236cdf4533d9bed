"""A network with a gate on every residual branch: what its outputs lose without some of them, in one session.

Every branch is multiplied by an input of the network, which is 1 or 0, and another input is added: nothing, or what the
branch gives on average to each channel, which a repair puts back into a bias of the layers around it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from prunegraph.coupling.branches import Branch
from prunegraph.coupling.coupling import Coupling
from prunegraph.graph.model import Graph
from prunegraph.measuring import metrics
from prunegraph.measuring.metrics import Seen
from prunegraph.rewriting.rewriter import Rewriter
from prunegraph.runtime.data import Batch, Data
from prunegraph.runtime.session import run, session
from prunegraph.runtime.statistics import Statistics, batch_size
from prunegraph.tuning.branch_means import branch_means

Array = np.ndarray

#: Bytes of the original's outputs that are kept; larger ones are computed again each time.
KEPT = 2**28


@dataclass(frozen=True)
class _Gate:
    """Names of the two inputs of a branch, and what the second one is without the branch."""

    factor: str
    shift: str
    mean: Array


class GatedNetwork:
    """The network that branches can be taken out of one by one, without making another model.

    Args:
        coupling: that of the model.
        branches: those that have a gate.
        data: inputs that the outputs are compared on.
        with_means: whether a branch that is gone still gives its mean to each channel.

    Raises:
        DataError: the data do not fit the model, or no output is a number.
        ModelError: ONNX Runtime cannot run the model.
    """

    def __init__(
        self,
        coupling: Coupling,
        branches: Sequence[Branch],
        data: Data,
        *,
        with_means: bool,
    ):
        self._graph = coupling.graph
        self._data = data.fit(self._graph)
        means = (
            branch_means(coupling, branches, Statistics(self._graph, self._data))
            if with_means
            else {}
        )
        graph, self._gates = _gated(coupling, branches, means)
        self._session = session(graph, name=self._graph.source)
        every = [v for node in self._graph.nodes for v in node.outputs if v]
        self._size = batch_size(self._graph, self._data, every)
        self._kept: list[dict[str, Array]] = []
        self._is_kept = False

    def error(self, gone: Collection[str]) -> float:
        """Relative squared error of the outputs without some branches, by id; see `metrics.error`."""
        return metrics.error(self._seen(gone))

    def _seen(self, gone: Collection[str]) -> Iterator[Seen]:
        size, kept = 0, []
        batches = self._data.batches(self._graph, self._size)
        for index, batch in enumerate(batches):
            expected = (
                self._kept[index] if self._is_kept else self._outputs(batch, frozenset())
            )
            size += sum(each.nbytes for each in expected.values())
            kept += [expected] if size <= KEPT else []
            yield Seen(batch, expected, self._outputs(batch, gone) if gone else expected)
        if size <= KEPT:
            self._kept, self._is_kept = kept, True

    def _outputs(self, batch: Batch, gone: Collection[str]) -> dict[str, Array]:
        given = dict(batch)
        for branch, gate in self._gates.items():
            is_gone = branch in gone
            given[gate.factor] = np.asarray(not is_gone, gate.mean.dtype)
            given[gate.shift] = gate.mean if is_gone else np.zeros_like(gate.mean)
        names = self._graph.outputs
        return dict(zip(names, run(self._session, given, list(names)), strict=True))


def _gated(
    coupling: Coupling, branches: Sequence[Branch], means: dict[str, Array]
) -> tuple[Graph, dict[str, _Gate]]:
    """The network with two inputs more for every branch, and these by the branch's id."""
    graph, rewriter = coupling.graph, Rewriter(coupling.graph)
    gates: dict[str, _Gate] = {}
    declared: list[onnx.ValueInfoProto] = []
    for branch in branches:
        add = graph.nodes[branch.add]
        value = add.inputs[branch.slot]
        kind = coupling.shape_info.types[value]
        rank = len(coupling.shape_info.shapes[value])
        dtype = helper.tensor_dtype_to_np_dtype(kind)
        mean = means.get(branch.id, np.zeros((1,) * rank)).astype(dtype)
        gate = _Gate(
            rewriter.names.new(f"{add.name}/gate"),
            rewriter.names.new(f"{add.name}/shift"),
            mean,
        )
        declared += [
            helper.make_tensor_value_info(gate.factor, kind, []),
            helper.make_tensor_value_info(gate.shift, kind, mean.shape),
        ]
        product, total = (
            rewriter.names.new(f"{add.name}/{what}") for what in ("gated", "shifted")
        )
        rewriter.insert_before(
            add,
            helper.make_node("Mul", [value, gate.factor], [product], name=product),
            helper.make_node("Sum", [product, gate.shift], [total], name=total),
        )
        rewriter.set_input(add, branch.slot, total)
        gates[branch.id] = gate

    def declare(model: onnx.ModelProto) -> None:
        model.graph.input.extend(declared)

    return rewriter.finish(swept=False, change=declare), gates

"""`decompose` under a latency budget: decompositions of more and less strength are made and measured.

Strength is a bound on MACs. First every layer that would be decomposed is timed alone, as it is and as its chain; one
whose chain is no faster stays whole. Then the bound on MACs is bisected until the measured model meets the latency.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Unpack

import onnx
from onnx import helper

from prunegraph.errors import MISFIT, BudgetError, OptionError, PrunegraphError
from prunegraph.graph.model import Graph, Node
from prunegraph.graph.onnx_io import from_model
from prunegraph.graph.shapes import shape_info
from prunegraph.keywords import takes_options
from prunegraph.measuring.latency import Stopwatch, Timer
from prunegraph.rewriting.decompose import (
    DecomposeKeywords,
    DecomposeOptions,
    DecomposeResult,
    Known,
    Row,
    chain,
    decompose_layers,
)
from prunegraph.rewriting.fold import fold
from prunegraph.runtime.data import Samples
from prunegraph.runtime.runtimes import DEFAULT, find
from prunegraph.selection.budget import parse_latency

Progress = Callable[[str], None]

#: Whole models measured at most, pairs of sessions for each, and the share below the bound that ends the search.
MEASUREMENTS, PAIRS, NEAR = 8, 2, 0.04

SLOWER = "measured: its parts are no faster"


@takes_options(DecomposeOptions)
def decompose(
    model: Graph,
    *,
    latency: float | str | None = None,
    data: Samples | None = None,
    provider: str | None = None,
    threads: int = 1,
    runtime: str = DEFAULT,
    timer: Timer | None = None,
    progress: Progress = lambda stage: None,
    **options: Unpack[DecomposeKeywords],
) -> DecomposeResult:
    """Replace layers by chains of smaller ones of low rank, so that a latency, a cost or a rule is met.

    Args:
        model: the model; it is not changed.
        latency: upper bound on what the runtime takes, measured at batch 1: a fraction of the original (0.5) or a
            time ("12ms"). Instead of `rank`, `params` or `macs`.
        data: unlabelled inputs: parts are fitted to what the layers make of them, by least squares.
        provider: the runtime's device to measure on (see `prunegraph.runtime.runtimes`); the CPU by default.
        threads: to measure with; 0 leaves it to the runtime.
        runtime: what to measure in: "onnxruntime" or "openvino".
        timer: what measures, instead of that runtime.
        progress: told what was measured.
        options: those of `prunegraph.rewriting.decompose.DecomposeOptions`: method, rank, params, macs, keep, round_to
            and fold.

    Raises:
        BudgetError: the budget is malformed, given twice, or cannot be met.
        ModelError: the runtime cannot run the model.
        PrunegraphError: what `prunegraph.rewriting.decompose.decompose_layers` raises.
    """
    if latency is None:
        return decompose_layers(model, DecomposeOptions(**options), data=data)
    bound, is_share = parse_latency(latency)
    given = dict(options)
    for name in ("rank", "params", "macs"):
        if given.get(name) is not None:
            raise OptionError(f"give one of latency and {name}, not both")
    how = DecomposeOptions(**options)
    timer = timer or Stopwatch(model, runtime=find(runtime, provider, threads))
    share = bound if is_share else bound / timer.original()
    if how.fold:
        model, how = fold(model), replace(how, fold=False)
    search = _RankSearch(model, share, str(latency), timer, progress, how)
    result = search.run()
    if data is None:
        return result
    # Parts that are fitted have the same shapes, so the measurement holds.
    return replace(
        search.built(result, data), latency=result.latency, skipped=result.skipped
    )


class _RankSearch:
    """Looks for the decomposition whose measured latency is at the bound or a little below it."""

    def __init__(
        self,
        graph: Graph,
        share: float,
        label: str,
        timer: Timer,
        progress: Progress,
        options: DecomposeOptions,
    ):
        self.graph, self.share, self.label, self.timer, self.progress = (
            graph,
            share,
            label,
            timer,
            progress,
        )
        self.options = options
        self.slower: list[str] = []
        self.faster: dict[tuple[str, str, tuple[int, ...]], bool] = {}
        self.known = Known()

    def run(self) -> DecomposeResult:
        """The weakest decomposition that was found to meet the bound. Raises BudgetError."""
        low, high = 0.0, 1.0
        best: DecomposeResult | None = None
        least = float("inf")
        for _ in range(MEASUREMENTS):
            macs = (low + high) / 2
            result = self._at(macs)
            if result is None:
                low = macs
                continue
            assert result.latency is not None
            kept = result.latency.kept
            least = min(least, kept)
            self.progress(
                f"latency: {kept:.3f} of the original measured, bound {self.share:.3f}"
            )
            if kept > self.share:
                high = macs
                continue
            low = macs
            if best is None or best.latency is None or kept > best.latency.kept:
                best = result
            if kept >= self.share * (1 - NEAR):
                break
        if best is None:
            measured = (
                f"; the least measured is {least:.3f} of the original"
                if least < float("inf")
                else ""
            )
            raise BudgetError(
                f"latency cannot fall to {self.label} by decomposition{measured}: prune instead or as well"
            )
        return best

    def built(self, decomposed: DecomposeResult, data: Samples) -> DecomposeResult:
        """The same decomposition, fitted to data."""
        how = self._bounded(float(max(decomposed.after.macs, 2)))
        return decompose_layers(self.graph, how, data=data, known=self.known)

    def _bounded(self, macs: float) -> DecomposeOptions:
        """The options with a bound on MACs; layers that were measured to be slower stay whole."""
        keep = [*self.options.keep, *self.slower]
        return replace(self.options, macs=macs, keep=keep)

    def _at(self, macs: float) -> DecomposeResult | None:
        """A decomposition under a bound on MACs, measured; None where that many MACs cannot go."""
        while True:
            try:
                result = decompose_layers(self.graph, self._bounded(macs), known=self.known)
            except BudgetError:
                return None
            slower = [
                row.name for row in result.layers if not self._pays(result.model, row)
            ]
            if not slower:
                remaining = {
                    name: SLOWER if name in self.slower else reason
                    for name, reason in result.skipped.items()
                }
                return replace(
                    result,
                    skipped=remaining,
                    latency=self.timer.against(result.model, PAIRS),
                )
            self.slower += slower

    def _pays(self, pruned: Graph, row: Row) -> bool:
        """Tell whether a layer's parts were faster than the layer when they were timed."""
        key = row.name, row.method, row.ranks
        if key not in self.faster:
            self.faster[key] = self._is_faster(pruned, row.name)
        return self.faster[key]

    def _is_faster(self, pruned: Graph, name: str) -> bool:
        """Whether a layer's parts take less time than the layer, each alone; true where that cannot be measured."""
        node = self.graph.node(name)
        parts = chain(pruned, node)
        try:
            whole, low_rank = (
                self.timer.alone(_model(self.graph, *each, node))
                for each in ((self.graph, [node]), (pruned, parts))
            )
        except (PrunegraphError, *MISFIT):
            return True
        return low_rank < whole


def _model(source: Graph, graph: Graph, nodes: Sequence[Node], layer: Node) -> Graph:
    """A model of some nodes that read what a layer of the source reads, and make what it makes."""
    known = shape_info(source)
    given, output = layer.inputs[0], layer.outputs[0]
    x = helper.make_tensor_value_info(given, known.types[given], known.shapes[given])
    weights = dict.fromkeys(
        value for node in nodes for value in node.inputs if value in graph.weights
    )
    subgraph = helper.make_graph(
        [node.proto for node in nodes],
        "layer",
        [x],
        [onnx.ValueInfoProto(name=output)],
        [_tensor(graph, name) for name in weights],
    )
    opsets = [
        helper.make_opsetid(domain, version) for domain, version in graph.opsets.items()
    ]
    version = max(graph.model.ir_version, 4)
    return from_model(
        helper.make_model(subgraph, opset_imports=opsets, ir_version=version),
        source=layer.name,
    )


def _tensor(graph: Graph, name: str) -> onnx.TensorProto:
    return onnx.numpy_helper.from_array(graph.weights[name].read(), name)

"""What data show of a graph's values, gathered in a stream: moments by channel, Gram matrices of layer inputs.

Memory does not grow with the number of samples. What has been gathered is kept; of Gram matrices what is more than a
few megabytes lies in a temporary file.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar, cast

import numpy as np

from prunegraph.errors import DataError
from prunegraph.graph import linear
from prunegraph.graph.model import Graph, Node
from prunegraph.graph.shapes import shape_info
from prunegraph.runtime import patches
from prunegraph.runtime.data import Data
from prunegraph.runtime.gram import Gram, GramSum
from prunegraph.runtime.memory import release
from prunegraph.runtime.pairing import with_results
from prunegraph.runtime.row_mask import counted, find_mask
from prunegraph.runtime.session import run_batches
from prunegraph.runtime.triangles import Triangles, triangle_bytes

Array = np.ndarray
Progress = Callable[[str], None]

#: Bytes of values that are fetched at a time.
FETCH = 2**27

#: Samples that are run together at most.
MAX_BATCH = 64

#: Bytes of Gram matrices that are gathered in one pass.
GATHER = 2**29

#: Rows that a Gram matrix is made from, over all samples.
ROWS = 16384

#: Bytes of sampled values that are kept.
KEEP = 2**28

#: Layers with more inputs than this have no Gram matrix (it would take more than 500 MB).
MAX_INPUTS = 8192


class Accumulator(Protocol):
    """Takes in values batch by batch. `values` names them."""

    values: tuple[str, ...]

    def add(self, batch: int, *arrays: Array) -> None:
        """Take in the values of one batch."""


class ErrorMetrics(Protocol):
    """Says what errors of layers' outputs do at the network's outputs."""

    @property
    def is_known(self) -> bool:
        """Whether it is known of any layer."""

    def of(self, node: Node) -> Array | None:
        """M [outputs, outputs], float64: an error v of a layer's outputs counts `v' M v`. None where not known."""

    def contributions(self, node: Node) -> Array | None:
        """What each input channel of a layer adds to the network's outputs through it [samples, channels], float64.

        To first order, in a random direction of the outputs, relative to their variation. None where not known.
        """


A = TypeVar("A", bound=Accumulator)
T = TypeVar("T")


@dataclass
class ChannelMoments:
    """Of x over everything but one axis of a value: sums of x and its square, how many are zero or less, the lowest.

    `values` names the value, and maybe a mask: where that is 0, the value does not count.
    """

    values: tuple[str, ...]
    axis: int
    count: int = 0
    total: Array | float = 0.0
    squares: Array | float = 0.0
    inactive: Array | float = 0.0
    lowest: Array | float = np.inf

    def add(self, batch: int, *arrays: Array) -> None:
        x, axis = arrays[0], self.axis
        counts = counted(arrays[1], x) if len(arrays) > 1 else None
        if counts is not None and axis >= counts.ndim:
            x, axis = x[counts], axis - counts.ndim + 1
        x = np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1).astype(np.float64)
        self.count += x.shape[1]
        self.total = self.total + x.sum(axis=1)
        self.squares = self.squares + np.einsum("cn,cn->c", x, x)
        self.inactive = self.inactive + (x <= 0).sum(axis=1)
        self.lowest = np.minimum(self.lowest, x.min(axis=1, initial=np.inf))

    @property
    def mean(self) -> Array:
        return np.asarray(self.total) / max(self.count, 1)

    @property
    def energy(self) -> Array:
        """Mean of squares."""
        return np.asarray(self.squares) / max(self.count, 1)

    @property
    def std(self) -> Array:
        """Standard deviation (of the population)."""
        return np.sqrt(np.maximum(self.energy - self.mean**2, 0))

    @property
    def inactive_share(self) -> Array:
        """Share of values that are not positive: what a ReLU has set to zero."""
        return np.asarray(self.inactive) / max(self.count, 1)


class Statistics:
    """What a data set shows of a graph.

    Args:
        graph: the model.
        data: unlabelled samples.
        progress: called with a line for every batch.
        metrics: what says what errors of layers' outputs do; None where nothing does.

    Raises:
        DataError: the data do not fit the model.
    """

    def __init__(
        self,
        graph: Graph,
        data: Data,
        *,
        progress: Progress = lambda stage: None,
        metrics: ErrorMetrics | None = None,
    ):
        self.metrics = metrics
        self.graph, self.data, self.progress = graph, data.fit(graph), progress
        self.mask = find_mask(graph, self.data.mask_input)
        self._moments: dict[tuple[str, int], ChannelMoments] = {}
        self._grams: dict[str, Gram] = {}
        self._triangles = Triangles()
        self._samples: dict[tuple[str, int], Array] = {}
        self._kept: dict[str, Sequence[Accumulator]] = {}
        self._once: dict[str, object] = {}
        graph.cache.setdefault("statistics", weakref.WeakSet()).add(self)

    @classmethod
    def shared(
        cls, graph: Graph, data: Data, progress: Progress = lambda stage: None
    ) -> Statistics:
        """The statistics of a graph on these data that somebody still has, or new ones. Raises DataError."""
        for known in list(graph.cache.get("statistics", ())):
            if (
                known.data.reader is data.reader
                and known.data.mask_input == data.mask_input
            ):
                return cast("Statistics", known)
        return cls(graph, data, progress=progress)

    def of(self, data: Data) -> Statistics:
        """The same of other data."""
        return Statistics(
            self.graph,
            data,
            progress=self.progress,
            metrics=self.metrics,
        )

    def error_metric(self, node: Node) -> Array | None:
        """What errors of a layer's outputs do at the network's outputs (see `ErrorMetrics`); None where not known."""
        return self.metrics.of(node) if self.metrics is not None else None

    def contributions(self, node: Node) -> Array | None:
        """What a layer's input channels add to the network's outputs (see `ErrorMetrics`); None where not known."""
        return self.metrics.contributions(node) if self.metrics is not None else None

    def once(self, name: str, make: Callable[[], T]) -> T:
        """What was made under a name for the first who asked."""
        if name not in self._once:
            self._once[name] = make()
        return cast("T", self._once[name])

    def moments(self, wanted: Sequence[tuple[str, int]]) -> list[ChannelMoments]:
        """Moments along one axis of values, `(value, axis)` each."""
        if missing := self._missing(wanted):
            self.collect(list(missing.values()), "moments")
            self._moments.update(missing)
        return [self._moments[key] for key in wanted]

    def _missing(
        self, wanted: Iterable[tuple[str, int]]
    ) -> dict[tuple[str, int], ChannelMoments]:
        """Accumulators of moments that have not been gathered."""
        return {
            key: ChannelMoments(self.masked(key[0]), key[1])
            for key in wanted
            if key not in self._moments
        }

    def has_moments(self, wanted: Sequence[tuple[str, int]]) -> bool:
        """Tell whether moments have been gathered: whoever asks for others then should ask for many."""
        return all(key in self._moments for key in wanted)

    def sample(self, value: str, samples: int) -> Array:
        """A value on the first samples (all in one batch, unless the model's batch size is fixed); read-only.

        Raises:
            DataError: there are fewer samples than the model's batch size.
            ValueError: `samples` is below 1.
        """
        if samples < 1:
            raise ValueError(f"samples must be at least 1, got {samples}")
        key = (value, samples)
        if key not in self._samples:
            size = self.data.fixed(self.graph) or samples
            batches = list(self.data.head(max(samples, size)).batches(self.graph, size))
            if not batches:
                raise DataError(
                    f"{self.data.source}: has fewer samples than the model's batch size"
                )
            if value in self.graph.weights:
                parts = [self.graph.weights[value].read()]
            elif value in self.graph.inputs:
                parts = [batch[value] for batch in batches]
            else:
                parts = [values for (values,) in run_batches(self.graph, batches, [value])]
            # Whole feeds may differ in size; those that are like the first one count.
            parts = [
                part for part in parts if part.shape[1:] == parts[0].shape[1:] and part.ndim
            ]
            result = np.concatenate(parts) if len(parts) > 1 else parts[0].view()
            result.flags.writeable = False
            self._samples[key] = result
            while (
                sum(array.nbytes for array in self._samples.values()) > KEEP
                and len(self._samples) > 1
            ):
                del self._samples[next(iter(self._samples))]
        return self._samples[key]

    def gram(self, node: Node, others: Sequence[Node] | None = None) -> Gram | None:
        """The Gram matrix of a layer's input rows; None for a layer that has none (see `has_gram`).

        `others` are gathered in the same pass: the layers of which somebody will ask; None for all.
        """
        if not self.has_gram(node):
            return None
        if node.name not in self._grams:
            wanted = self.graph.layers if others is None else others
            self.gather([node, *(other for other in wanted if self.has_gram(other))])
        return self._grams[node.name]

    def has_gram(self, node: Node) -> bool:
        """Tell whether a layer is linear, with at most `MAX_INPUTS` inputs."""
        return linear.is_linear(self.graph, node) and self._inputs(node) <= MAX_INPUTS

    def has_grams(self, nodes: Iterable[Node]) -> bool:
        """Tell whether the Gram matrices of layers, as far as they have any, have been gathered."""
        return all(node.name in self._grams or not self.has_gram(node) for node in nodes)

    def gather(self, nodes: Sequence[Node], places: Iterable[tuple[str, int]] = ()) -> None:
        """Gather Gram matrices of layers, as many in one pass as memory allows.

        Layers that read the same rows share one. Moments at `places`, `(value, axis)` each, come from the first pass.
        """
        moments = self._missing(places)
        todo: dict[tuple[object, ...], list[Node]] = {}
        for node in {node.index: node for node in nodes}.values():
            if node.name not in self._grams:
                todo.setdefault(self.rows(node).key, []).append(node)
        waiting = list(todo.values())
        while waiting:
            now: list[list[Node]] = []
            size = 0
            while waiting and (not now or size + self._bytes(waiting[0][0]) <= GATHER):
                size += self._bytes(waiting[0][0])
                now.append(waiting.pop(0))
            sums = [GramSum(self.read_by(each[0]), self.rows(each[0])) for each in now]
            self.collect([*sums, *moments.values()], "Gram matrices")
            self._moments.update(moments)
            moments = {}
            for each in now:
                gram = sums.pop(0).result(self._triangles, each[0].name)
                if gram is None:
                    raise DataError(
                        f"{self.data.source}: the mask is 0 everywhere, no position counts"
                    )
                if not gram.is_finite:
                    raise DataError(
                        f"{self.data.source}: what layer {each[0].name!r} reads is not a number, or too large to be "
                        "squared; clean or scale the data"
                    )
                for node in each:
                    self._grams[node.name] = gram

    def rows(self, node: Node) -> patches.Rows:
        """The rows that are looked at of a layer."""
        per_sample = max(ROWS // self.data.samples, 16)
        return patches.Rows(node, self.graph.weights[node.inputs[1]].shape, per_sample)

    def masked(self, value: str) -> tuple[str, ...]:
        """A value's name, and that of the mask where its first axes are the mask's."""
        mask = self.mask.of(value) if self.mask is not None else ""
        return (value, mask) if mask else (value,)

    def read_by(self, node: Node) -> tuple[str, ...]:
        """The name of what a layer reads, and that of the mask where it says which of the rows count."""
        value = node.inputs[0]
        return self.masked(value) if self.rows(node).is_masked else (value,)

    def collected(self, name: str, make: Callable[[], Sequence[A]]) -> Sequence[A]:
        """Accumulators that were fed once and are kept under a name; `make` makes them for the first who asks."""
        if name not in self._kept:
            created = make()
            if created:
                self.collect(created, name)
            self._kept[name] = created
        return cast("Sequence[A]", self._kept[name])

    def collect(
        self,
        accumulators: Sequence[Accumulator],
        what: str = "statistics",
        size: int | None = None,
    ) -> None:
        """Run the data through the graph once, and feed the accumulators; `size` samples at a time."""
        names = list(dict.fromkeys(name for each in accumulators for name in each.values))
        given = [name for name in names if name in self.graph.inputs]
        fixed = {
            name: self.graph.weights[name].read()
            for name in names
            if name in self.graph.weights
        }
        computed = [
            name for name in names if name not in self.graph.inputs and name not in fixed
        ]
        inside = [name for name in computed if name not in self.graph.outer]
        if inside:
            raise DataError(
                f"{self.graph.source}: no statistics of {inside[0]!r}: it is a value inside a subgraph"
            )
        size = size or batch_size(self.graph, self.data, computed)
        total = self.data.samples if self.data.is_whole else -(-self.data.samples // size)
        index = -1
        runs = with_results(
            self.data.batches(self.graph, size),
            lambda batches: (
                run_batches(self.graph, batches, computed)
                if computed
                else ([] for _ in batches)
            ),
        )
        for index, (batch, match) in enumerate(runs):
            self.progress(f"{what}: batch {index + 1} of {total}")
            values = {
                **fixed,
                **dict(zip(computed, match, strict=True)),
                **{name: batch[name] for name in given},
            }
            for each in accumulators:
                each.add(index, *(values[name] for name in each.values))
            # Nothing of this batch is held while the next one runs.
            match.clear()
            values.clear()
        release()
        if index < 0:
            raise DataError(
                f"{self.data.source}: has fewer samples than the model's batch size"
            )

    def _inputs(self, node: Node) -> int:
        return linear.matrix_size(node, self.graph.weights[node.inputs[1]].shape)

    def _bytes(self, node: Node) -> int:
        return triangle_bytes(self._inputs(node)) * linear.groups(node)


def batch_size(graph: Graph, data: Data, values: Sequence[str], fetch: int = FETCH) -> int:
    """Samples at a time, so that `values` of them take about `fetch` bytes at most."""
    fixed = data.fixed(graph)
    if fixed or data.is_whole:
        return fixed or 1
    known = shape_info(graph)
    first = next(data.batches(graph, 1))
    # Values grow with inputs that are larger than the sizes of the analysis.
    grown = max(
        math.prod(first[name].shape) / max(math.prod(known.sizes[name]), 1)
        for name in graph.inputs
    )
    one = grown * sum(4 * math.prod(known.shapes.get(name, ())) for name in values)
    return int(max(1, min(MAX_BATCH, fetch // max(one, 1))))

"""How a graph is fed while it is trained: what axis 0 of its inputs is, and whether it can be freed.

A graph exported for one sample would be trained on single samples, whatever batch is asked for. Where that gives the
same values, its batch axis is freed (`free_batch`), which is proved by running it: two batches at once give what two
runs give. Otherwise `GraphModule` runs samples one by one, and statistics of BatchNormalization stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from onnx import ModelProto, ValueInfoProto, numpy_helper

from prunegraph.errors import MISFIT, PrunegraphError
from prunegraph.graph.external import without_weights
from prunegraph.graph.model import Graph
from prunegraph.operators import info
from prunegraph.rewriting.reweight import Revision
from prunegraph.runtime import session
from prunegraph.runtime.data import Data, fixed_batch, random_inputs
from prunegraph.training.free_batch import Replaced, freed

Array = np.ndarray
Arrays = Mapping[str, Array]

#: How far outputs of samples that run together may be from those of each alone, relative to the largest.
AGREEMENT = 1e-4

#: Inner values that are compared as well, at most.
WATCHED = 24

#: What axis 0 of the inputs is: samples, any number of them; a fixed number of samples; no samples at all.
Kind = Literal["free", "fixed", "none"]

_ONE_BY_ONE = (
    "samples run one by one, and statistics of BatchNormalization stay as they are"
)


@dataclass(frozen=True)
class Batching:
    """How a graph is fed while it is trained.

    Args:
        original: the graph as it was given.
        graph: the one that is trained: `original`, or its form with a free batch axis.
        kind: what axis 0 of the inputs of `graph` is.
        replaced: shapes that follow the batch in `graph`, and what they were.
        note: what a user should know, or "".
    """

    original: Graph
    graph: Graph
    kind: Kind
    replaced: Mapping[str, Replaced] = field(default_factory=dict)
    note: str = ""

    def batch(self, wanted: int) -> int:
        """Samples in a batch of training: what is wanted, up to a multiple of what runs at a time."""
        size = fixed_batch(self.graph) if self.kind == "fixed" else 1
        return -(-wanted // size) * size

    def restored(self, graph: Graph) -> Graph:
        """A graph that was made from `graph`, with the batch of the original at inputs and outputs.

        With the nodes of `graph` it is the original with other weights.
        """
        if self.graph is self.original or graph is self.original:
            return graph
        if _nodes(graph) == _nodes(self.graph):
            return self._with_weights(graph)
        model = without_weights(graph.model)
        _copy_sizes(self.original.model, model)
        for tensor in graph.model.graph.initializer:
            was = self.replaced.get(tensor.name)
            values = (
                numpy_helper.to_array(tensor).copy() if was is not None else np.zeros(0)
            )
            if was is not None and len(values) > was.axis and values[was.axis] == -1:
                values[was.axis] = was.size
                tensor = numpy_helper.from_array(values, tensor.name)
            model.graph.initializer.append(tensor)
        return Graph(model, folder=graph.folder, source=graph.source, keeps=graph)

    def _with_weights(self, graph: Graph) -> Graph:
        """The original with the floating-point weights of a graph."""
        revision = Revision(self.original)
        for name, weight in self.original.weights.items():
            now = graph.weights.get(name)
            if (
                weight.is_float
                and now is not None
                and now.read().tobytes() != weight.read().tobytes()
            ):
                revision.set(name, now.read())
        return revision.apply()


def _nodes(graph: Graph) -> list[tuple[str, tuple[str, ...], tuple[str, ...]]]:
    """Say what makes two graphs the same but for the numbers in them."""
    return [(node.op, node.inputs, node.outputs) for node in graph.nodes]


def _copy_sizes(source: ModelProto, target: ModelProto) -> None:
    """Give inputs and outputs the first sizes, or all that is free in them, of those of another model."""
    for mine, theirs in (
        (target.graph.input, source.graph.input),
        (target.graph.output, source.graph.output),
    ):
        given: dict[str, ValueInfoProto] = {entry.name: entry for entry in theirs}
        for entry in mine:
            other = (
                given[entry.name].type.tensor_type.shape.dim if entry.name in given else []
            )
            for dim, was in zip(entry.type.tensor_type.shape.dim, other, strict=False):
                if dim.dim_param and was.dim_value:
                    dim.dim_value = was.dim_value


def batching(graph: Graph, data: Data | None = None) -> Batching:
    """How to feed a graph, with its batch axis freed where that can be proved by running it.

    Args:
        graph: any graph.
        data: inputs to run it on; random ones without.

    Raises:
        DataError: the data do not fit.
    """
    if "batching" not in graph.cache:
        graph.cache["batching"] = _batching(graph, data)
    result: Batching = graph.cache["batching"]
    return result


def _batching(graph: Graph, data: Data | None) -> Batching:
    size = fixed_batch(graph)
    if not size:
        return Batching(graph, graph, "free")
    outputs = len(graph.outputs)
    try:
        pair = _pair(graph, data, size)
        names = _watched(graph)
        alone = list(session.run_batches(graph, pair, names))
    except (PrunegraphError, *MISFIT) as error:
        return Batching(
            graph, graph, "fixed", note=_fixed_note(size, f"it could not be run: {error}")
        )
    form = _proved(graph, size, pair, alone, names)
    if form is not None:
        note = f"the batch axis, fixed at {size}, is free during training: two batches at once give what each gives"
        return Batching(graph, form[0], "free", form[1], note)
    if size > 1 and not _moves_samples(graph, pair[0], alone[0][:outputs], size):
        return Batching(
            graph, graph, "none", note=f"axis 0 of the inputs is no batch: {_ONE_BY_ONE}"
        )
    return Batching(
        graph, graph, "fixed", note=_fixed_note(size, "a free one does not give the same")
    )


def _fixed_note(size: int, why: str) -> str:
    how = _ONE_BY_ONE if size == 1 else f"{size} samples run at a time"
    return f"the batch axis stays fixed at {size} ({why}): {how}"


def is_stacked(data: Data, graph: Graph) -> bool:
    """Tell whether arrays hold whole feeds of a graph along an axis of their own, [feeds, *shape of the input]."""
    first = next(iter(data.chunks()), None)
    ranks = _ranks(graph)
    return first is not None and all(
        name in first and first[name].ndim == rank + 1 for name, rank in ranks.items()
    )


def rows_of(data: Data, graph: Graph) -> Data:
    """Data as the graph's own sizes want them: whole feeds one behind the other along axis 0, without labels."""
    if not is_stacked(data, graph):
        return data

    def read() -> Iterator[dict[str, Array]]:
        for chunk in data.chunks():
            for index in range(len(chunk[graph.inputs[0]])):
                yield {name: chunk[name][index] for name in graph.inputs}

    return Data(read, data.source)


def feeds_of(data: Data, graph: Graph) -> Data:
    """Data of a graph without a batch axis as whole feeds [feeds, *shape of the input], with labels if they were so."""
    if is_stacked(data, graph):
        return data

    def read() -> Iterator[dict[str, Array]]:
        for batch in data.batches(graph):
            yield {name: array[None] for name, array in batch.items()}

    return Data(read, data.source)


def _ranks(graph: Graph) -> dict[str, int]:
    """Declared numbers of axes, by input."""
    entries = (entry for entry in graph.model.graph.input if entry.name in graph.inputs)
    return {entry.name: len(entry.type.tensor_type.shape.dim) for entry in entries}


def _pair(graph: Graph, data: Data | None, size: int) -> list[dict[str, Array]]:
    """Two different feeds of the graph's own sizes; what has no batch is the same in both."""
    feeds: list[dict[str, Array]] = []
    for feed in rows_of(data, graph).fit(graph).batches(graph) if data is not None else ():
        if not feeds or any(
            not np.array_equal(feed[name], feeds[0][name]) for name in graph.inputs
        ):
            feeds.append(feed)
        if len(feeds) == 2:
            break
    else:
        feeds = [random_inputs(graph, seed=seed) for seed in range(2)]
    first, second = feeds
    return [
        first,
        {
            name: array if _has_batch(array, size) else first[name]
            for name, array in second.items()
        },
    ]


def _has_batch(array: Array, size: int) -> bool:
    return array.ndim > 0 and array.shape[0] == size


def _watched(graph: Graph) -> list[str]:
    """Outputs, and what some layers on the way make: outputs of an untrained network hardly depend on the input."""
    layers = [
        node.outputs[0]
        for node in graph.nodes
        if node.subgraph is None
        and info(node).is_layer
        and node.outputs[0] not in graph.outputs
    ]
    step = max(1, -(-len(layers) // WATCHED))
    return [*graph.outputs, *layers[::-1][::step]]


def _proved(
    graph: Graph,
    size: int,
    pair: Sequence[Arrays],
    alone: Sequence[Sequence[Array]],
    names: Sequence[str],
) -> tuple[Graph, dict[str, Replaced]] | None:
    """The freed graph, if a run of both feeds at once gives what each gave alone."""
    first, second = pair
    both = {
        n: np.concatenate([a, second[n]]) if _has_batch(a, size) else a
        for n, a in first.items()
    }
    try:
        form, replaced = freed(graph, size)
        (together,) = session.run_batches(form, [both], names)
    except Exception:  # whatever a rewritten graph fails with: it is not taken
        return None
    ends = (name in graph.outputs for name in names)
    agree = map(_is_both, together, zip(*alone, strict=True), ends)
    return (form, replaced) if all(agree) else None


def _is_both(whole: Array, parts: Sequence[Array], end: bool) -> bool:
    """Tell whether a value holds both parts, an output one after the other, or does not depend on the batch."""
    first, second = parts
    if whole.shape == first.shape == second.shape:
        return _same(whole, first) and _same(whole, second)
    axes = [
        axis
        for axis in range(first.ndim)
        if whole.ndim == first.ndim and whole.shape[axis] != first.shape[axis]
    ]
    if (
        len(axes) != 1
        or first.shape != second.shape
        or whole.shape[axes[0]] != 2 * first.shape[axes[0]]
    ):
        return False
    return not (end and axes[0]) and _same(
        whole, np.concatenate([first, second], axis=axes[0])
    )


def _same(a: Array, b: Array) -> bool:
    if a.dtype.kind != "f":
        return np.array_equal(a, b)
    scale = float(np.max(np.abs(b[np.isfinite(b)]), initial=0.0))
    tolerance = AGREEMENT if a.dtype.itemsize >= 4 else 2e-2
    return bool(np.allclose(a, b, rtol=0.0, atol=tolerance * scale, equal_nan=True))


def _moves_samples(graph: Graph, feed: Arrays, outputs: Sequence[Array], size: int) -> bool:
    """Tell whether samples in another order give outputs in that order: then axis 0 holds samples."""
    order = np.roll(np.arange(size), 1)
    turned = {
        name: array[order] if _has_batch(array, size) else array
        for name, array in feed.items()
    }
    try:
        (results,) = session.run_batches(graph, [turned], graph.outputs)
    except PrunegraphError:
        return False
    return all(
        _has_batch(a, size) and _same(b, a[order])
        for a, b in zip(outputs, results, strict=True)
    )

"""Two models side by side: cost, outputs, latency, accuracy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from prunegraph.coupling.sample import full_cost
from prunegraph.errors import DataError, ModelError
from prunegraph.graph.model import Graph
from prunegraph.measuring.detection import are_boxes, can_decode
from prunegraph.measuring.latency import Latency, measure_pair
from prunegraph.measuring.metrics import (
    Metric,
    Named,
    Seen,
    default,
    portable,
    resolve,
)
from prunegraph.measuring.sqnr import FETCH, dequantized, sqnr
from prunegraph.ops.cost import Cost
from prunegraph.runtime.data import LABELS, Batch, Data, random_inputs
from prunegraph.runtime.engine import Runtime
from prunegraph.runtime.session import run, session
from prunegraph.runtime.statistics import batch_size

if TYPE_CHECKING:
    import onnxruntime

#: One output, batch by batch.
Parts = Sequence[np.ndarray]

#: Samples on which the noise of a quantized model is measured at most.
NOISE = 64


@dataclass(frozen=True)
class Comparison:
    """What two models cost and compute.

    `differences` are, per output, the largest absolute difference and the same over the
    output's largest value. `accuracy` is top-1 of both, where the data has labels;
    `agreement` the share of samples with the same top-1 class, where an output has classes. `sqnr`
    is, where the second model is quantized, the signal to noise of its values and outputs in dB. `measured` is a metric
    that was asked for, of both: its name, two figures and their unit; top-1 is left out then.
    """

    costs: tuple[Cost, Cost]
    differences: dict[str, tuple[float, float]]
    latency: Latency
    accuracy: tuple[float, float] | None
    agreement: float | None
    samples: int
    sqnr: dict[str, float] = field(default_factory=dict)
    measured: tuple[str, float, float, str] | None = None


def compare(
    first: Graph,
    second: Graph,
    *,
    data: Data | None,
    runs: int,
    seed: int,
    runtime: Runtime,
    metric: Named = "",
) -> Comparison:
    """Compare two models with the same inputs and outputs, which both run in `runtime`.

    `metric` is that of both, towards the first where it compares outputs; it needs data. Without one it is top-1 with
    class numbers, and map50 with boxes where the outputs are some.

    Raises:
        UnknownNameError: no such metric.
        PluginError: the metric's file cannot be read, or fails.
        ModelError: they have other inputs or outputs, or do not run.
        DataError: the data does not fit.
    """
    for what in ("inputs", "outputs"):
        a, b = getattr(first, what), getattr(second, what)
        if a != b:
            raise ModelError(
                f"the models have different {what}: {', '.join(a)} and {', '.join(b)}"
            )
    models = [runtime.open(graph, graph.source) for graph in (first, second)]
    if metric and data is None:
        raise DataError("a metric is measured on data: give --data")
    chosen = resolve(portable(metric)) if metric else None
    data = data.fit(first) if data else None
    drawn = [] if data else [random_inputs(first, seed=seed, batch=1)]
    results = [
        [opened.run(batch) for batch in (data.batches(first) if data else drawn)]
        for opened in models
    ]
    if chosen is None and data and _has_boxes(first, data, results[0][0]):
        chosen = resolve("map50")
    outputs = [list(zip(*result, strict=True)) for result in results]
    one = next(data.batches(first, 1)) if data else drawn[0]
    return Comparison(
        (full_cost(first), full_cost(second)),
        {n: _difference(a, b) for n, a, b in zip(first.outputs, *outputs, strict=True)},
        measure_pair(models, one, runs=runs, runtime=runtime),
        _accuracy(outputs, data) if chosen is None else None,
        _agreement(outputs),
        data.samples if data else 1,
        _noise(first, second, data, drawn),
        None
        if chosen is None or data is None
        else _measured(chosen, partial(_seen, first, results, data)),
    )


def measure_both(
    first: Graph, second: Graph, data: Data, metric: Named = ""
) -> tuple[str, float, float, str]:
    """A metric of two models with the same inputs and outputs, in ONNX Runtime as users open it.

    Args:
        first: the original, which metrics of outputs compare with.
        second: another one.
        data: inputs, and labels where the metric wants them.
        metric: which; "" is the one that says most.

    Returns:
        The metric's name, both figures, their unit.

    Raises:
        UnknownNameError: no such metric.
        DataError: the data do not fit the model or the metric.
        PluginError: the metric's file cannot be read, or fails.
    """
    data = data.fit(first)
    models = [session(graph) for graph in (first, second)]
    seen = partial(_answers, first, models, data)
    return _measured(_chosen(metric, seen(0)), seen)


def check_measurable(graph: Graph, data: Data, metric: Named = "") -> None:
    """Measure the metric of `measure_both` of the original alone, so that what does not fit is told before the work.

    Raises:
        UnknownNameError, DataError, PluginError: as `measure_both`.
        MissingExtraError: a package that the metric needs is not installed.
    """
    seen = partial(_answers, graph, [session(graph)], data.fit(graph))
    _chosen(metric, seen(0)).measure(seen(0))


def _chosen(metric: Named, seen: Iterator[Seen]) -> Metric:
    """The metric of a name; of none, the one that says most of what is seen."""
    if not metric:
        first = next(seen)
        metric = default(first.expected, LABELS in first.inputs, first.inputs.get(LABELS))
    return resolve(portable(metric))


def _answers(
    graph: Graph, models: Sequence[onnxruntime.InferenceSession], data: Data, which: int
) -> Iterator[Seen]:
    """What one of some models makes of data that fit the original, beside what the first one makes of them."""
    size = batch_size(graph, data, graph.outputs)
    for batch in data.batches(graph, size, labels=True):
        given = {name: batch[name] for name in graph.inputs}
        answers = [
            dict(zip(graph.outputs, run(each, given), strict=True)) for each in models
        ]
        yield Seen(batch, answers[0], answers[which])


def _has_boxes(graph: Graph, data: Data, values: Sequence[np.ndarray]) -> bool:
    """Tell whether data are labelled with boxes, and outputs are boxes in a form that is known."""
    labels = next(data.batches(graph, 1, labels=True)).get(LABELS)
    named = dict(zip(graph.outputs, values, strict=True))
    return are_boxes(labels) and can_decode(named)


def _measured(
    metric: Metric, seen: Callable[[int], Iterable[Seen]]
) -> tuple[str, float, float, str]:
    """A metric of what two models, 0 and 1, are seen to make: its name, both figures, its unit."""
    return metric.name, metric.measure(seen(0)), metric.measure(seen(1)), metric.unit


def _seen(
    graph: Graph, results: list[list[list[np.ndarray]]], data: Data, which: int
) -> Iterator[Seen]:
    """What one of two models made of data, beside the first one's."""
    first, own = (
        [dict(zip(graph.outputs, values, strict=True)) for values in parts]
        for parts in (results[0], results[which])
    )
    return (
        Seen(*each)
        for each in zip(data.batches(graph, labels=True), first, own, strict=True)
    )


def _is_narrower(first: Graph, second: Graph) -> bool:
    """Tell whether layers of the second model have other sizes than those of the same name in the first one."""
    for node in first.layers:
        twin = second.named.get(node.name)
        name, other = first.main_weight(node), second.main_weight(twin) if twin else None
        if name and other and first.weights[name].size != second.weights[other].size:
            return True
    return False


def _noise(
    first: Graph, second: Graph, data: Data | None, batches: list[Batch]
) -> dict[str, float]:
    """SQNR of every value of the first model that is quantized in the second one, and of the outputs.

    Of the outputs alone where the second model is pruned as well: what its layers make is something else then.
    """
    values = dequantized(second)
    if not values:
        return {}
    if _is_narrower(first, second):
        outputs = {name: name for name in first.outputs if name in second.outputs}
        return sqnr(
            first, second, data.spread(NOISE).batches(first) if data else batches, outputs
        )
    size = (
        batch_size(first, data, [name for name in values if name in first.outer], FETCH)
        if data
        else 1
    )
    return sqnr(first, second, data.spread(NOISE).batches(first, size) if data else batches)


def _difference(first: Parts, second: Parts) -> tuple[float, float]:
    """Largest absolute difference of an output over all batches, and the same over its largest value."""
    absolute = largest = 0.0
    for a, b in zip(first, second, strict=True):
        if a.shape != b.shape:
            return float("inf"), float("inf")
        if a.dtype.kind in "fiub" and a.size:
            x, y = a.astype(np.float64), b.astype(np.float64)
            absolute, largest = (
                max(absolute, float(np.abs(x - y).max())),
                max(largest, float(np.abs(x).max())),
            )
    return absolute, absolute / largest if largest else 0.0


def _classes(outputs: list[list[Parts]]) -> list[np.ndarray] | None:
    """Top-1 classes of the first output of both models, where it is [samples, classes]."""
    scores = [result[0] for result in outputs]
    if any(
        s.ndim != 2 or s.shape[1] < 2 or s.dtype.kind != "f"
        for parts in scores
        for s in parts
    ):
        return None
    return [np.concatenate([s.argmax(axis=1) for s in parts]) for parts in scores]


def _agreement(outputs: list[list[Parts]]) -> float | None:
    classes = _classes(outputs)
    numbers = [{scores.shape[1:] for scores in result[0]} for result in outputs]
    if classes is None or len(classes[0]) != len(classes[1]) or numbers[0] != numbers[1]:
        return None
    return float((classes[0] == classes[1]).mean())


def _accuracy(outputs: list[list[Parts]], data: Data | None) -> tuple[float, float] | None:
    if data is None or data.labels is None or are_boxes(data.labels):
        return None
    classes = _classes(outputs)
    if classes is None:
        raise DataError(
            f"{data.source}: has labels, but the first output is not [samples, classes]"
        )
    labels = data.labels[: len(classes[0])]
    return float((classes[0] == labels).mean()), float((classes[1] == labels).mean())

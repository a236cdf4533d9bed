"""Metrics: how good a candidate is, from its outputs and the original's, batch by batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from prunegraph import plugins
from prunegraph.errors import DataError, PluginError, UnknownNameError
from prunegraph.measuring import detection, tasks
from prunegraph.measuring.seen import (
    USELESS,
    Metric,
    Seen,
    are_probabilities,
    has_classes,
    log_probabilities,
    scores,
)
from prunegraph.options import base_name, bound
from prunegraph.runtime.data import LABELS

__all__ = [
    "METRICS",
    "USELESS",
    "Metric",
    "Seen",
    "agreement",
    "default",
    "error",
    "has_classes",
    "kl",
    "scores",
    "top1",
]

Array = np.ndarray

#: An output whose variation is a smaller part of its energy than this does not vary.
VARIES = 1e-9


def error(batches: Iterable[Seen]) -> float:
    """Relative squared error: the difference's energy over that of the original's variation; the mean over outputs.

    0 is the original, 1 is as far off as an answer that never depends on the input. Where an
    output does not vary (or has no samples along axis 0), its whole energy counts instead. An output whose shape
    differs (a detector's list) counts as if nothing of it were right; values that are infinite or
    not a number in the original are left out.
    """
    wrong: dict[str, float] = {}
    energy: dict[str, _Variation] = {}
    for seen in batches:
        for name, expected in seen.expected.items():
            if expected.dtype.kind in "fiub":
                wrong[name] = wrong.get(name, 0.0) + _difference(
                    expected, seen.actual[name]
                )
                energy.setdefault(name, _Variation()).add(_finite(expected, expected))
    if not wrong:
        raise DataError("metric 'error' needs an output that is a number")
    return float(np.mean([wrong[name] / (energy[name].value or 1.0) for name in wrong]))


@dataclass
class _Variation:
    """Energy of values around their mean over samples, element by element."""

    count: int = 0
    squares: float = 0.0
    total: Array | None = None
    centred: bool = True

    def add(self, x: Array) -> None:
        self.squares += float(np.square(x).sum())
        if not x.ndim or (self.total is not None and self.total.shape != x.shape[1:]):
            self.centred = False
        elif self.centred:
            self.count += len(x)
            self.total = x.sum(axis=0) + (0.0 if self.total is None else self.total)

    @property
    def value(self) -> float:
        if not self.centred or self.total is None or not self.count:
            return self.squares
        around = self.squares - float(np.square(self.total).sum()) / self.count
        return around if around > VARIES * self.squares else self.squares


def _finite(expected: Array, values: Array) -> Array:
    return np.where(np.isfinite(expected), values, 0).astype(np.float64)


def _difference(expected: Array, result: Array) -> float:
    """Energy of the difference."""
    if expected.shape != result.shape:
        return float(
            np.square(_finite(expected, expected)).sum()
            + np.square(result.astype(np.float64)).sum()
        )
    return float(np.square(_finite(expected, result) - _finite(expected, expected)).sum())


def agreement(batches: Iterable[Seen]) -> float:
    """Percent of samples with the same top-1 class as the original's."""
    same = count = 0
    for seen in batches:
        first, second = (
            scores(outputs, "agreement").argmax(axis=-1)
            for outputs in (seen.expected, seen.actual)
        )
        same += int((first == second).sum())
        count += first.size
    return 100.0 * same / count


def kl(batches: Iterable[Seen]) -> float:
    """Mean Kullback-Leibler divergence of the classes' probabilities from the original's, in nats."""
    total, count = 0.0, 0
    for seen in batches:
        expected, match = (
            scores(outputs, "kl").astype(np.float64)
            for outputs in (seen.expected, seen.actual)
        )
        # Outputs that are probabilities already are not to be made into some again.
        known = are_probabilities(expected)
        p, q = (log_probabilities(each, known) for each in (expected, match))
        total += float((np.exp(p) * (p - q)).sum())
        count += math.prod(expected.shape[:-1])
    return total / count


def top1(batches: Iterable[Seen]) -> float:
    """Percent of samples whose top-1 class is the label."""
    right = count = 0
    for seen in batches:
        answers = scores(seen.actual, "top1")
        classes = answers.argmax(axis=-1)
        if seen.labels is None:
            raise DataError(
                f"metric 'top1' needs labels: the data have no array {LABELS!r}"
            )
        if seen.labels.shape != classes.shape:
            raise DataError(
                f"metric 'top1' needs one label for each class: labels have shape {list(seen.labels.shape)}, "
                f"the top-1 classes {list(classes.shape)}"
            )
        _check_classes(seen.labels, answers.shape[-1])
        right += int((classes == seen.labels).sum())
        count += classes.size
    return 100.0 * right / count


def _check_classes(labels: Array, classes: int) -> None:
    """Raise DataError for labels above the classes of an output: they are those of another model's data."""
    if labels.size and labels.max() >= classes:
        raise DataError(
            f"labels run to {int(labels.max())}, the output has {classes} classes, 0 to {classes - 1}"
        )


METRICS = {
    metric.name: metric
    for metric in (
        Metric("agreement", agreement, True, "%"),
        Metric("error", error, False),
        Metric("kl", kl, False, "nats"),
        Metric("top1", top1, True, "%", by="labels"),
        Metric("cosine", tasks.cosine, True),
        Metric("f1", tasks.f1, True, "%", by="labels"),
        Metric("map", detection.mean_precision, True, "%", by="labels"),
        Metric("map50", detection.precision_at_half, True, "%", by="labels"),
        Metric("miou", tasks.mean_overlap, True, "%", by="labels"),
        Metric("perplexity", tasks.perplexity, False, by="labels"),
        Metric("word_accuracy", tasks.word_accuracy, True, "%", by="either"),
    )
}

#: A metric of the user's: `(outputs, batches) -> number`, higher is better.
Custom = Callable[[Sequence[Mapping[str, Array]], Sequence[Mapping[str, Array]]], float]


@dataclass(frozen=True)
class CustomMetric:
    """A metric of the user's, as it travels to workers: a function, or the text of a file that has one.

    The function gets two lists with one entry a batch: the candidate's outputs by name, and
    the inputs by name with `labels` among them where the data have any. It returns a number,
    higher is better.
    """

    name: str
    given: Custom | tuple[str, str]

    def function(self) -> Custom:
        """The function itself. Raises PluginError."""
        if callable(self.given):
            return self.given
        text, wanted = self.given
        try:
            return plugins.function(f"{self.name.rpartition(':')[0]}:{wanted}", text)
        except PluginError as problem:
            raise PluginError(f"metric {self.name}: {problem}") from problem

    def metric(self) -> Metric:
        """The metric. Raises PluginError where its file cannot be run."""
        function = self.function()

        def measure(batches: Iterable[Seen]) -> float:
            seen = list(batches)
            try:
                return float(
                    function(
                        [dict(each.actual) for each in seen],
                        [dict(each.inputs) for each in seen],
                    )
                )
            except Exception as problem:
                raise PluginError(
                    f"metric {self.name}: {type(problem).__name__}: {problem}"
                ) from problem

        return Metric(self.name, measure, True)


#: What names a metric: its name, `file.py:function`, or a function.
Named = str | Custom


def portable(metric: Named) -> str | CustomMetric:
    """A metric in a form that can go to a worker.

    Raises:
        PluginError: its file cannot be read.
        UnknownNameError: no such metric, or it has no such option.
        OptionError: an option cannot have that value.
    """
    if callable(metric):
        import joblib

        # By value: a function of a script or a notebook is not to be found where a worker runs.
        given = joblib.wrap_non_picklable_objects(metric, keep_wrapper=False)
        return CustomMetric(getattr(metric, "__name__", "metric"), given)
    path, _, name = metric.rpartition(":")
    if path.endswith(".py"):
        try:
            return CustomMetric(metric, (Path(path).read_text(), name))
        except OSError as problem:
            raise PluginError(
                f"metric {metric}: {problem.strerror or problem}"
            ) from problem
    if base_name(metric) not in METRICS:
        raise UnknownNameError("metric", metric, METRICS)
    _with_options(metric)
    return metric


def _with_options(metric: str) -> Metric:
    """A metric of `METRICS`, with the options behind its name. Raises UnknownNameError, OptionError."""
    name = base_name(metric)
    if metric == name:
        return METRICS[name]
    if name not in detection.PRECISIONS:
        option = metric.partition(":")[2].partition("=")[0]
        raise UnknownNameError(f"option of metric {name!r}", option, ())
    return replace(METRICS[name], measure=bound(detection.PRECISIONS, metric))


def resolve(metric: str | CustomMetric) -> Metric:
    """The metric behind its portable form. Raises PluginError."""
    return metric.metric() if isinstance(metric, CustomMetric) else _with_options(metric)


def default(
    outputs: Mapping[str, Array], labelled: bool, labels: Array | None = None
) -> str:
    """The metric that says most: top-1 with labels, agreement of the classes without, else the outputs' error.

    Where `labels` are boxes of a detector it is their mean average precision.
    """
    if detection.are_boxes(labels) and detection.can_decode(outputs):
        return "map50"
    first = next(iter(outputs.values()))
    if first.ndim != 2 or not has_classes(first):
        return "error"
    return "top1" if labelled else "agreement"


def itself(batches: Iterable[Seen]) -> Iterator[Seen]:
    """The batches as the original would answer them."""
    return (Seen(seen.inputs, seen.expected, seen.expected) for seen in batches)

"""What a training did to a network: outputs beside those of the start, and whether a metric got worse.

Both are run in ONNX Runtime as they are written, so that what is said holds for the file.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from prunegraph.errors import DataError, WorseError
from prunegraph.graph.model import Graph
from prunegraph.measuring.metrics import (
    Metric,
    Seen,
    agreement,
    default,
    error,
    portable,
    resolve,
)
from prunegraph.runtime import session
from prunegraph.runtime.data import CHUNK, LABELS, Data
from prunegraph.training.batching import batching

Array = np.ndarray
Values = Mapping[str, Array]

#: Samples that the start and the result are compared on, at most.
SAMPLES = 2048

#: Standard deviations beyond which a difference on training data is no chance.
CERTAIN = 3.0

#: How many times larger an error on the data that were trained on is clearly larger, and errors that say nothing.
LARGER, ROUNDING = 1.1, 1e-6


@dataclass(frozen=True)
class Outcome:
    """The start against the result.

    Args:
        difference: relative squared error of the result's outputs, towards those of the start.
        same: percent of samples (or positions) with the class they had, where the first output has classes.
        metric: what was measured, or None.
        before: of the start.
        after: of the result.
        samples: on which that was measured, where it was on training data alone: then a share of them counts as worse
            only where chance does not explain it, and an error where it is clearly larger. 0 is for data that were
            given to judge by: any loss counts.
    """

    difference: float
    same: float | None
    metric: Metric | None = None
    before: float = 0.0
    after: float = 0.0
    samples: int = 0

    @property
    def is_worse(self) -> bool:
        """Tell whether the metric got worse, or is not a number any more."""
        if self.metric is None or np.isnan(self.before):
            return False
        if self.samples and self.metric.unit == "%":
            return not self.before - self.after <= CERTAIN * self._deviation()
        if self.samples:
            limit = LARGER * max(self.before, ROUNDING)
            return not self.metric.rises and not self.after <= limit
        better = (
            self.after >= self.before if self.metric.rises else self.after <= self.before
        )
        return not better

    def _deviation(self) -> float:
        """Standard deviation of the difference of two shares of the samples, in percent."""
        shares = (self.before / 100, self.after / 100)
        return 100 * math.sqrt(sum(share * (1 - share) for share in shares) / self.samples)

    def __str__(self) -> str:
        same = (
            "" if self.same is None else f"{self.same:.2f} % of the classes are the same, "
        )
        text = f"outputs against the start: {same}relative error {self.difference:.3g}"
        if self.metric is None:
            return text
        return f"{text}; {self.metric.name} {self.before:.4g} -> {self.after:.4g} {self.metric.unit}".rstrip()

    def check(self) -> None:
        """Raise WorseError where the metric got worse."""
        if self.is_worse and self.metric is not None:
            raise WorseError(
                f"the result is worse than what training started from: {self.metric.name} {self.before:.4g} -> "
                f"{self.after:.4g} {self.metric.unit}".rstrip()
                + ". Nothing is written; lower the learning rate, or write it all the same with --force"
            )


class OutcomeJudge:
    """Compares results of training with the network it started from.

    Args:
        start: that network.
        data: training data; the first samples are run.
        evaluation: what the metric is measured on; the training data without.
        original: gives the outputs that metrics without labels compare with; without one there is no such metric.
        metric: its name; by default top1 with labels, else agreement of the classes or the outputs' error.

    Raises:
        DataError: the data do not fit, or do not fit the metric that is asked for.
    """

    def __init__(
        self,
        start: Graph,
        data: Data,
        *,
        evaluation: Data | None = None,
        original: Graph | None = None,
        metric: str = "",
    ):
        self.start, self.data = batching(start, data).graph, data.head(SAMPLES)
        self.judged = evaluation if evaluation is not None else self.data
        self.asked = evaluation is not None
        self.before: float | None = None
        self.metric: Metric | None = None
        self._compares = False
        self._original = batching(original, data).graph if original is not None else None
        self._choose(metric)

    def _choose(self, name: str) -> None:
        """The metric, and its value at the start."""
        first = next(
            iter(self.judged.fit(self.start).batches(self.start, CHUNK, labels=True)), None
        )
        if first is None:
            return
        labelled = LABELS in first
        name = name or default(
            _named(self.start, _run(self.start, first)), labelled, first.get(LABELS)
        )
        chosen = resolve(portable(name))
        self._compares = chosen.needs_original(labelled) and not self._is_own(name)
        if self._compares and (self._original is None or self._is_start(first)):
            # Nothing is nearer to the start than the start: there is no worse and better.
            return
        self.metric = chosen
        try:
            self.before = self._measured(self.start)
        except DataError:
            if self.asked:
                raise
            self.metric = None

    @staticmethod
    def _is_own(name: str) -> bool:
        """Tell whether a metric is a function of the user's: it is given no outputs of the original."""
        return name.rpartition(":")[0].endswith(".py")

    def _is_start(self, batch: Values) -> bool:
        assert self._original is not None
        pairs = zip(_run(self.start, batch), _run(self._original, batch), strict=False)
        return all(
            a.shape == b.shape and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
            for a, b in pairs
        )

    def _measured(self, graph: Graph) -> float:
        assert self.metric is not None
        expected = self._original if self._compares else None
        return float(self.metric.measure(_seen(self.judged, expected, graph)))

    def __call__(self, result: Graph, *, before: float | None = None) -> Outcome:
        """Say what became of the start.

        Args:
            result: the trained network.
            before: the metric that counts as the start's, where the method changed the network before it trained it.
        """
        # Without the inputs, which are large.
        seen = [
            Seen({}, each.expected, each.actual)
            for each in _seen(self.data, self.start, result)
        ]
        difference = error(seen)
        try:
            same = agreement(seen)
        except DataError:
            same = None
        if self.metric is None or self.before is None:
            return Outcome(difference, same)
        start = self.before if before is None else before
        samples = 0 if self.asked else self.judged.samples
        return Outcome(
            difference, same, self.metric, start, self._measured(result), samples
        )


def _seen(data: Data, expected: Graph | None, candidate: Graph) -> Iterator[Seen]:
    """Outputs of two graphs, batch by batch; without the first its outputs are left out."""
    opened = session.session(candidate)
    other = session.session(expected) if expected is not None else None
    for batch in data.batches(candidate, CHUNK, labels=True):
        inputs = {name: batch[name] for name in candidate.inputs}
        wanted = (
            _named(expected, session.run(other, inputs))
            if expected is not None and other is not None
            else {}
        )
        labels = {LABELS: batch[LABELS]} if LABELS in batch else {}
        outputs = _named(candidate, session.run(opened, inputs))
        yield Seen({**inputs, **labels}, wanted, outputs)


def _named(graph: Graph, values: Sequence[Array]) -> dict[str, Array]:
    return dict(zip(graph.outputs, values, strict=True))


def _run(graph: Graph, batch: Values) -> list[Array]:
    return session.run(session.session(graph), {name: batch[name] for name in graph.inputs})

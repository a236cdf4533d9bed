"""What metrics are given, batch by batch, and what a metric is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from prunegraph.errors import DataError
from prunegraph.runtime.data import LABELS

Array = np.ndarray

#: The error of a candidate whose outputs are no numbers.
USELESS = float(np.finfo(np.float32).max)

#: How far a row of probabilities may be from a sum of 1.
SUM = 1e-3


@dataclass(frozen=True)
class Seen:
    """One batch: inputs (and `labels`, where the data have them), outputs by name of the original and the candidate."""

    inputs: Mapping[str, Array]
    expected: Mapping[str, Array]
    actual: Mapping[str, Array]

    @property
    def labels(self) -> Array | None:
        return self.inputs.get(LABELS)


@dataclass(frozen=True)
class Metric:
    """A figure over all batches.

    Args:
        name: what it is called.
        measure: makes the figure from the batches.
        rises: whether higher is better.
        unit: of the figure, for tables; "" where it has none.
        by: what outputs are compared with: those of the "original", "labels" (or inputs), or "either": labels where
            there are any.
    """

    name: str
    measure: Callable[[Iterable[Seen]], float]
    rises: bool
    unit: str = ""
    by: Literal["original", "labels", "either"] = "original"

    def needs_original(self, labelled: bool) -> bool:
        """Tell whether the original's outputs are looked at."""
        return self.by == "original" or (self.by == "either" and not labelled)

    def loss(self, value: float, original: float) -> float:
        """How much worse a candidate is than the original, in the metric's unit; at most `USELESS`."""
        loss = original - value if self.rises else value - original
        return loss if math.isfinite(loss) else USELESS


def scores(outputs: Mapping[str, Array], metric: str) -> Array:
    """The first output, as scores of classes along its last axis. Raises DataError where it cannot be that."""
    name, match = next(iter(outputs.items()))
    if not has_classes(match):
        raise DataError(
            f"metric {metric!r} needs scores of classes, [samples, classes] or [samples, positions, classes]; "
            f"the first output {name!r} is {match.dtype} {list(match.shape)}. Metric 'error' fits every model"
        )
    return match


def has_classes(output: Array) -> bool:
    """Tell whether an output may hold scores of classes along its last axis."""
    return output.ndim in (2, 3) and output.shape[-1] > 1 and output.dtype.kind == "f"


def log_probabilities(values: Array, known: bool) -> Array:
    """Logarithms of the probabilities along the last axis, of logits or of what is `known` to be probabilities."""
    if known:
        return np.log(np.maximum(values, np.finfo(np.float32).tiny))
    shifted = values - values.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def are_probabilities(values: Array) -> bool:
    """Tell whether rows along the last axis are not negative and have the sum 1."""
    return bool((values >= 0).all() and (abs(values.sum(axis=-1) - 1) < SUM).all())

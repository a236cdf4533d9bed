"""How far a smaller model's outputs are from the original's, on data that it was not fitted to."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from prunegraph.graph.model import Graph
from prunegraph.measuring import metrics
from prunegraph.measuring.metrics import Seen
from prunegraph.runtime.data import Data
from prunegraph.runtime.session import run, session
from prunegraph.runtime.statistics import batch_size


def deviation(original: Graph, other: Graph, data: Data) -> float:
    """Squared error of the outputs by their variation (metric "error"); `metrics.USELESS` where it is no number."""
    first, second = session(original), session(other)
    # Few enough samples at a time that all values of one fit in memory.
    size = batch_size(
        original,
        data.fit(original),
        [value for node in original.nodes for value in node.outputs if value],
    )

    def seen() -> Iterator[Seen]:
        for batch in data.batches(original, size):
            expected, match = (
                dict(zip(original.outputs, run(opened, batch), strict=True))
                for opened in (first, second)
            )
            yield Seen(batch, expected, match)

    with np.errstate(all="ignore"):
        value = metrics.error(seen())
    return value if np.isfinite(value) else metrics.USELESS

"""Values compared, and whether comparing them says anything."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from prunegraph.graph.model import Graph
from prunegraph.operators import info
from prunegraph.proof.result import Difference

Array = np.ndarray

SATURATED = 1e-4


def difference(name: str, pairs: Sequence[tuple[Array, Array]]) -> Difference:
    """The largest difference within pairs of an output's values."""
    absolute = relative = 0.0
    for expected, match in pairs:
        if expected.shape != match.shape:
            return Difference(name, float("inf"), float("inf"))
        if expected.dtype.kind not in "fiubV":  # text is the same, or it is not
            if not np.array_equal(expected, match):
                return Difference(name, float("inf"), float("inf"))
            continue
        a, r = _distance(expected, match)
        absolute, relative = max(absolute, a), max(relative, r)
    return Difference(name, absolute, relative)


def differ(first: Sequence[Sequence[Array]], second: Sequence[Sequence[Array]]) -> float:
    """The largest relative difference between two sets of runs."""
    pairs = [
        pair for runs in zip(first, second, strict=True) for pair in zip(*runs, strict=True)
    ]
    return max((difference("", [pair]).relative for pair in pairs), default=0.0)


def _distance(expected: Array, result: Array) -> tuple[float, float]:
    """Largest absolute difference, and that over the largest finite value."""
    if not expected.size:
        return 0.0, 0.0
    a, b = expected.astype(np.float64), result.astype(np.float64)
    finite = np.isfinite(a)
    if not np.array_equal(finite, np.isfinite(b)) or not np.array_equal(
        a[~finite], b[~finite], equal_nan=True
    ):
        return float("inf"), float("inf")
    if not finite.any():
        return 0.0, 0.0
    absolute = float(np.abs(a[finite] - b[finite]).max())
    largest = float(np.abs(a[finite]).max())
    return absolute, absolute / largest if largest else (
        0.0 if absolute == 0 else float("inf")
    )


def reacts(values: Sequence[Array]) -> bool:
    """Tell whether an output is finite, and not the same for two inputs (all over, where there is one)."""
    first, second = values if len(values) > 1 else (values[0], values[0].reshape(-1)[:1])
    if not first.size or first.dtype.kind == "O":
        return False
    if first.dtype.kind == "f" and not np.isfinite(first).any():
        return False
    return first.shape != second.shape or not np.array_equal(first, second)


def is_saturated(graph: Graph, name: str, values: Sequence[Array]) -> bool:
    """Tell whether an output is so near the end of an activation's range that only rounding is left of it."""
    if name not in graph.producer or not info(graph.nodes[graph.producer[name]]).is_flat:
        return False
    return all(
        value.size > 0 and float(np.minimum(abs(value), abs(1 - value)).max()) < SATURATED
        for value in values
    )


def all_finite(runs: Sequence[Sequence[Array]]) -> bool:
    """Tell whether no value of any run is infinite or not a number."""
    return all(
        np.isfinite(value).all()
        for outputs in runs
        for value in outputs
        if value.dtype.kind == "f"
    )

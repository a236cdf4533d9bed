"""Latency, measured so that a comparison holds on a noisy machine."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnxruntime


@dataclass(frozen=True)
class Latency:
    """Milliseconds of two models measured alternately, and the median of the paired ratios A/B."""

    first: float
    second: float
    ratio: float
    runs: int
    threads: int


def measure_pair(
    sessions: Sequence[onnxruntime.InferenceSession], inputs: Mapping[str, np.ndarray], *, runs: int, threads: int
) -> Latency:
    """Run two sessions in turn, `runs` times each after three warm-ups; medians in milliseconds."""
    times = np.zeros((2, runs))
    for turn in range(-3, runs):
        for which, opened in enumerate(sessions):
            start = time.perf_counter()
            opened.run(None, dict(inputs))
            if turn >= 0:
                times[which, turn] = (time.perf_counter() - start) * 1e3
    first, second = np.median(times, axis=1)
    return Latency(float(first), float(second), float(np.median(times[0] / times[1])), runs, threads)

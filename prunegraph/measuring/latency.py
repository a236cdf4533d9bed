"""Latency in a runtime, measured so that it holds on a busy machine.

Two models run in turn and what counts is the median of the paired ratios: a machine that is
slow now is slow for both. Where one thread of the CPU does all the work its CPU time is taken,
which is the wall clock of an idle machine: time that other processes had the core does not
count. Elsewhere (several threads, other providers) it is the wall clock.

A layer alone is timed against a small reference in the same way, and its time is the ratio, in milliseconds of the
reference on an undisturbed core: times of layers are compared with one another though minutes lie between them.

Two sessions of one model differ by some percent, by where their memory lies. A figure that has
to hold for the next session is therefore taken over several pairs of sessions.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import count, islice
from typing import Any, Protocol

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from prunegraph.graph.model import Graph
from prunegraph.graph.onnx_io import from_model
from prunegraph.runtime.data import random_inputs
from prunegraph.runtime.engine import Clock, OpenModel, Runtime, clock
from prunegraph.runtime.runtimes import DEFAULT, OnnxRuntime
from prunegraph.runtime.session import CPU

Inputs = Mapping[str, np.ndarray]

#: Timed runs of a model before the other one's turn; one more run before them fills the caches.
BLOCK = 2

#: A measurement ends when the standard error of its ratio is below this ...
PRECISION = 0.007

#: ... after at least so many rounds and seconds (a disturbance lasts longer than a small model), or
#: after so many seconds.
ROUNDS = 9
SECONDS = (0.5, 8.0)

#: A model of one layer and the reference beside it have so many turns at least and at most, for so many seconds.
LAYER_TURNS = (5, 50)
LAYER_SECONDS = 0.03

#: Turns of the reference by itself: the shortest one is what it takes when nothing disturbs it.
REFERENCE_TURNS = 100

#: Rows of the reference, a matrix product, and its inputs and outputs.
REFERENCE = (64, 128)


@dataclass(frozen=True)
class Latency:
    """Milliseconds of two models measured alternately, and the median of the paired ratios first/second.

    `error` is the standard error of the ratio, as a share of it: over rounds, or over pairs of
    sessions where there were several. `runs` says how many rounds were measured, `runtime`, `provider` and `threads`
    say where.
    """

    first: float
    second: float
    ratio: float
    runs: int
    threads: int
    provider: str = CPU
    error: float = 0.0
    runtime: str = DEFAULT

    @property
    def kept(self) -> float:
        """Share of the first model's latency that the second one takes."""
        return 1 / self.ratio

    def provenance(self) -> dict[str, Any]:
        """What was measured as plain JSON, for a plan; ONNX Runtime goes without saying."""
        result: dict[str, Any] = {
            "original_ms": self.first,
            "pruned_ms": self.second,
            "share": self.kept,
            "provider": self.provider,
            "threads": self.threads,
        }
        return result if self.runtime == DEFAULT else {**result, "runtime": self.runtime}


class Timer(Protocol):
    """What measures: models against the original, layers alone, and the original itself."""

    def against(self, pruned: Graph, pairs: int = 1) -> Latency:
        """Latency of the original and of a smaller model, measured in turn, in so many pairs of sessions."""

    def alone(self, model: Graph) -> float:
        """Milliseconds of a model of one layer."""

    def original(self) -> float:
        """Milliseconds of the original."""


class Stopwatch:
    """The timer that really measures.

    Args:
        graph: the original.
        inputs: what it is run on; None is random numbers at batch 1 (symbolic axes at the size of the analysis).
        threads: of an operator; 0 leaves it to ONNX Runtime.
        runtime: what models run in, instead of ONNX Runtime on the CPU; it has its own number of threads.

    Raises:
        ModelError: the runtime cannot load or run a model.
    """

    def __init__(
        self,
        graph: Graph,
        inputs: Inputs | None = None,
        *,
        threads: int = 1,
        runtime: Runtime | None = None,
    ):
        self.runtime = runtime or OnnxRuntime(threads=threads)
        self._graph = graph
        self._inputs = random_inputs(graph, batch=1) if inputs is None else inputs
        self._clock = clock(self.runtime)

    def _open(self, graph: Graph) -> OpenModel:
        return self.runtime.open(graph, graph.source)

    def against(self, pruned: Graph, pairs: int = 1) -> Latency:
        return combined([self._pair(pruned) for _ in range(pairs)])

    def _pair(self, pruned: Graph) -> Latency:
        models = (self._open(self._graph), self._open(pruned))
        translated = pruned.intake.since(self._graph.intake).read(self._inputs)
        return measure_pair(models, self._inputs, translated, runtime=self.runtime)

    def alone(self, model: Graph) -> float:
        opened, inputs = self._open(model), random_inputs(model, batch=1)
        reference, given, shortest = self._reference
        for each, feed in ((opened, inputs), (reference, given)):
            each.run(feed)
        least, most = LAYER_TURNS
        ratios, end = [], time.perf_counter() + LAYER_SECONDS
        for turn in range(most):
            first = _block(reference, given, self._clock)
            ratios.append(_block(opened, inputs, self._clock) / first)
            if turn + 1 >= least and time.perf_counter() > end:
                break
        return float(np.median(ratios)) * shortest

    @cached_property
    def _reference(self) -> tuple[OpenModel, Inputs, float]:
        """A small model, its inputs, and the milliseconds of its shortest run."""
        model = product_model(*REFERENCE)
        opened, given = self._open(model), random_inputs(model, batch=1)
        runs = (_block(opened, given, self._clock) for _ in range(REFERENCE_TURNS))
        return opened, given, min(runs)

    def original(self) -> float:
        opened = self._open(self._graph)
        opened.run(self._inputs)
        return float(
            np.median(
                _settled(_rounds((opened,), [dict(self._inputs)], self._clock)), axis=0
            )[0]
        )


def product_model(rows: int, width: int) -> Graph:
    """A product of [rows, width] with a random matrix [width, width]: a model that every runtime runs."""
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [rows, width])
        for name in ("x", "y")
    )
    weight = np.random.default_rng(0).standard_normal((width, width)).astype(np.float32)
    graph = helper.make_graph(
        [node], "product", [x], [y], [numpy_helper.from_array(weight, "w")]
    )
    opsets = [helper.make_opsetid("", 17)]
    return from_model(
        helper.make_model(graph, opset_imports=opsets, ir_version=8), source="a product"
    )


def combined(parts: Sequence[Latency]) -> Latency:
    """One figure from several pairs of sessions: medians of the times, the geometric mean of the ratios."""
    if len(parts) == 1:
        return parts[0]
    logs = np.log([part.ratio for part in parts])
    return replace(
        parts[0],
        first=float(np.median([part.first for part in parts])),
        second=float(np.median([part.second for part in parts])),
        ratio=float(np.exp(logs.mean())),
        runs=sum(part.runs for part in parts),
        error=float(logs.std(ddof=1) / np.sqrt(len(parts))),
    )


def interleaved(races: Sequence[Callable[[], Latency]], pairs: int) -> list[Latency]:
    """Every race once, and again, `pairs` times: what disturbs a while on a shared machine disturbs all of them."""
    rounds = [[race() for race in races] for _ in range(pairs)]
    return [combined(parts) for parts in zip(*rounds, strict=True)]


def measure_pair(
    models: Sequence[OpenModel],
    inputs: Inputs,
    others: Inputs | None = None,
    *,
    runtime: Runtime,
    runs: int | None = None,
) -> Latency:
    """Latency of two models measured in turn, `runs` rounds, or until the ratio's standard error is below `PRECISION`.

    `others` are the inputs of the second model, where it takes other ones than the first. `runtime` has opened both.

    Raises:
        ModelError: a model does not run.
    """
    feeds = [dict(inputs), dict(inputs if others is None else others)]
    for opened, feed in zip(models, feeds, strict=True):
        opened.run(feed)
    rounds = _rounds(models, feeds, clock(runtime))
    times = _settled(rounds) if runs is None else np.asarray(list(islice(rounds, runs)))
    first, second = np.median(times, axis=0)
    ratios = times[:, 0] / times[:, 1]
    return Latency(
        float(first),
        float(second),
        float(np.median(ratios)),
        len(times),
        runtime.threads,
        runtime.provider,
        _median_error(ratios),
        runtime.name,
    )


def _rounds(
    models: Sequence[OpenModel],
    feeds: Sequence[dict[str, np.ndarray]],
    tick: Clock,
) -> Iterator[tuple[float, ...]]:
    """Milliseconds of every model on its inputs, round by round; who goes first changes."""
    for turn in count():
        times = [0.0] * len(models)
        for index in range(len(models))[:: -1 if turn % 2 else 1]:
            times[index] = _block(models[index], feeds[index], tick)
        yield tuple(times)


def _block(opened: OpenModel, feed: Inputs, tick: Clock) -> float:
    opened.run(feed)
    return min(_run_seconds(opened, feed, tick) for _ in range(BLOCK)) * 1e3


def _run_seconds(opened: OpenModel, feed: Inputs, tick: Clock) -> float:
    """Seconds of one run; by the wall clock where the other one stood still.

    A virtual machine takes what its host stole off a thread's CPU time in lumps, and a lump can be longer than a run.
    """
    wall, start = time.perf_counter(), tick()
    opened.run(feed)
    seconds = tick() - start
    return seconds if seconds > 0 else time.perf_counter() - wall


def _settled(rounds: Iterator[tuple[float, ...]]) -> np.ndarray:
    """Rounds until the median of the ratio of two models (of the time of one) is known well enough."""
    start = time.perf_counter()
    times: list[tuple[float, ...]] = []
    for row in rounds:
        times.append(row)
        spent = time.perf_counter() - start
        if len(times) < ROUNDS or spent < SECONDS[0]:
            continue
        table = np.asarray(times)
        if (
            spent > SECONDS[1]
            or _median_error(table[:, 0] / (table[:, 1] if len(row) > 1 else 1))
            <= PRECISION
        ):
            break
    return np.asarray(times)


def _median_error(figures: np.ndarray) -> float:
    """Standard error of a median as a share of it: 1.253 sigma / sqrt(n), with sigma from the quartiles."""
    low, middle, high = np.quantile(figures, (0.25, 0.5, 0.75))
    return float(1.253 * (high - low) / 1.349 / np.sqrt(len(figures)) / middle)

"""What a runtime is: it opens models, runs them, and says how to time that.

A runtime is one class, registered under the name that `--runtime` takes. ONNX Runtime is the one whose results count
(statistics, proofs, what a written file must run in); another one is asked what models take and compute there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np

from prunegraph.graph.model import Graph
from prunegraph.registry import Registry

Inputs = Mapping[str, np.ndarray]

#: Seconds since some moment.
Clock = Callable[[], float]


class OpenModel(Protocol):
    """A model that is ready to run."""

    def run(self, inputs: Inputs) -> list[np.ndarray]:
        """Outputs in the order of the graph's. Raises ModelError where the run fails."""


class Runtime(Protocol):
    """A library that runs models, on one of its devices, with a number of threads.

    `name` is what it is registered under, `title` what messages call it. `provider` is the device by its full name (an
    execution provider of ONNX Runtime), `threads` how many an operator gets; 0 leaves it to the library.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    provider: str
    threads: int

    def open(self, model: Graph | Path, name: str = "model") -> OpenModel:
        """Open a graph or a file; `name` is what messages call it. Raises ModelError where that fails."""

    def environment(self) -> dict[str, str]:
        """What measured times depend on besides the processor: versions, device, threads."""

    @property
    def is_one_thread(self) -> bool:
        """Whether the thread that calls does all the work, so that its CPU time is the model's."""


#: Makes a runtime from the name of a device (None is its default one) and a number of threads.
RuntimeFactory = Callable[[str | None, int], Runtime]

RUNTIMES: Registry[RuntimeFactory] = Registry("runtime", "prunegraph.runtimes")


def clock(runtime: Runtime) -> Clock:
    """Say what to time a run with: the thread's CPU time where that one thread does all the work."""
    exact = time.get_clock_info("thread_time").resolution <= 1e-6
    return time.thread_time if runtime.is_one_thread and exact else time.perf_counter

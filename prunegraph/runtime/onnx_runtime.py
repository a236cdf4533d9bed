"""ONNX Runtime, as one of the runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from prunegraph.graph.model import Graph
from prunegraph.runtime.engine import RUNTIMES, Inputs
from prunegraph.runtime.session import CPU, provider_name, run, session

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


@RUNTIMES.register("onnxruntime")
class OnnxRuntime:
    """ONNX Runtime: default sessions.

    Args:
        provider: an execution provider (see `provider_name`); None is the CPU.
        threads: of an operator; 0 leaves it to ONNX Runtime (see `default_threads`).

    Raises:
        UnknownNameError: there is no such provider here.
    """

    name: ClassVar[str] = "onnxruntime"
    title: ClassVar[str] = "ONNX Runtime"

    def __init__(self, provider: str | None = None, threads: int = 1):
        self.provider, self.threads = provider_name(provider), threads

    def open(self, model: Graph | Path, name: str = "model") -> OnnxModel:
        """A session of ONNX Runtime. Raises ModelError where it cannot load the model."""
        return OnnxModel(
            session(model, name=name, threads=self.threads, provider=self.provider)
        )

    def environment(self) -> dict[str, str]:
        """Version, provider and threads."""
        import onnxruntime

        version = str(onnxruntime.__version__)
        return {
            self.name: version,
            "provider": self.provider,
            "threads": str(self.threads),
        }

    @property
    def is_one_thread(self) -> bool:
        """True for one thread of the CPU."""
        return self.provider == CPU and self.threads == 1


class OnnxModel:
    """A session."""

    def __init__(self, opened: InferenceSession):
        self._session = opened

    def run(self, inputs: Inputs) -> list[np.ndarray]:
        """All outputs. Raises ModelError if the run fails."""
        return run(self._session, inputs)

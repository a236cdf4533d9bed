"""ONNX Runtime sessions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from prunegraph.errors import ModelError

if TYPE_CHECKING:
    import onnx
    import onnxruntime



def session(
    model: onnx.ModelProto | bytes | Path | str, *, name: str = "model", threads: int = 0, fast: bool = True
) -> onnxruntime.InferenceSession:
    """A session on the CPU.

    Args:
        model: the model, its bytes, or its path (needed where it has external data).
        name: what to call it in messages.
        threads: how many threads an operator uses; 0 leaves it to ONNX Runtime.
        fast: all graph optimizations and pre-packed weights; off, loading is quicker and
            takes less memory, for a model that runs once or twice.

    Raises:
        ModelError: ONNX Runtime cannot load the model.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    if not fast:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.add_session_config_entry("session.disable_prepacking", "1")
        options.enable_cpu_mem_arena = False
    if not isinstance(model, (bytes, str, Path)):
        model = model.SerializeToString()
    try:
        source = str(model) if isinstance(model, Path) else model
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ModelError(f"{name}: ONNX Runtime cannot load it: {_first_line(error)}") from error


def run(
    opened: onnxruntime.InferenceSession, inputs: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None
) -> list[np.ndarray]:
    """Outputs in order (all, or those named). Raises ModelError if the run fails."""
    try:
        result: list[np.ndarray] = opened.run(outputs, dict(inputs))
    except Exception as error:
        raise ModelError(f"ONNX Runtime cannot run the model: {_first_line(error)}") from error
    return result


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:400]

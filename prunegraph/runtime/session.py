"""ONNX Runtime sessions."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx

from prunegraph.errors import ModelError
from prunegraph.graph.external import without_weights, write_graph, write_stream
from prunegraph.graph.model import Graph

if TYPE_CHECKING:
    import onnxruntime

#: Threads of a session that does not ask for a number; 0 leaves it to ONNX Runtime.
_threads: ContextVar[int] = ContextVar("threads", default=0)


@contextmanager
def default_threads(threads: int) -> Iterator[None]:
    """Sessions made inside get this many threads unless they ask for another number.

    For work that runs side by side: sessions with a thread for every core would fight for them.
    """
    token = _threads.set(threads)
    try:
        yield
    finally:
        _threads.reset(token)


def session(
    model: Graph | Path, *, name: str = "model", threads: int = 0, fast: bool = True
) -> onnxruntime.InferenceSession:
    """A session on the CPU.

    Args:
        model: a graph, or the path of a model file.
        name: what to call it in messages.
        threads: how many threads an operator uses; 0 is the default (see `default_threads`).
        fast: all graph optimizations and pre-packed weights; off, loading is quicker and
            takes less memory, for a model that runs once or twice.

    Raises:
        ModelError: ONNX Runtime cannot load the model.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads or _threads.get()
    if not fast:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.add_session_config_entry("session.disable_prepacking", "1")
        options.enable_cpu_mem_arena = False
        options.enable_mem_pattern = False
    if isinstance(model, Graph):
        # By way of files: weights are mapped from there, and nothing goes through one protobuf.
        folder = tempfile.mkdtemp(prefix="prunegraph-")
        write_graph(model, Path(folder) / "model.onnx")
        try:
            opened = session(Path(folder) / "model.onnx", name=name, threads=threads, fast=fast)
        except ModelError:
            shutil.rmtree(folder)
            raise
        weakref.finalize(opened, shutil.rmtree, folder)
        return opened
    try:
        return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ModelError(f"{name}: ONNX Runtime cannot load it: {_first_line(error)}") from error


def run_values(graph: Graph, inputs: Mapping[str, np.ndarray], names: Sequence[str]) -> dict[str, np.ndarray]:
    """Values of a graph by name, inner ones too. Raises ModelError."""
    values = next(run_batches(graph, [inputs], names))
    return dict(zip(names, values, strict=True))


def run_batches(
    graph: Graph, batches: Iterable[Mapping[str, np.ndarray]], names: Sequence[str]
) -> Iterator[list[np.ndarray]]:
    """Values of a graph by name, inner ones too, batch by batch in one session. Raises ModelError."""
    with tempfile.TemporaryDirectory(prefix="prunegraph-") as folder:
        path = Path(folder) / "model.onnx"
        _write_with_outputs(graph, names, path)
        opened = session(path, name=graph.source, fast=False)
        for batch in batches:
            yield run(opened, batch, list(names))


def _write_with_outputs(graph: Graph, names: Sequence[str], path: Path) -> None:
    model = without_weights(graph.model)
    present = {output.name for output in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in present)
    write_stream(model, graph.model.graph.initializer, path, graph.folder)


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

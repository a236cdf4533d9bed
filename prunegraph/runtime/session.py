"""ONNX Runtime sessions."""

from __future__ import annotations

import ctypes
import shutil
import tempfile
import weakref
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx

from prunegraph.errors import ModelError, UnknownNameError
from prunegraph.graph.external import without_graph, write_graph, write_stream
from prunegraph.graph.model import Graph
from prunegraph.graph.order import captured

if TYPE_CHECKING:
    import onnxruntime

#: Types of ONNX Runtime that NumPy lacks; arrays of them are of types of the package ml_dtypes.
FOREIGN = frozenset(
    f"tensor({name})"
    for name in (
        "bfloat16",
        "float8e4m3fn",
        "float8e4m3fnuz",
        "float8e5m2",
        "float8e5m2fnuz",
    )
)

#: How their bits are handed over, by size.
_BITS = {1: np.uint8, 2: np.uint16}

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


def asked_threads(threads: int) -> int:
    """How many threads to ask for: those given, or those of `default_threads`; 0 leaves it to the runtime."""
    return threads or _threads.get()


#: The execution provider that every installation has.
CPU = "CPUExecutionProvider"


def provider_name(name: str | None) -> str:
    """An execution provider's full name: of `CPUExecutionProvider`, "cpu" will do; None is the CPU.

    Raises:
        UnknownNameError: ONNX Runtime has no such provider here; the message lists those it has.
    """
    import onnxruntime

    if name is None:
        return CPU
    available = onnxruntime.get_available_providers()
    short = name.lower().removesuffix("executionprovider")
    for each in available:
        if each.lower().removesuffix("executionprovider") == short:
            return str(each)
    raise UnknownNameError("execution provider", name, available)


def session(
    model: Graph | Path,
    *,
    name: str = "model",
    threads: int = 0,
    fast: bool = True,
    optimized: bool = True,
    spins: bool = True,
    provider: str = CPU,
) -> onnxruntime.InferenceSession:
    """A session of ONNX Runtime.

    Args:
        model: a graph, or the path of a model file.
        name: what to call it in messages.
        threads: how many threads an operator uses; 0 is the default (see `default_threads`).
        fast: all graph optimizations and pre-packed weights; off, loading is quicker and
            takes less memory, for a model that runs once or twice. Values come from ONNX Runtime's arena either way:
            the C library's heap grows to four times of what it needs, and is slower.
        spins: threads wait for work by spinning, which is quickest; off, they sleep, and what
            else runs on the processor gets on.
        optimized: off, the graph runs node by node as the file has it.
        provider: who runs the operators (see `provider_name`); the CPU runs those it cannot.

    Raises:
        ModelError: ONNX Runtime cannot load the model, or the provider does not start.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = asked_threads(threads)
    # Several sessions are often open: the threads of one must not spin while another runs.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if not spins:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not fast:
        options.graph_optimization_level = (
            onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        )
        options.add_session_config_entry("session.disable_prepacking", "1")
    if not optimized:
        options.graph_optimization_level = (
            onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        )
    if isinstance(model, Graph):
        # By way of files: weights are mapped from there, and nothing goes through one protobuf.
        folder = tempfile.mkdtemp(prefix="prunegraph-")
        write_graph(model, Path(folder) / "model.onnx")
        try:
            path = Path(folder) / "model.onnx"
            opened = session(
                path,
                name=name,
                threads=threads,
                fast=fast,
                optimized=optimized,
                spins=spins,
                provider=provider,
            )
        except ModelError:
            shutil.rmtree(folder)
            raise
        weakref.finalize(opened, shutil.rmtree, folder)
        return opened
    try:
        opened = onnxruntime.InferenceSession(
            str(model), options, providers=list(dict.fromkeys((provider, CPU)))
        )
    except Exception as error:
        raise ModelError(
            f"{name}: ONNX Runtime cannot load it: {_first_line(error)}"
        ) from error
    if provider not in opened.get_providers():
        # ONNX Runtime falls back to the CPU with no more than a warning.
        raise ModelError(
            f"{name}: {provider} does not start on this machine (a driver or library is missing)"
        )
    return opened


def run_values(
    graph: Graph, inputs: Mapping[str, np.ndarray], names: Sequence[str]
) -> dict[str, np.ndarray]:
    """Values of a graph by name, inner ones too. Raises ModelError."""
    values = next(run_batches(graph, [inputs], names))
    return dict(zip(names, values, strict=True))


def run_batches(
    graph: Graph,
    batches: Iterable[Mapping[str, np.ndarray]],
    names: Sequence[str],
    *,
    fast: bool = False,
) -> Generator[list[np.ndarray], None, None]:
    """Values of a graph by name, inner ones too, batch by batch in one session (see `session` for `fast`).

    With `fast` and outputs alone, that session is the one a user opens.

    Raises:
        ModelError: the graph cannot be loaded or run.
    """
    with tempfile.TemporaryDirectory(prefix="prunegraph-") as folder:
        path = Path(folder) / "model.onnx"
        _write_with_outputs(graph, names, path)
        opened = session(path, name=graph.source, fast=fast, spins=False)
        for batch in batches:
            yield run(opened, batch, list(names))


def _write_with_outputs(graph: Graph, names: Sequence[str], path: Path) -> None:
    """Write what of a graph is needed for some of its values: ONNX Runtime would compute the rest too."""
    model = without_graph(graph.model)
    declared = {output.name: output for output in graph.model.graph.output}
    needed, nodes = set(names), []
    for proto in reversed(graph.model.graph.node):
        if needed.intersection(proto.output):
            nodes.append(proto)
            needed.update(proto.input, captured(proto))
    # Old files declare weights as inputs too: one that is left out must not be asked for.
    weights = [each for each in graph.model.graph.initializer if each.name in needed]
    held = {each.name for each in graph.model.graph.initializer}.difference(needed)
    inputs = [entry for entry in graph.model.graph.input if entry.name not in held]
    del model.graph.input[:], model.graph.output[:]
    model.graph.input.extend(inputs)
    model.graph.node.extend(reversed(nodes))
    model.graph.output.extend(
        declared.get(name) or onnx.ValueInfoProto(name=name)
        for name in dict.fromkeys(names)
    )
    write_stream(model, weights, path, graph.folder)


def run(
    opened: onnxruntime.InferenceSession,
    inputs: Mapping[str, np.ndarray],
    outputs: Sequence[str] | None = None,
) -> list[np.ndarray]:
    """Outputs in order (all, or those named). Raises ModelError if the run fails."""
    names = list(outputs or (each.name for each in opened.get_outputs()))
    foreign = {
        each.name
        for each in (*opened.get_inputs(), *opened.get_outputs())
        if each.type in FOREIGN
    }
    try:
        if foreign.intersection((*inputs, *names)):
            return _run_values(opened, inputs, names, foreign)
        result: list[np.ndarray] = opened.run(names, dict(inputs))
    except Exception as error:
        raise ModelError(
            f"ONNX Runtime cannot run the model: {_first_line(error)}"
        ) from error
    return result


def _run_values(
    opened: onnxruntime.InferenceSession,
    inputs: Mapping[str, np.ndarray],
    outputs: list[str],
    foreign: Set[str],
) -> list[np.ndarray]:
    """A run with types that NumPy lacks: ONNX Runtime takes and gives them as values of its own."""
    from onnxruntime import OrtValue

    values = {}
    for name, array in inputs.items():
        if name in foreign:
            kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
            bits = np.ascontiguousarray(array).view(_BITS[array.dtype.itemsize])
            values[name] = OrtValue.ortvalue_from_numpy_with_onnx_type(bits, kind)
        else:
            values[name] = OrtValue.ortvalue_from_numpy(array)
    created = opened.run_with_ort_values(outputs, values)
    return [
        _to_array(value) if name in foreign else value.numpy()
        for name, value in zip(outputs, created, strict=True)
    ]


def _to_array(value: onnxruntime.OrtValue) -> np.ndarray:
    dtype = onnx.helper.tensor_dtype_to_np_dtype(value.element_type())
    size = int(np.prod(value.shape(), dtype=np.int64)) * dtype.itemsize
    return np.frombuffer(ctypes.string_at(value.data_ptr(), size), dtype).reshape(
        value.shape()
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:400]

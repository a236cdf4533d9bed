"""Lossless reading and writing of ONNX files."""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from prunegraph.errors import MISFIT, ModelError
from prunegraph.graph import spilling, stored
from prunegraph.graph.external import SCRATCH_DATA, write_graph
from prunegraph.graph.model import Graph, Home
from prunegraph.graph.sources import Sources
from prunegraph.graph.spilling import Spilled


def load(path: str | Path) -> Graph:
    """Read an ONNX file. External data stays on disk until a weight is asked for.

    So do the weights of files of `spilling.LARGE` bytes or more, in a copy that is gone with the graph.

    Local functions are inlined: same outputs, plain nodes.

    Raises:
        ModelError: missing, a folder, not ONNX, truncated, or an invalid graph.
    """
    path = Path(path)
    try:
        spilled = spilling.read(path) if path.stat().st_size >= spilling.LARGE else None
        if spilled is not None:
            return _of_spilled(spilled, path)
        data = path.read_bytes()
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise ModelError(
            f"{path}: is a folder, not a model file (images are given as --data)"
        ) from None
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError as error:
        raise ModelError(f"{path}: not an ONNX file, or truncated ({error})") from error
    _check_graph(model, path)
    digest = hashlib.sha256(data).hexdigest()
    del data
    return from_model(model, path=path, source=str(path), digest=digest)


def _of_spilled(spilled: Spilled, path: Path) -> Graph:
    """The graph of a file whose weights lie in a folder made for it. Raises ModelError."""
    try:
        _check_graph(spilled.model, path)
        return from_model(
            spilled.model,
            path=spilled.path,
            source=str(path),
            digest=spilled.digest,
            home=Home(path.parent, in_one_file=True),
        )
    except BaseException:
        shutil.rmtree(spilled.folder, ignore_errors=True)
        raise


def _check_graph(model: onnx.ModelProto, path: Path) -> None:
    if (not model.graph.node and not model.graph.output) or not model.opset_import:
        raise ModelError(f"{path}: not an ONNX file, or truncated (no graph in it)")


def from_model(
    model: onnx.ModelProto,
    *,
    path: Path | None = None,
    source: str = "model",
    digest: str | None = None,
    sources: Sources | None = None,
    home: Home | None = None,
) -> Graph:
    """A Graph over a `ModelProto` (kept, not copied).

    Args:
        model: the model.
        path: the file it comes from, beside which external data lie; None for one made in memory.
        source: what to call it in messages.
        digest: sha256 of the file.
        sources: where its weights come from.
        home: the file it was read from, where its external data lie in a folder that was made for it.

    Raises:
        ModelError: an invalid graph, or external data that are missing, too short or outside of the model's folder.
    """
    folder = path.parent if path is not None else None
    try:
        if model.functions:
            model = _inline(model, source)
        stored.check(model, path, source)
        _check_weights(model, source)
        has_own_folder = home is not None
        if home is None and folder is not None:
            home = Home(folder, weights=stored.files(model, folder))
        # Files are written with external data of the main graph's weights only.
        stored.take_in(list(stored.inner(model.graph)), folder, source)
        return Graph(
            model,
            folder=folder,
            source=source,
            digest=digest,
            scratch=has_own_folder,
            sources=sources,
            home=home,
        )
    except MISFIT as error:
        raise ModelError(f"{source}: not a valid model: {error!r}") from error


def _inline(model: onnx.ModelProto, source: str) -> onnx.ModelProto:
    from onnx import inliner

    try:
        return inliner.inline_local_functions(model)
    except Exception as error:
        raise ModelError(f"{source}: local functions cannot be inlined: {error}") from error


def _check_weights(model: onnx.ModelProto, source: str) -> None:
    """Names are unique and the bytes of every initializer are there."""
    seen: set[str] = set()
    for tensor in model.graph.initializer:
        if tensor.name in seen:
            raise ModelError(f"{source}: two initializers are named {tensor.name!r}")
        seen.add(tensor.name)
        if any(size < 0 for size in tensor.dims):
            raise ModelError(
                f"{source}: weight {tensor.name!r} has a negative size: {list(tensor.dims)}"
            )
        external = tensor.data_location == onnx.TensorProto.EXTERNAL
        # No type takes less than a bit an element; types are checked when the weight is read.
        if not external and math.prod(tensor.dims) > 8 * tensor.ByteSize():
            raise ModelError(
                f"{source}: weight {tensor.name!r} has fewer bytes than its shape {list(tensor.dims)} needs"
            )


def save(
    graph: Graph, path: str | Path, check: Callable[[Path], None] | None = None
) -> None:
    """Write a model beside its destination, then rename: never a half-written file.

    Weights that the model's file did not hold stay external, in `<name>.data` beside the model.

    Args:
        graph: the model.
        path: where it goes.
        check: looks at the finished file before it is renamed; if it raises, nothing is written.

    Raises:
        ModelError: the destination cannot be written, is there and no file, or holds weights of the model's file.
    """
    path = Path(path)
    check_is_file(path)
    check_keeps_weights(graph, path)
    if graph.home.in_one_file or not has_external(graph):
        write_whole(path, graph.file_bytes(), check)
        return
    try:
        with tempfile.TemporaryDirectory(
            prefix=f".{path.name}.", dir=path.parent
        ) as folder:
            beside = Path(folder) / path.name
            if not (graph.scratch and _link(graph, beside)):
                write_graph(graph, beside)
            if check is not None:
                check(beside)
            for name in (f"{path.name}.data", path.name):
                os.replace(beside.with_name(name), path.with_name(name))
    except OSError as error:
        raise ModelError(f"{path}: cannot be written: {error.strerror}") from error


def _link(graph: Graph, path: Path) -> bool:
    """Write a graph whose weights lie in one file of its own by linking that file; False where links fail."""
    assert graph.folder is not None
    try:
        os.link(graph.folder / SCRATCH_DATA, path.with_name(f"{path.name}.data"))
    except OSError:
        return False
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = f"{path.name}.data"
    path.write_bytes(model.SerializeToString(deterministic=True))
    return True


def write_whole(
    path: Path, pieces: Iterable[bytes], check: Callable[[Path], None] | None = None
) -> None:
    """Write a file beside `path`, look at it, then rename it into place. Raises ModelError, and what `check` raises."""
    check_is_file(path)
    try:
        descriptor, beside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise ModelError(f"{path}: cannot be written: {error.strerror}") from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.writelines(pieces)
        if check is not None:
            check(Path(beside))
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(beside, 0o666 & ~mask)
        os.replace(beside, path)
    except OSError as error:
        Path(beside).unlink(missing_ok=True)
        raise ModelError(f"{path}: cannot be written: {error.strerror}") from error
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise


def check_is_file(path: Path) -> None:
    """Raise ModelError for a destination that is there and no file.

    A file that is renamed to the name of a device (`/dev/null`) or a pipe takes its place, for all who use it.
    """
    leads_to_stream = path.is_symlink() and os.readlink(path).startswith("/proc/")
    if leads_to_stream or (path.exists() and not path.is_file()):
        raise ModelError(
            f"{path}: is a device, a pipe or a folder; give the name of a file"
        )


def check_keeps_weights(graph: Graph, *paths: str | os.PathLike[str]) -> None:
    """Raise ModelError for a destination that holds weights of the model's file."""
    for path in paths:
        if Path(os.path.realpath(path)) in graph.home.weights:
            raise ModelError(
                f"{path}: holds weights of {graph.source}; choose another output"
            )


def check_destinations(graph: Graph, *paths: str | os.PathLike[str] | None) -> None:
    """The same before the work, also for what would be written beside models. Raises ModelError.

    Written over its own file, a model may replace its own weights.
    """
    given = [path for path in paths if path is not None]
    if has_external(graph):
        own = os.path.realpath(graph.source)
        given += [f"{path}.data" for path in given if os.path.realpath(path) != own]
    check_keeps_weights(graph, *given)


def has_external(graph: Graph) -> bool:
    """Tell whether some weight lies outside the model's own bytes."""
    return any(
        t.data_location == onnx.TensorProto.EXTERNAL for t in graph.model.graph.initializer
    )

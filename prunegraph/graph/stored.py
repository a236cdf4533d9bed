"""External data: where the bytes of a tensor lie that are not in the model's file, and which files may be named.

A model may come from a stranger, and what it names is copied into results. So a location has to be a relative path
without "..", and what it leads to a plain file in the model's folder, or below. Symbolic links count by where they
lead. One layout with links is taken as well, that of the cache of Hugging Face's hub: where the model's file is a link
itself, its data may be links into the very folder in which the real model lies.
"""

from __future__ import annotations

import math
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx

from prunegraph.errors import ModelError
from prunegraph.graph import order

#: Data of subgraphs and attributes are read into memory: at most this many times the size of their files.
SHARED = 16

#: Types of which two or four elements share a byte.
BITS = {
    onnx.TensorProto.INT4: 4,
    onnx.TensorProto.UINT4: 4,
    **{
        getattr(onnx.TensorProto, name): bits
        for name, bits in (("FLOAT4E2M1", 4), ("INT2", 2), ("UINT2", 2))
        if hasattr(onnx.TensorProto, name)
    },
}


@dataclass(frozen=True)
class Stored:
    """Bytes of a tensor: in which file, from where, and how many."""

    path: Path
    offset: int
    length: int

    def read(self) -> bytes:
        """The bytes. Raises OSError."""
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            return file.read(self.length)


def stored(tensor: onnx.TensorProto, folder: Path | None) -> Stored:
    """Where the bytes of an external tensor lie.

    Raises:
        ValueError: the tensor says it in a way that makes no sense, or needs other bytes than are there.
        OSError: the file is not there.
    """
    entries = {entry.key: entry.value for entry in tensor.external_data}
    path = (folder or Path()) / entries.get("location", "")
    needed = size_in_bytes(tensor)
    offset, length = (
        _number(entries, key, default)
        for key, default in (("offset", 0), ("length", needed))
    )
    if length != needed:
        raise ValueError(
            f"length is {length}, but its shape {list(tensor.dims)} takes {needed} bytes"
        )
    size = path.stat().st_size
    if offset + length > size:
        raise ValueError(
            f"bytes {offset} to {offset + length} are needed, and the file has {size}"
        )
    return Stored(path, offset, length)


def _number(entries: dict[str, str], key: str, default: int) -> int:
    if key not in entries:
        return default
    text = entries[key]
    if not text.isdecimal() or len(text) > 20:
        raise ValueError(f"{key} is {text[:40]!r}, which is no whole number")
    return int(text)


def size_in_bytes(tensor: onnx.TensorProto) -> int:
    """Bytes that a tensor of this type and shape takes. Raises ValueError for a type without such a size."""
    if tensor.data_type in BITS:
        return -(-math.prod(tensor.dims) * BITS[tensor.data_type] // 8)
    try:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    except KeyError:
        raise ValueError(f"unknown data type {tensor.data_type}") from None
    if dtype.kind == "O":
        raise ValueError("text cannot be external")
    return int(math.prod(tensor.dims)) * dtype.itemsize


# -- what a model may name ------------------------------------------------------------------


def check(model: onnx.ModelProto, path: Path | None, source: str) -> None:
    """Check all external data of a model.

    Args:
        model: a model; nothing of its data is read.
        path: of its file; None for a model in memory, whose data are looked for in the working directory.
        source: what to call it in messages.

    Raises:
        ModelError: a tensor names a file outside, none that is there, or other bytes than it needs.
    """
    for tensor in tensors(model.graph):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            _check(tensor, path, source)


def files(model: onnx.ModelProto, folder: Path) -> frozenset[Path]:
    """The files, as they really are called, that hold external data of a model in a folder."""
    return frozenset(
        (folder / entry.value).resolve()
        for tensor in tensors(model.graph)
        if tensor.data_location == onnx.TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    )


def take_in(held: list[onnx.TensorProto], folder: Path | None, source: str) -> None:
    """Read external data of some tensors into the model. Raises ModelError."""
    total, files = 0, {}
    for tensor in held:
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        try:
            place = stored(tensor, folder)
            total += place.length
            files[place.path] = place.path.stat().st_size
            if total > SHARED * sum(files.values()):
                raise ValueError("tensors share bytes too often")
            tensor.raw_data = place.read()
        except (OSError, ValueError) as error:
            raise ModelError(
                f"{source}: cannot read weight {tensor.name!r}: {error}"
            ) from error
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]


def tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Every tensor in a graph: weights, parts of sparse weights, attributes; also in subgraphs."""
    yield from graph.initializer
    yield from inner(graph)


def inner(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Every tensor in a graph but its own initializers."""
    queue = [graph]
    while queue:
        now = queue.pop()
        if now is not graph:
            yield from now.initializer
        for sparse in now.sparse_initializer:
            yield from (sparse.values, sparse.indices)
        for node in now.node[:]:
            for attribute in node.attribute[:]:
                if attribute.HasField("t"):
                    yield attribute.t
                yield from attribute.tensors[:]
                for each in (
                    (attribute.sparse_tensor, *attribute.sparse_tensors[:])
                    if _sparse(attribute)
                    else ()
                ):
                    yield from (each.values, each.indices)
            queue += order.subgraphs(node)


def _sparse(attribute: onnx.AttributeProto) -> bool:
    return attribute.HasField("sparse_tensor") or bool(attribute.sparse_tensors)


def _check(tensor: onnx.TensorProto, path: Path | None, source: str) -> None:
    location = next(
        (entry.value for entry in tensor.external_data if entry.key == "location"), ""
    )
    what = f"{source}: external data file {location!r} of weight {tensor.name!r}"
    windows = PureWindowsPath(location)
    outside = (
        PurePosixPath(location).is_absolute()
        or windows.drive
        or windows.root
        or ".." in windows.parts
    )
    if outside or "\0" in location:
        raise ModelError(
            f"{what} is outside of the model's folder; it must be a relative path without '..'"
        )
    folder = path.parent if path is not None else Path()
    try:
        real = (folder / location).resolve(strict=True)
        is_file = stat.S_ISREG(real.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        raise ModelError(f"{what} is missing") from None
    except (OSError, RuntimeError, ValueError) as error:
        raise ModelError(f"{what} cannot be read: {error}") from error
    if not is_file:
        raise ModelError(f"{what} is missing: there is no plain file of that name")
    if not _is_inside(real, folder) and not _is_beside(real, folder / location, path):
        raise ModelError(
            f"{what} is a link to {real}, outside of the model's folder; put the file itself beside the model"
        )
    try:
        stored(tensor, folder)
    except (OSError, ValueError) as error:
        raise ModelError(f"{what} does not hold it: {error}") from error


def _is_inside(real: Path, folder: Path) -> bool:
    return real.is_relative_to(folder.resolve())


def _is_beside(real: Path, named: Path, model: Path | None) -> bool:
    """Tell whether model and data are both links, into one folder."""
    if model is None or not model.is_symlink() or not named.is_symlink():
        return False
    return real.parent == model.resolve().parent

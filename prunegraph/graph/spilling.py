"""Large models in one file, read without holding their weights: they go to a file that lives as long as the graph.

A model that is parsed holds its weights once more, each model that is made of it again. Where they are external data,
they are mapped from disk, and what is not looked at takes no memory. The file that was given is not relied on
afterwards: it may be written over.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import onnx
from google.protobuf.message import DecodeError

from prunegraph.graph.external import ALIGNMENT, MIN_BYTES, SCRATCH, SCRATCH_DATA
from prunegraph.graph.stored import tensors
from prunegraph.graph.wire import number_of, varint

#: Files of at least as many bytes are read like this.
LARGE = 2**27

_GRAPH = number_of(onnx.ModelProto, "graph")
_INITIALIZER = number_of(onnx.GraphProto, "initializer")
_RAW_DATA = number_of(onnx.TensorProto, "raw_data")
_EXTERNAL_DATA = number_of(onnx.TensorProto, "external_data")

#: Kinds of protobuf's fields, and the bytes of those that have a fixed size.
_VARINT, _BYTES, _FIXED = 0, 2, {1: 8, 5: 4}

#: Bytes that are copied at a time.
_CHUNK = 2**22


class _OddError(Exception):
    """What the file holds is better read as a whole: it is no model, or has its weights elsewhere already."""


@dataclass(frozen=True)
class Spilled:
    """A model whose large weights lie in `folder`, and the sha256 of the file it was read from."""

    model: onnx.ModelProto
    folder: Path
    digest: str

    @property
    def path(self) -> Path:
        """Where the model would lie beside its weights; there is no file."""
        return self.folder / SCRATCH


def read(path: Path) -> Spilled | None:
    """A model whose weights lie in a folder that is the caller's to remove; None for one to be read as a whole.

    Raises OSError where the file cannot be read; where there is no room for the weights, the answer is None.
    """
    with open(path, "rb") as file:
        size = path.stat().st_size
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        folder = Path(tempfile.mkdtemp(prefix="prunegraph-"))
        try:
            with open(folder / SCRATCH_DATA, "wb") as data:
                file.seek(0)
                sink = _Sink(data)
                stripped = b"".join(_model(file, size, sink))
            model = onnx.ModelProto.FromString(stripped)
            _check(model, sink)
        except (_OddError, DecodeError, OSError):
            shutil.rmtree(folder, ignore_errors=True)
            return None
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    return Spilled(model, folder, digest)


@dataclass(frozen=True)
class _Field:
    """A field of a message in a file: where it starts, where its content does, and where it ends."""

    number: int
    start: int
    content: int
    end: int


@dataclass
class _Sink:
    """The file that weights go to, and where they lie there, as external data say it."""

    file: BinaryIO
    places: list[dict[str, str]] = field(default_factory=list)

    def take(self, source: BinaryIO, entry: _Field) -> dict[str, str]:
        """Write a weight's bytes."""
        self.file.write(b"\0" * (-self.file.tell() % ALIGNMENT))
        place = {
            "location": SCRATCH_DATA,
            "offset": str(self.file.tell()),
            "length": str(entry.end - entry.content),
        }
        _copy(source, entry, self.file)
        self.places.append(place)
        return place


def _check(model: onnx.ModelProto, sink: _Sink) -> None:
    """Raise _OddError unless what is external are the weights that were written."""
    external = [
        {entry.key: entry.value for entry in tensor.external_data}
        for tensor in tensors(model.graph)
        if tensor.data_location == onnx.TensorProto.EXTERNAL
    ]
    if external != sink.places:
        raise _OddError


def _model(file: BinaryIO, size: int, sink: _Sink) -> Iterator[bytes]:
    for each in _fields(file, 0, size):
        if each.number == _GRAPH:
            yield _entry(_GRAPH, b"".join(_graph(file, each, sink)))
        else:
            yield _bytes(file, each.start, each.end)


def _graph(file: BinaryIO, graph: _Field, sink: _Sink) -> Iterator[bytes]:
    for each in _fields(file, graph.content, graph.end):
        if each.number == _INITIALIZER and each.end - each.content >= MIN_BYTES:
            yield _entry(_INITIALIZER, b"".join(_tensor(file, each, sink)))
        else:
            yield _bytes(file, each.start, each.end)


def _tensor(file: BinaryIO, tensor: _Field, sink: _Sink) -> Iterator[bytes]:
    """A tensor without its bytes, which go to the sink."""
    raw: list[_Field] = []
    for each in _fields(file, tensor.content, tensor.end):
        if each.number == _EXTERNAL_DATA:
            raise _OddError
        if each.number == _RAW_DATA and each.end - each.content >= MIN_BYTES:
            raw.append(each)
        else:
            yield _bytes(file, each.start, each.end)
    if len(raw) > 1:
        raise _OddError
    for each in raw:
        place = onnx.TensorProto(data_location=onnx.TensorProto.EXTERNAL)
        for key, value in sink.take(file, each).items():
            place.external_data.add(key=key, value=value)
        yield place.SerializeToString()


def _fields(file: BinaryIO, start: int, end: int) -> Iterator[_Field]:
    """The fields of a message. Raises _OddError where it is none."""
    while start < end:
        file.seek(start)
        tag = _varint(file)
        kind = tag & 7
        if kind == _VARINT:
            _varint(file)
            content = stop = file.tell()
        elif kind == _BYTES:
            length = _varint(file)
            content = file.tell()
            stop = content + length
        elif kind in _FIXED:
            content = file.tell()
            stop = content + _FIXED[kind]
        else:
            raise _OddError
        if stop > end:
            raise _OddError
        yield _Field(tag >> 3, start, content, stop)
        start = stop


def _varint(file: BinaryIO) -> int:
    """A number of up to 64 bits: seven bits a byte, lowest first."""
    result = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            raise _OddError
        result |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return result
    raise _OddError


def _entry(number: int, content: bytes) -> bytes:
    return varint(number << 3 | _BYTES) + varint(len(content)) + content


def _bytes(file: BinaryIO, start: int, end: int) -> bytes:
    file.seek(start)
    return file.read(end - start)


def _copy(file: BinaryIO, entry: _Field, data: BinaryIO) -> None:
    file.seek(entry.content)
    remaining = entry.end - entry.content
    while remaining:
        chunk = file.read(min(remaining, _CHUNK))
        if not chunk:
            raise _OddError
        data.write(chunk)
        remaining -= len(chunk)

"""A model's file bytes, in pieces: what `SerializeToString` gives, without a second copy of the weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import Message

from prunegraph.graph.fields import set_field
from prunegraph.graph.stored import size_in_bytes, stored


def number_of(message: type[Message], field: str) -> int:
    """The number by which a file knows a field."""
    return int(message.DESCRIPTOR.fields_by_name[field].number)


_GRAPH = number_of(onnx.ModelProto, "graph")
_INITIALIZER = number_of(onnx.GraphProto, "initializer")
_RAW_DATA = number_of(onnx.TensorProto, "raw_data")


def pieces(
    model: onnx.ModelProto, folder: Path | None = None, *, taken_in: bool = False
) -> Iterator[bytes]:
    """The bytes of a model, weight by weight. Joined they are the deterministic serialization.

    Protobuf writes fields in the order of their numbers, so the graph can be written as
    what comes before its initializers, the initializers, and the rest.

    Args:
        model: the model.
        folder: where external data lie.
        taken_in: whether the bytes of external data are written as if they were the model's own.

    Raises:
        OSError: external data cannot be read.
    """
    before, after = onnx.ModelProto(), onnx.ModelProto()
    for field, value in model.ListFields():
        if field.number != _GRAPH:
            set_field(before if field.number < _GRAPH else after, field.name, value)
    head, tail = onnx.GraphProto(), onnx.GraphProto()
    for field, value in model.graph.ListFields():
        if field.number != _INITIALIZER:
            set_field(head if field.number < _INITIALIZER else tail, field.name, value)
    first, last = (part.SerializeToString(deterministic=True) for part in (head, tail))
    sizes = [_size(tensor, taken_in) for tensor in model.graph.initializer]
    tag = varint(_INITIALIZER << 3 | 2)
    total = (
        len(first) + len(last) + sum(len(tag) + len(varint(size)) + size for size in sizes)
    )
    yield before.SerializeToString(deterministic=True)
    if model.HasField("graph"):
        yield varint(_GRAPH << 3 | 2) + varint(total) + first
        for tensor, size in zip(model.graph.initializer, sizes, strict=True):
            yield tag + varint(size)
            if taken_in and _is_external(tensor):
                tensor = _taken_in(tensor, stored(tensor, folder).read())
            yield tensor.SerializeToString(deterministic=True)
        yield last
    yield after.SerializeToString(deterministic=True)


def _is_external(tensor: onnx.TensorProto) -> bool:
    return tensor.data_location == onnx.TensorProto.EXTERNAL


def _size(tensor: onnx.TensorProto, taken_in: bool) -> int:
    """Bytes of a tensor in the file."""
    if not taken_in or not _is_external(tensor):
        return tensor.ByteSize()
    held = size_in_bytes(tensor)
    head = varint(_RAW_DATA << 3 | 2) + varint(held)
    return _taken_in(tensor, None).ByteSize() + len(head) + held


def _taken_in(tensor: onnx.TensorProto, data: bytes | None) -> onnx.TensorProto:
    """An external tensor with bytes of its own."""
    result = onnx.TensorProto()
    result.CopyFrom(tensor)
    del result.external_data[:]
    result.ClearField("data_location")
    if data is not None:
        result.raw_data = data
    return result


def varint(number: int) -> bytes:
    """A number as protobuf writes it: seven bits a byte, lowest first."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)

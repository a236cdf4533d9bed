"""A model's file bytes, in pieces: what `SerializeToString` gives, without a second copy of the weights."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from prunegraph.graph.fields import set_field

_GRAPH = onnx.ModelProto.DESCRIPTOR.fields_by_name["graph"].number
_INITIALIZER = onnx.GraphProto.DESCRIPTOR.fields_by_name["initializer"].number


def pieces(model: onnx.ModelProto) -> Iterator[bytes]:
    """The bytes of a model, weight by weight. Joined they are the deterministic serialization.

    Protobuf writes fields in the order of their numbers, so the graph can be written as
    what comes before its initializers, the initializers, and the rest.
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
    sizes = [tensor.ByteSize() for tensor in model.graph.initializer]
    tag = _varint(_INITIALIZER << 3 | 2)
    total = (
        len(first) + len(last) + sum(len(tag) + len(_varint(size)) + size for size in sizes)
    )
    yield before.SerializeToString(deterministic=True)
    if model.HasField("graph"):
        yield _varint(_GRAPH << 3 | 2) + _varint(total) + first
        for tensor, size in zip(model.graph.initializer, sizes, strict=True):
            yield tag + _varint(size)
            yield tensor.SerializeToString(deterministic=True)
        yield last
    yield after.SerializeToString(deterministic=True)


def _varint(number: int) -> bytes:
    """A number as protobuf writes it: seven bits a byte, lowest first."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)

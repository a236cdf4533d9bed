"""Models written as a stream: a small file for the graph, weights one after the other beside it.

ONNX Runtime maps such weights from disk, so a model that only runs once or twice is never
in memory as a whole, and nothing goes through one protobuf.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import onnx

from prunegraph.graph.fields import set_field
from prunegraph.graph.model import Graph
from prunegraph.graph.stored import stored

#: Smaller tensors stay in the graph's file: shape inference needs their values.
MIN_BYTES = 1024

#: Files of a graph that lives in a folder of its own.
SCRATCH = "model.onnx"
SCRATCH_DATA = f"{SCRATCH}.data"

#: Offsets are multiples of this, so that weights can be mapped from disk.
ALIGNMENT = 4096


def write_stream(
    model: onnx.ModelProto,
    weights: Iterable[onnx.TensorProto],
    path: Path,
    folder: Path | None,
) -> None:
    """Write `model` with `weights` as its initializers to `path`, large ones to `path`.data.

    Args:
        model: a model without initializers; they are added to it, without their bytes.
        weights: taken one at a time.
        path: of the graph's file.
        folder: where weights that are external already lie.
    """
    location = f"{path.name}.data"
    with open(path.with_name(location), "wb") as file:
        for tensor in weights:
            data = raw_bytes(tensor, folder)
            if data is None or len(data) < MIN_BYTES:
                model.graph.initializer.append(
                    tensor if data is None else _inside(tensor, data)
                )
                continue
            file.write(b"\0" * (-file.tell() % ALIGNMENT))
            entry = model.graph.initializer.add()
            _describe(entry, tensor)
            entry.data_location = onnx.TensorProto.EXTERNAL
            for key, value in (
                ("location", location),
                ("offset", file.tell()),
                ("length", len(data)),
            ):
                entry.external_data.add(key=key, value=str(value))
            file.write(data)
    path.write_bytes(model.SerializeToString())


def _inside(tensor: onnx.TensorProto, data: bytes) -> onnx.TensorProto:
    result = onnx.TensorProto(raw_data=data)
    _describe(result, tensor)
    return result


def _describe(entry: onnx.TensorProto, tensor: onnx.TensorProto) -> None:
    """Say of an entry all that a tensor is besides its values."""
    for field, value in tensor.ListFields():
        if field.name in ("dims", "data_type", "name", "doc_string", "metadata_props"):
            set_field(entry, field.name, value)


def raw_bytes(tensor: onnx.TensorProto, folder: Path | None) -> bytes | None:
    """The bytes of a tensor as files hold them, or None for what has no such form (strings)."""
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return stored(tensor, folder).read()
    if tensor.HasField("raw_data"):
        return tensor.raw_data
    if tensor.data_type == onnx.TensorProto.STRING or not math.prod(tensor.dims):
        return None
    return onnx.numpy_helper.to_array(tensor).tobytes()


def without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of everything but the initializers."""
    copy = without_graph(model)
    copy.graph.node.extend(model.graph.node)
    return copy


def without_graph(source: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of everything but nodes and initializers."""
    model = onnx.ModelProto()
    for field, value in source.ListFields():
        if field.name != "graph":
            set_field(model, field.name, value)
    for field, value in source.graph.ListFields():
        if field.name not in ("node", "initializer"):
            set_field(model.graph, field.name, value)
    return model


def write_graph(graph: Graph, path: Path) -> None:
    """Write a graph as a stream."""
    write_stream(
        without_weights(graph.model), graph.model.graph.initializer, path, graph.folder
    )


def declare_piece(piece: onnx.GraphProto, graph: Graph, outputs: Sequence[str]) -> None:
    """Give some of a graph's nodes, run by themselves, their outputs and the shapes that the file declares.

    ONNX Runtime needs the shapes behind operators without inference: a Scan wants to know what its subgraph returns.

    Args:
        piece: a graph that holds the nodes; outputs and shapes are added to it.
        graph: where they are from.
        outputs: names of values that the nodes make.
    """
    declared = {
        entry.name: entry
        for entry in (*graph.model.graph.value_info, *graph.model.graph.output)
    }
    created = {name for node in piece.node for name in node.output if name}
    piece.output.extend(
        declared.get(name, onnx.ValueInfoProto(name=name)) for name in outputs
    )
    piece.value_info.extend(
        entry for name, entry in declared.items() if name in created and name not in outputs
    )

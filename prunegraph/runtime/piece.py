"""Running some nodes of a graph by themselves."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import helper, numpy_helper

from prunegraph.graph import order
from prunegraph.graph.external import declare_piece, write_stream
from prunegraph.graph.model import Graph
from prunegraph.runtime.session import run, session

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

Array = np.ndarray

#: A value's type, and its sizes; None for those that differ from batch to batch.
Kind = tuple[np.dtype, Sequence[int | None]]


def read_by(proto: onnx.NodeProto) -> list[str]:
    """Values a node reads, also in its subgraphs."""
    return [value for value in (*proto.input, *order.captured(proto)) if value]


@contextmanager
def opened_piece(
    graph: Graph,
    protos: Sequence[onnx.NodeProto],
    given: Mapping[str, Kind],
    wanted: Sequence[str],
    weights: Mapping[str, Array],
    *,
    spins: bool = True,
) -> Iterator[InferenceSession]:
    """A session of some nodes; its files are there as long as the context.

    Args:
        graph: where the nodes and the weights are from.
        protos: the nodes, in order.
        given: values that are inputs now; weights of the graph may be among them.
        wanted: names of values that the nodes make.
        weights: values that replace those of the graph.
        spins: whether threads wait busily (see `runtime.session`).

    Raises:
        ModelError: ONNX Runtime does not open them.
    """
    model = onnx.ModelProto(ir_version=graph.model.ir_version)
    model.opset_import.extend(graph.model.opset_import)
    model.graph.name = "piece"
    model.graph.node.extend(protos)
    for name, (dtype, sizes) in given.items():
        kind = helper.np_dtype_to_tensor_dtype(dtype)
        model.graph.input.append(helper.make_tensor_value_info(name, kind, sizes))
    declare_piece(model.graph, graph, wanted)
    read = {value for proto in protos for value in read_by(proto)}.difference(given)
    sparse = graph.model.graph.sparse_initializer
    model.graph.sparse_initializer.extend(t for t in sparse if t.values.name in read)
    tensors = (
        numpy_helper.from_array(np.ascontiguousarray(weights[name]), name)
        if name in weights
        else _named(graph.weights[name].tensor, name)
        for name in sorted(read)
        if name in weights or name in graph.weights
    )
    with tempfile.TemporaryDirectory(prefix="prunegraph-") as folder:
        path = Path(folder) / "model.onnx"
        write_stream(model, tensors, path, graph.folder)
        yield session(path, name=graph.source, spins=spins)


def _named(tensor: onnx.TensorProto, name: str) -> onnx.TensorProto:
    """A tensor by another name."""
    if tensor.name == name:
        return tensor
    copy = onnx.TensorProto.FromString(tensor.SerializeToString())
    copy.name = name
    return copy


def run_piece(
    graph: Graph,
    protos: Sequence[onnx.NodeProto],
    given: Mapping[str, Array],
    wanted: Sequence[str],
) -> dict[str, Array]:
    """Values that nodes make from given ones; what else they read are weights of the graph.

    Args:
        graph: where the weights are.
        protos: the nodes, in order.
        given: values by name.
        wanted: names of values that the nodes make.

    Raises:
        ModelError: ONNX Runtime cannot run them.
    """
    model = onnx.ModelProto(ir_version=graph.model.ir_version)
    model.opset_import.extend(graph.model.opset_import)
    model.graph.name = "piece"
    model.graph.node.extend(protos)
    for name, array in given.items():
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        model.graph.input.append(helper.make_tensor_value_info(name, kind, array.shape))
    # Not what the file declares: the values given may be of other sizes than in the whole graph.
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
    read = dict.fromkeys(name for proto in protos for name in proto.input)
    weights = (
        numpy_helper.from_array(np.ascontiguousarray(graph.weights[name].read()), name)
        for name in read
        if name in graph.weights and name not in given
    )
    with tempfile.TemporaryDirectory(prefix="prunegraph-") as folder:
        path = Path(folder) / "model.onnx"
        write_stream(model, weights, path, None)
        opened = session(path, name=graph.source, fast=False)
        return dict(zip(wanted, run(opened, given, list(wanted)), strict=True))

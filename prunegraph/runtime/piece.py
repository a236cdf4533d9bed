"""Running some nodes of a graph by themselves."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from prunegraph.graph.external import write_stream
from prunegraph.graph.model import Graph
from prunegraph.runtime.session import run, session

Array = np.ndarray


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

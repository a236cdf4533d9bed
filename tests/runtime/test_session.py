"""Running a part of a graph for some of its values."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from prunegraph.graph.onnx_io import from_model
from prunegraph.runtime.session import run_values
from tests.builders import Builder


def test_what_values_do_not_need_is_not_computed() -> None:
    """Nor are weights of the rest asked for where a file declares weights as inputs; subgraphs keep what they read."""
    b = Builder(ir_version=3, opset=11)
    x = b.input("n", 4)
    first = b.op("MatMul", x, b.const(np.eye(4) * 2, np.float32))
    outer = b.op("Neg", x)
    branch = helper.make_graph(
        [helper.make_node("Identity", [outer], ["inner"])],
        "branch",
        [],
        [helper.make_tensor_value_info("inner", onnx.TensorProto.FLOAT, None)],
    )
    chosen = b.op("If", b.const(True), then_branch=branch, else_branch=branch)
    wanted = b.op("Add", first, chosen)
    # It cannot run: 7 does not divide the size.
    broken = b.op("Reshape", wanted, b.const([-1, 7], np.int64), name="broken")
    model = b.model(b.op("MatMul", broken, b.weight(7, 3)))
    for tensor in model.graph.initializer:
        entry = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        model.graph.input.append(entry)
    graph = from_model(model)
    values = np.arange(8, dtype=np.float32).reshape(2, 4)
    result = run_values(graph, {"x": values}, [wanted, first])
    np.testing.assert_array_equal(result[wanted], values)
    np.testing.assert_array_equal(result[first], 2 * values)

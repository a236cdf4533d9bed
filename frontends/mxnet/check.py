"""Whether two ONNX models are one network: the same weights, and the same shapes everywhere."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from prunegraph.errors import ModelError

#: Size that stands for an open batch axis.
_BATCH = 2


def shapes_of(model: onnx.ModelProto) -> dict[str, tuple[int | None, ...]]:
    """Shapes of all values, with a fixed batch where it is open."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for put in fixed.graph.input:
        for dim in put.type.tensor_type.shape.dim:
            if dim.HasField("dim_param"):
                dim.dim_value = _BATCH
    for out in fixed.graph.output:
        out.type.tensor_type.ClearField("shape")
    del fixed.graph.value_info[:]
    try:
        graph = onnx.shape_inference.infer_shapes(fixed, data_prop=True).graph
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError) as error:
        raise ModelError(
            f"the pruned model's shapes cannot be inferred: {error}"
        ) from error
    return {
        value.name: tuple(
            dim.dim_value if dim.HasField("dim_value") else None
            for dim in value.type.tensor_type.shape.dim
        )
        for value in [*graph.value_info, *graph.output, *graph.input]
        if value.type.tensor_type.HasField("shape")
    }


def same_network(created: onnx.ModelProto, pruned: onnx.ModelProto) -> None:
    """Raise ModelError where the network of the new files is not the pruned one."""
    operators = [
        [(node.op_type, node.name) for node in model.graph.node]
        for model in (created, pruned)
    ]
    if sorted(operators[0]) != sorted(operators[1]):
        other = sorted(set(operators[0]) ^ set(operators[1]))
        listed = ", ".join(f"{op} {name!r}" for op, name in other[:3])
        advice = "leave what they read whole, or write an ONNX model"
        raise ModelError(
            f"MXNet's operators cannot say what the plan leaves; the pruned model differs in {listed}: {advice}"
        )
    ours, theirs = (
        {t.name: t for t in model.graph.initializer} for model in (created, pruned)
    )
    for name, tensor in ours.items():
        # Shapes are written as constants of int64; what they do is compared below.
        if tensor.data_type == TensorProto.INT64:
            continue
        if name not in theirs or not _equal(tensor, theirs[name]):
            raise ModelError(
                f"{name!r} would not be in MXNet's files what it is in the pruned model; this plan cannot be written"
            )
    one, two = shapes_of(created), shapes_of(pruned)
    wrong = [
        name
        for name in one
        if None not in one[name] and one[name] != two.get(name, one[name])
    ]
    if wrong:
        raise ModelError(
            f"{wrong[0]!r} would have shape {one[wrong[0]]} in MXNet's files and {two[wrong[0]]} in the pruned "
            "model; this plan cannot be written"
        )


def _equal(a: TensorProto, b: TensorProto) -> bool:
    remaining, right = numpy_helper.to_array(a), numpy_helper.to_array(b)
    return (
        remaining.shape == right.shape
        and remaining.dtype == right.dtype
        and bool(np.array_equal(remaining, right))
    )

"""A front end for a made-up format: a list of layers as JSON, weights drawn from a seed.

{"input": 12, "layers": [{"linear": 32}, {"scaler": 0.5}, "relu", {"linear": 4}], "seed": 0}
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

import prunegraph as pg
from prunegraph.errors import ModelError


@pg.frontend(".netlist.json")
def read(source: str) -> onnx.ModelProto:
    """Networks as a list of linear, scaler and relu layers in JSON."""
    try:
        content = json.loads(Path(source).read_text())
        layers, width = content["layers"], int(content["input"])
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{source}: not a netlist: {type(error).__name__}: {error}"
        ) from error
    rng = np.random.default_rng(content.get("seed", 0))
    value, nodes, tensors = "x", [], []
    for index, layer in enumerate(layers):
        op, size = next(iter(layer.items())) if isinstance(layer, dict) else (layer, None)
        name, output = f"{op}{index}", f"{op}{index}.out"
        if op == "linear":
            weight = rng.standard_normal((size, width)) / np.sqrt(width)
            tensors.append(
                numpy_helper.from_array(weight.astype(np.float32), f"{name}.weight")
            )
            nodes.append(
                helper.make_node(
                    "Gemm", [value, f"{name}.weight"], [output], name, transB=1
                )
            )
            width = size
        elif op == "scaler":
            numbers = {
                "offset": rng.uniform(-1, 1, width).tolist(),
                "scale": rng.uniform(size, 2, width).tolist(),
            }
            nodes.append(
                helper.make_node(
                    "Scaler", [value], [output], name, domain="ai.onnx.ml", **numbers
                )
            )
        elif op == "relu":
            nodes.append(helper.make_node("Relu", [value], [output], name))
        else:
            raise ModelError(
                f"{source}: layer {index}: unknown kind {op!r}; there are linear, scaler, relu"
            )
        value = output
    given = helper.make_tensor_value_info(
        "x", onnx.TensorProto.FLOAT, ["n", content["input"]]
    )
    result = helper.make_tensor_value_info(value, onnx.TensorProto.FLOAT, ["n", width])
    graph = helper.make_graph(nodes, "netlist", [given], [result], tensors)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)

"""Small models for tests, in as few lines as they have nodes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from prunegraph.graph.model import Graph
from prunegraph.graph.onnx_io import from_model


class Builder:
    """Adds nodes one after the other; every call returns the name of the value it makes."""

    def __init__(self, seed: int = 0, opset: int = 17, ir_version: int = 8):
        self.rng = np.random.default_rng(seed)
        self.opset, self.ir_version = opset, ir_version
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.count = 0

    def input(
        self, *shape: int | str, name: str = "x", kind: int = onnx.TensorProto.FLOAT
    ) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def const(self, value: object, dtype: object = None) -> str:
        self.count += 1
        self.tensors.append(
            numpy_helper.from_array(np.asarray(value, dtype), f"c{self.count}")
        )
        return f"c{self.count}"

    def weight(self, *shape: int, scale: float | None = None) -> str:
        fan_in = int(np.prod(shape[1:])) or 1
        value = self.rng.standard_normal(shape) * (scale or 1 / np.sqrt(fan_in))
        return self.const(value, np.float32)

    def op(
        self,
        op: str,
        *inputs: str,
        outputs: int = 1,
        name: str = "",
        domain: str = "",
        **attributes: object,
    ) -> str:
        self.count += 1
        name = name or f"{op.lower()}{self.count}"
        created = [
            f"{name}.out{i}" if outputs > 1 else f"{name}.out" for i in range(outputs)
        ]
        self.nodes.append(
            helper.make_node(
                op, list(inputs), created, name=name, domain=domain, **attributes
            )
        )
        return created[0]

    def conv(
        self,
        x: str,
        cin: int,
        cout: int,
        k: int = 3,
        group: int = 1,
        bias: bool = True,
        name: str = "",
        **attributes: object,
    ) -> str:
        weights = [self.weight(cout, cin // group, k, k)] + (
            [self.weight(cout)] if bias else []
        )
        attributes.setdefault("pads", [k // 2] * 4)
        return self.op("Conv", x, *weights, name=name, group=group, **attributes)

    def bn(self, x: str, c: int, name: str = "") -> str:
        scale, bias, mean = (
            self.const(self.rng.uniform(0.5, 1.5, c), np.float32) for _ in range(3)
        )
        variance = self.const(self.rng.uniform(0.5, 1.5, c), np.float32)
        return self.op("BatchNormalization", x, scale, bias, mean, variance, name=name)

    def relu(self, x: str) -> str:
        return self.op("Relu", x)

    def linear(self, x: str, cin: int, cout: int, name: str = "") -> str:
        return self.op(
            "Gemm", x, self.weight(cout, cin), self.weight(cout), name=name, transB=1
        )

    def head(self, x: str, c: int, classes: int = 5) -> str:
        y = self.op("Flatten", self.op("GlobalAveragePool", x))
        return self.linear(y, c, classes, name="head")

    def model(
        self, *outputs: str, domains: Sequence[tuple[str, int]] = ()
    ) -> onnx.ModelProto:
        infos = [onnx.ValueInfoProto(name=name) for name in outputs]
        for info in infos:
            info.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
        graph = helper.make_graph(self.nodes, "g", self.inputs, infos, self.tensors)
        opsets = [
            helper.make_opsetid("", self.opset),
            *(helper.make_opsetid(*pair) for pair in domains),
        ]
        return helper.make_model(graph, opset_imports=opsets, ir_version=self.ir_version)

    def graph(self, *outputs: str, domains: Sequence[tuple[str, int]] = ()) -> Graph:
        return from_model(self.model(*outputs, domains=domains))


def residual_net(seed: int = 0, width: int = 8) -> Graph:
    """Stem, one residual block with BatchNormalization, a head."""
    b = Builder(seed)
    x = b.relu(b.bn(b.conv(b.input("n", 3, 8, 8), 3, width, name="stem"), width))
    y = b.relu(b.bn(b.conv(x, width, width * 2, name="block1"), width * 2))
    y = b.bn(b.conv(y, width * 2, width, name="block2"), width)
    return b.graph(b.head(b.relu(b.op("Add", x, y)), width))

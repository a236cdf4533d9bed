"""Random graphs by seed for chains of commands: wider than `random_graphs`, with names that look like ours."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from tests.coupling.control_graphs import ControlGrower
from tests.random_graphs import GROWERS, Map
from tests.renaming import draw as with_names

Array = np.ndarray


class Seeded:
    """Choices of a generator of random numbers."""

    def __init__(self, rng: np.random.Generator):
        self.rng = rng

    def integer(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high + 1))

    def choose(self, options: Sequence[Any]) -> Any:
        return options[int(self.rng.integers(len(options)))]

    def flag(self) -> bool:
        return bool(self.rng.integers(2))

    def integers(self, low: int, high: int, most: int) -> list[int]:
        return [self.integer(low, high) for _ in range(self.integer(1, most))]


class Wide(ControlGrower):
    """Grows what simplifiers, quantization and decomposition look for."""

    def grow_shared_bias(self, x: Map) -> Map:
        """Layers that share their bias, as files do whose equal tensors are stored once."""
        width = self.width()
        bias = self.b.weight(width)
        for _ in range(self.integer(2, 3)):
            y = self.b.op("Conv", x.name, self.b.weight(width, x.c, 1, 1), bias)
            x = Map(self.b.relu(y), width, x.s)
        return x

    def grow_block(self, x: Map) -> Map:
        """Convolution, normalisation, activation."""
        y = self.conv(x)
        y = Map(self.b.bn(y.name, y.c), y.c, y.s)
        if self.flag():
            return Map(self.b.relu(y.name), y.c, y.s)
        bounds = [self.b.const(value, np.float32) for value in (0.0, 6.0)]
        return Map(self.b.op("Clip", y.name, *bounds), y.c, y.s)

    def grow_matmul(self, x: Map) -> Map:
        """A linear layer over the channels of a map, with its bias added behind."""
        width = self.width()
        y = self.b.op("Transpose", x.name, perm=[0, 2, 3, 1])
        y = self.b.op("MatMul", y, self.b.weight(x.c, width))
        y = self.b.relu(self.b.op("Add", y, self.b.weight(width)))
        return Map(self.b.op("Transpose", y, perm=[0, 3, 1, 2]), width, x.s)

    def grow_subgraph(self, x: Map) -> Map:
        """An If, Loop or Scan."""
        return self.choose([self.control_if, self.control_loop, self.control_scan])(x)

    def gemm(self, x: str, before: int, after: int) -> str:
        """A Gemm with factors, either orientation, and a bias of any shape that fits."""
        transposed = self.flag()
        weight = self.b.weight(
            *((after, before) if transposed else (before, after)), scale=before**-0.5
        )
        shape = self.choose([None, (after,), (after,), (1, after), (1, 1), (1,), ()])
        bias = (
            []
            if shape is None
            else [self.b.const(self.b.rng.standard_normal(shape), np.float32)]
        )
        factors = {name: self.choose([1.0, 1.0, 0.5, 2.0]) for name in ("alpha", "beta")}
        return self.b.op("Gemm", x, weight, *bias, transB=int(transposed), **factors)

    def model(self) -> onnx.ModelProto:
        last = self.maps[-1]
        y = self.b.op("Flatten", self.b.op("GlobalAveragePool", last.name))
        y = self.b.relu(self.gemm(y, last.c, 10))
        return self.b.model(self.gemm(y, 10, 5))


WIDE = sorted({*GROWERS, *(name for name in dir(Wide) if name.startswith("grow_"))})

#: These are met more often than the rest.
COMMON = (
    "grow_block",
    "grow_block",
    "grow_shared_bias",
    "grow_matmul",
    "grow_residual",
    "grow_conv",
    "grow_subgraph",
)


def random_model(seed: int) -> onnx.ModelProto:
    """A model with input `x` [n, 3, 8, 8] whose first output has five classes."""
    for attempt in count():
        try:
            return _drawn(np.random.default_rng(seed if not attempt else [seed, attempt]))
        except ort_errors.Fail:
            continue  # ONNX Runtime does not run it, such as a Scan whose shapes it cannot tell
    raise AssertionError


def _drawn(rng: np.random.Generator) -> onnx.ModelProto:
    """One such model. Raises ONNX Runtime's `Fail` for a model that it does not run."""
    grower = Wide(Seeded(rng))
    for _ in range(grower.integer(2, 6)):
        created = getattr(grower, grower.choose([*WIDE, *COMMON]))(grower.pick())
        grower.maps.append(created if created.c <= 48 else grower.conv(created))
    model = grower.model()
    fixed = {"Reshape", "If", "Loop", "Scan"}  # these are written with sizes
    if not any(node.op_type in fixed for node in model.graph.node) and grower.flag():
        for axis in (2, 3):
            model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = "size"
    _more_outputs(model, grower)
    _declare_ranks(model)
    return with_names(model, likely_names(model), rng) if grower.flag() else model


def _more_outputs(model: onnx.ModelProto, grower: Wide) -> None:
    """A weight, the input or an inner value as a further output, sometimes."""
    if grower.integer(0, 4):
        return
    vectors = [
        tensor.name
        for tensor in model.graph.initializer
        if len(tensor.dims) == 1 and tensor.data_type == 1
    ]
    inner = [
        node.output[0] for node in model.graph.node if node.op_type in ("Relu", "Conv")
    ]
    for name in dict.fromkeys([grower.choose(vectors), "x", grower.choose(inner)]):
        if grower.flag():
            model.graph.output.append(
                helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
            )


def _declare_ranks(model: onnx.ModelProto) -> None:
    """Say how many axes outputs have: simplifiers take nothing else."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options)
    for output, value in zip(
        model.graph.output,
        session.run(None, {"x": np.zeros((2, 3, 8, 8), np.float32)}),
        strict=True,
    ):
        output.CopyFrom(
            helper.make_tensor_value_info(
                output.name, onnx.TensorProto.FLOAT, [None] * value.ndim
            )
        )


def likely_names(model: onnx.ModelProto) -> list[str]:
    """Names that commands give to what they add."""
    roles = (
        "bias",
        "weight",
        "input_1",
        "input_1/Mul",
        "indices",
        "output",
        "first",
        "scale",
        "mean",
    )
    names = [f"{node.name}/{role}" for node in model.graph.node for role in roles]
    names += [
        f"{tensor.name}/{number}" for tensor in model.graph.initializer for number in (2, 3)
    ]
    names += [f"{kind}{number}" for kind in "dqszw" for number in range(1, 30)]
    return [*names, *(str(number) for number in range(20))]

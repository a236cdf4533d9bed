"""Random small networks for tests of quantization, and running quantized ones as ONNX Runtime does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime

from prunegraph.graph.model import Graph
from tests.builders import Builder

Array = np.ndarray


def samples(
    count: int = 16, channels: int = 3, size: int = 8, seed: int = 0
) -> dict[str, Array]:
    return {
        "x": np.random.default_rng(seed)
        .standard_normal((count, channels, size, size))
        .astype(np.float32)
    }


def _conv(b: Builder, x: str, c: int) -> str:
    y = b.conv(x, c, c, k=int(b.rng.choice([1, 3])), bias=bool(b.rng.integers(2)))
    return b.bn(y, c) if b.rng.integers(2) else y


def _activated(b: Builder, x: str, c: int) -> str:
    y = _conv(b, x, c)
    kind = b.rng.integers(3)
    if kind == 0:
        return b.relu(y)
    return (
        b.op("Clip", y, b.const(0, np.float32), b.const(6, np.float32))
        if kind == 1
        else b.op("LeakyRelu", y)
    )


def _residual(b: Builder, x: str, c: int) -> str:
    y = b.op("Add", x, _conv(b, _activated(b, x, c), c))
    return b.relu(y) if b.rng.integers(2) else y


def _concat(b: Builder, x: str, c: int) -> str:
    y = b.op("Concat", _activated(b, x, c), _conv(b, x, c), axis=1)
    return b.conv(y, 2 * c, c, k=1)


def _gate(b: Builder, x: str, c: int) -> str:
    y = _conv(b, x, c)
    return b.op("Mul", y, b.op("Sigmoid", y))


def _squeeze(b: Builder, x: str, c: int) -> str:
    gate = b.conv(b.op("GlobalAveragePool", x), c, c, k=1, pads=[0] * 4)
    return b.op("Mul", x, b.op("Sigmoid", gate))


def _pool(b: Builder, x: str, c: int) -> str:
    return b.op("MaxPool", _conv(b, x, c), kernel_shape=[3, 3], pads=[1] * 4)


def _shuffle(b: Builder, x: str, c: int) -> str:
    y = b.op("Reshape", x, b.const([0, 2, c // 2, -1], np.int64))
    y = b.op("Transpose", y, perm=[0, 2, 1, 3])
    return b.op("Reshape", y, b.const([0, c, 8, 8], np.int64))


def _depthwise(b: Builder, x: str, c: int) -> str:
    return b.relu(b.conv(x, c, c, group=c))


PARTS: list[Callable[[Builder, str, int], str]] = [
    _activated,
    _residual,
    _concat,
    _gate,
    _squeeze,
    _pool,
    _shuffle,
    _depthwise,
]


def random_net(seed: int, parts: int = 4) -> Graph:
    """A stem, random parts, a head; every value in between is [n, 8, 8, 8]."""
    b = Builder(seed)
    x = b.relu(b.conv(b.input("n", 3, 8, 8), 3, 8))
    for _ in range(parts):
        x = PARTS[b.rng.integers(len(PARTS))](b, x, 8)
    return b.graph(b.head(x, 8))


def run_fast(
    graph: Graph, inputs: dict[str, Array], inner: list[str] | None = None
) -> dict[str, Array]:
    """Outputs and inner values with all of ONNX Runtime's optimizations: in integers."""
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inner or [])
    names = [*graph.outputs, *(inner or [])]
    return dict(zip(names, _session(model).run(names, inputs), strict=True))


def _session(model: onnx.ModelProto, optimized: str = "") -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = optimized
    return onnxruntime.InferenceSession(model.SerializeToString(), options)


def fused(graph: Graph, path: str) -> Counter[str]:
    """Operators of the graph that ONNX Runtime really runs; `path` is a file to write."""
    _session(graph.model, path)
    return Counter(node.op_type for node in onnx.load(path).graph.node)

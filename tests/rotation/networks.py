"""Networks with channels that only pass what is linear, drawn at random."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime

from prunegraph.graph.model import Graph
from tests.builders import Builder


def normalised(b: Builder, z: str, axes: list[int], way: str) -> str:
    """A value over the root of the mean (or sum) of its squares along axes, written in one of several ways."""
    if way == "length":
        return b.op("Div", z, b.op("ReduceL2", z, axes=axes))
    if way == "sum":
        total = b.op("ReduceSum", b.op("Mul", z, z), b.const(axes, np.int64))
    elif way == "sum of squares":
        total = b.op("ReduceSumSquare", z, axes=axes)
    else:
        squares = b.op("Cast", b.op("Pow", z, b.const(2, np.float32)), to=1)
        total = b.op("ReduceMean", squares, axes=axes)
    root = b.op("Sqrt", b.op("Add", total, b.const(1e-5, np.float32)))
    return b.op("Mul", z, b.op("Reciprocal", root))


#: What a stream may pass on its way, as functions of a builder, a value [2, c, 6, 6] and c.
STEPS = {
    "identity": lambda b, z, c: b.op("Identity", z),
    "minus": lambda b, z, c: b.op("Neg", z),
    "factor": lambda b, z, c: b.op("Mul", z, b.const([0.7], np.float32)),
    "quotient": lambda b, z, c: b.op("Div", z, b.const(1.3, np.float32)),
    "constant": lambda b, z, c: b.op("Add", z, b.weight(c, 1, 1)),
    "constant before": lambda b, z, c: b.op("Sub", b.weight(1, c, 1, 1), z),
    "positions": lambda b, z, c: b.op("Add", z, b.weight(c, 6, 6)),
    "gate of places": lambda b, z, c: b.op("Mul", z, b.weight(1, 1, 6, 6)),
    "pooling": lambda b, z, c: b.op(
        "AveragePool", z, kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1
    ),
    "other layout": lambda b, z, c: b.op(
        "Transpose", b.op("Transpose", z, perm=[0, 2, 3, 1]), perm=[0, 3, 1, 2]
    ),
    "resizing": lambda b, z, c: b.op(
        "AveragePool",
        b.op("Resize", z, "", b.const([1, 1, 2, 2], np.float32), mode="linear"),
        kernel_shape=[2, 2],
        strides=[2, 2],
    ),
    "joined places": lambda b, z, c: b.op(
        "Slice",
        b.op("Concat", z, z, axis=3),
        b.const([3], np.int64),
        b.const([9], np.int64),
        b.const([3], np.int64),
    ),
    "flat": lambda b, z, c: b.op(
        "Reshape",
        b.op("Reshape", z, b.const([0, c, 36], np.int64)),
        b.const([-1, c, 6, 6], np.int64),
    ),
    "block": lambda b, z, c: b.op(
        "Add", z, b.conv(b.op("Relu", b.conv(z, c, 5, k=3)), 5, c, k=1)
    ),
    "layer": lambda b, z, c: b.op("Sum", z, b.conv("x", 3, c, k=1, bias=False), z),
    "norm": lambda b, z, c: normalised(b, z, [1], "mean"),
    "norm of all places": lambda b, z, c: normalised(b, z, [1, 2, 3], "sum"),
    "norm by squares": lambda b, z, c: normalised(b, z, [-3], "sum of squares"),
    "norm by length": lambda b, z, c: normalised(b, z, [1], "length"),
    "normalised layer": lambda b, z, c: b.op("Add", b.bn(b.conv("x", 3, c, k=3), c), z),
}  # fmt: skip

#: What treats single channels on its own, or in no linear way.
OBSTACLES = {
    "rectifier": lambda b, z, c: b.op("Relu", z),
    "bounds": lambda b, z, c: b.op("Clip", z, b.const(-1, np.float32), b.const(1, np.float32)),
    "scales": lambda b, z, c: b.op("Mul", z, b.weight(c, 1, 1)),
    "one shift": lambda b, z, c: b.op("Add", z, b.const([0.3], np.float32)),
    "depthwise": lambda b, z, c: b.conv(z, c, c, group=c),
    "maximum": lambda b, z, c: b.op("MaxPool", z, kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    "other value": lambda b, z, c: b.op("Add", z, b.op("Sigmoid", b.conv("x", 3, c))),
    "square": lambda b, z, c: b.op("Mul", z, z),
    "norm of each": lambda b, z, c: normalised(b, z, [2, 3], "mean"),
    "norm of some": lambda b, z, c: b.op(
        "Mul",
        z,
        b.op(
            "ReduceSumSquare",
            b.op("Gather", z, b.const([0, 1], np.int64), axis=1),
            axes=[1],
        ),
    ),
    "cubes": lambda b, z, c: b.op(
        "Mul", z, b.op("ReduceSum", b.op("Pow", z, b.const(3, np.float32)))
    ),
    "squares read twice": lambda b, z, c: b.op(
        "Mul",
        z,
        b.op(
            "ReduceMean", b.op("Sigmoid", b.op("Pow", z, b.const(2, np.float32))), axes=[1]
        ),
    ),
    "reversed": lambda b, z, c: b.op(
        "Add",
        z,
        b.op("Gather", z, b.const(np.arange(c)[::-1].copy(), np.int64), axis=1),
    ),
}  # fmt: skip


def stream(channels: int, steps: list[str], readers: int, seed: int) -> Graph:
    """A stream of channels that a convolution makes, and convolutions and a classifier read."""
    net = Builder(seed)
    net.input("n", 3, 6, 6)
    z = net.conv("x", 3, channels, k=1, name="maker")
    for step in steps:
        z = {**STEPS, **OBSTACLES}[step](net, z, channels)
    parts = [
        net.op("Flatten", net.op("Relu", net.conv(z, channels, 4, k=1 + 2 * (i % 2))))
        for i in range(readers)
    ]
    pooled = net.op("Flatten", net.op("GlobalAveragePool", z))
    parts.append(net.op("Gemm", pooled, net.weight(channels, 7), net.weight(7)))
    return net.graph(net.op("Concat", *parts, axis=1))


def tokens(
    channels: int, blocks: int, way: str, seed: int, *, tables: int = 1, tied: bool = False
) -> Graph:
    """A pre-norm network on tokens [n, 5] that a table of vectors, or the sum of `tables` of them, turns into a stream.

    In front of each block and of the last layer stand an RMS normalisation and scales of channels. With `tied` two
    lookups share one table.
    """
    net = Builder(seed)
    net.input("n", 5, kind=onnx.TensorProto.INT64)
    names = [net.weight(10, channels) for _ in range(tables)]
    z = net.op("Gather", names[0], "x", name="table")
    for name in names[1:]:
        z = net.op("Add", z, net.op("Gather", name, "x"))
    if tied:
        shifted = net.op("Sub", net.const(9, np.int64), "x")
        z = net.op("Sub", z, net.op("Gather", names[0], shifted))

    def normal(value: str) -> str:
        return net.op("Mul", normalised(net, value, [-1], way), net.weight(channels))

    for _ in range(blocks):
        inner = normal(z)
        gate = net.op("Sigmoid", net.op("MatMul", inner, net.weight(channels, 6)))
        inner = net.op("Mul", gate, net.op("MatMul", inner, net.weight(channels, 6)))
        z = net.op("Add", net.op("MatMul", inner, net.weight(6, channels)), z)
    return net.graph(net.op("MatMul", normal(z), net.weight(channels, 7)))


def attention(
    heads: int,
    shared: int,
    size: int,
    *,
    packed: bool,
    bias: bool,
    seed: int,
    tables: bool = False,
) -> Graph:
    """Attention [n, 5, heads * size], where `shared` heads read the same keys and values.

    With `packed` one product makes queries, keys and values; with `tables` queries and keys are multiplied by tables of
    their own for every position and channel.
    """
    net, width = Builder(seed), heads * size
    net.input("n", 5, width)
    own = heads // shared

    def project(outputs: int) -> str:
        value = net.op("MatMul", "x", net.weight(width, outputs))
        return net.op("Add", value, net.weight(outputs)) if bias else value

    counts = (heads, own, own)
    if packed:
        whole = project(sum(counts) * size)
        sizes = net.const([count * size for count in counts], np.int64)
        first = net.op("Split", whole, sizes, outputs=3, axis=2)
        parts = [first, first[:-1] + "1", first[:-1] + "2"]
    else:
        parts = [project(count * size) for count in counts]
    split = []
    for part, count in zip(parts, counts, strict=True):
        value = net.op("Reshape", part, net.const([0, 0, count, size], np.int64))
        value = net.op("Transpose", value, perm=[0, 2, 1, 3])
        if count != heads:
            value = net.op("Unsqueeze", value, net.const([2], np.int64))
            value = net.op("Expand", value, net.const([1, 1, shared, 1, 1], np.int64))
            value = net.op("Reshape", value, net.const([0, heads, -1, size], np.int64))
        split.append(value)
    if tables:
        split[:2] = [net.op("Mul", value, net.weight(5, size)) for value in split[:2]]
    keys = net.op("Transpose", split[1], perm=[0, 1, 3, 2])
    logits = net.op("Mul", net.op("MatMul", split[0], keys), net.const(0.8, np.float32))
    logits = net.op("Add", logits, net.weight(5, 5))
    mixed = net.op("MatMul", net.op("Softmax", logits, axis=-1), split[2])
    mixed = net.op("Transpose", mixed, perm=[0, 2, 1, 3])
    mixed = net.op("Reshape", mixed, net.const([0, 0, width], np.int64))
    return net.graph(net.op("MatMul", mixed, net.weight(width, width)))


def random_inputs(graph: Graph, seed: int, samples: int = 4) -> dict[str, np.ndarray]:
    """Normal values for the graph's input `x`, or numbers of tokens where it takes integers."""
    entry = graph.model.graph.input[0].type.tensor_type
    shape = (samples, *(d.dim_value for d in entry.shape.dim[1:]))
    rng = np.random.default_rng(seed)
    if entry.elem_type == onnx.TensorProto.INT64:
        return {"x": rng.integers(0, 10, shape)}
    return {"x": rng.standard_normal(shape).astype(np.float32)}


def outputs(graph: Graph, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """The graph's first output in ONNX Runtime, as the graph has it."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(graph.model.SerializeToString(), options)
    return np.asarray(session.run(None, inputs)[0])

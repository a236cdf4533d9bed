"""Every rule, operator by operator: a small model around it is pruned and proved.

A case says how many channels the operator lets through: `free` counts the layers (by name
`a`, `b`, ...) whose channels may go, `fixed` those that may not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx
import pytest

from prunegraph.api import analyze
from prunegraph.graph.model import Graph
from tests.builders import Builder
from tests.oracle import fixed_reasons, prove

Make = Callable[[Builder, str], str]


@dataclass
class Case:
    """`make` puts the operator behind layer `a` (12 channels, 6x6); the result has `c` channels."""

    id: str
    make: Make
    c: int = 12
    free: bool = True
    opset: int = 17
    domains: list[tuple[str, int]] = field(default_factory=list)


def graph_of(case: Case) -> Graph:
    b = Builder(opset=case.opset, ir_version=10)
    x = b.conv(b.input("n", 3, 6, 6), 3, 12, name="a")
    y = case.make(b, x)
    return b.graph(b.head(b.conv(y, case.c, 8, 1, name="after"), 8), domains=case.domains)


def unary(op: str, **attributes: object) -> Make:
    return lambda b, x: b.op(op, x, **attributes)


def binary(op: str) -> Make:
    return lambda b, x: b.op(op, x, b.conv("x", 3, 12, name="b"))


def ints(*values: int) -> np.ndarray:
    return np.asarray(values, np.int64)


UNARY = [
    "Relu",
    "LeakyRelu",
    "Elu",
    "Selu",
    "Celu",
    "ThresholdedRelu",
    "Sigmoid",
    "HardSigmoid",
    "HardSwish",
    "Tanh",
    "Erf",
    "Softplus",
    "Softsign",
    "Exp",
    "Abs",
    "Neg",
    "Floor",
    "Ceil",
    "Round",
    "Sign",
    "Sin",
    "Cos",
    "Identity",
    "Atan",
]

CASES = [
    *(Case(op, unary(op)) for op in UNARY),
    Case(
        "Clip",
        lambda b, x: b.op("Clip", x, b.const(-1, np.float32), b.const(1, np.float32)),
    ),
    Case("Mish", unary("Mish"), opset=18),
    Case("Gelu", unary("Gelu"), opset=20),
    Case("Cast", lambda b, x: b.op("Cast", b.op("Cast", x, to=11), to=1)),
    Case("CastLike", lambda b, x: b.op("CastLike", x, b.const(0, np.float32))),
    Case("Dropout", unary("Dropout")),
    Case(
        "Not",
        lambda b, x: b.op(
            "Where",
            b.op("Not", b.op("Greater", x, b.const(0, np.float32))),
            x,
            b.const(0, np.float32),
        ),
    ),
    *(
        Case(
            op,
            lambda b, x, op=op: b.op(
                op, b.op("Sigmoid", x), b.op("Sigmoid", b.conv("x", 3, 12, name="b"))
            ),
        )
        for op in ("Add", "Sub", "Mul", "Div", "Pow", "Min", "Max", "Sum", "Mean")
    ),
    Case(
        "Less",
        lambda b, x: b.op(
            "Where", b.op("Less", x, b.weight(12, 1, 1)), x, b.weight(12, 1, 1)
        ),
    ),
    Case("PRelu", lambda b, x: b.op("PRelu", x, b.weight(12, 1, 1))),
    Case("scalar", lambda b, x: b.op("Mul", x, b.const(2, np.float32))),
    Case("BatchNormalization", lambda b, x: b.bn(x, 12)),
    Case("BatchNormalization-training", lambda b, x: standardised(b, x)),
    Case(
        "InstanceNormalization",
        lambda b, x: b.op("InstanceNormalization", x, b.weight(12, scale=1), b.weight(12)),
    ),
    Case(
        "GroupNormalization-18",
        lambda b, x: b.op(
            "GroupNormalization", x, b.weight(3, scale=1), b.weight(3), num_groups=3
        ),
        opset=18,
    ),
    Case(
        "GroupNormalization-21",
        lambda b, x: b.op(
            "GroupNormalization", x, b.weight(12, scale=1), b.weight(12), num_groups=3
        ),
        opset=21,
    ),
    Case(
        "GroupNormalization-fine",
        lambda b, x: b.op(
            "GroupNormalization", x, b.weight(12, scale=1), b.weight(12), num_groups=6
        ),
        opset=21,
    ),
    Case("LpNormalization", unary("LpNormalization", axis=1, p=2)),
    Case("LRN", unary("LRN", size=3), free=False),
    Case("MeanVarianceNormalization", unary("MeanVarianceNormalization")),
    Case("Softmax-channels", unary("Softmax", axis=1), free=False),
    Case("Softmax-space", unary("Softmax", axis=3)),
    Case("Softmax-old", unary("Softmax", axis=2), opset=11),
    Case("LogSoftmax-channels", unary("LogSoftmax", axis=1), free=False),
    Case("MaxPool", unary("MaxPool", kernel_shape=[2, 2])),
    Case("AveragePool", unary("AveragePool", kernel_shape=[2, 2])),
    Case("LpPool", unary("LpPool", kernel_shape=[2, 2])),
    Case("GlobalMaxPool", unary("GlobalMaxPool")),
    Case("GlobalAveragePool", unary("GlobalAveragePool")),
    Case(
        "Resize-scales",
        lambda b, x: b.op("Resize", x, "", b.const([1, 1, 2, 2], np.float32)),
    ),
    Case(
        "Resize-sizes",
        lambda b, x: b.op("Resize", x, "", "", b.const(ints(2, 12, 9, 9))),
        opset=17,
    ),
    Case(
        "Upsample",
        lambda b, x: b.op("Upsample", x, b.const([1, 1, 2, 2], np.float32)),
        opset=9,
    ),
    Case(
        "ReduceMean",
        lambda b, x: b.op("Mul", x, b.op("ReduceMean", x, axes=[1], keepdims=1)),
    ),
    Case(
        "ReduceSum",
        lambda b, x: b.op("Mul", x, b.op("ReduceSum", x, b.const(ints(1)), keepdims=1)),
    ),
    Case(
        "ReduceL2", lambda b, x: b.op("Div", x, b.op("ReduceL2", x, axes=[1], keepdims=1))
    ),
    Case(
        "ReduceL1", lambda b, x: b.op("Div", x, b.op("ReduceL1", x, axes=[1], keepdims=1))
    ),
    Case(
        "ReduceSumSquare",
        lambda b, x: b.op("Div", x, b.op("ReduceSumSquare", x, axes=[1], keepdims=1)),
    ),
    Case(
        "ReduceMax", lambda b, x: b.op("Mul", x, b.op("ReduceMax", x, axes=[1], keepdims=1))
    ),
    Case("ReduceMean-space", lambda b, x: b.op("ReduceMean", x, axes=[2, 3], keepdims=1)),
    Case(
        "ArgMax",
        lambda b, x: b.op("Mul", x, b.op("Cast", b.op("ArgMax", x, axis=1), to=1)),
        free=False,
    ),
    Case(
        "Concat",
        lambda b, x: b.op("Concat", x, b.conv("x", 3, 4, name="b"), x, axis=1),
        c=28,
    ),
    Case(
        "Concat-space", lambda b, x: b.op("Concat", x, b.conv("x", 3, 12, name="b"), axis=2)
    ),
    Case(
        "Split",
        lambda b, x: b.op(
            "Concat",
            b.op("Split", x, b.const(ints(5, 7)), outputs=2, axis=1),
            "split5.out1",
            axis=1,
        ),
    ),
    Case(
        "Slice", lambda b, x: b.op("Slice", x, *(b.const(ints(v)) for v in (2, 9, 1))), c=7
    ),
    Case(
        "Slice-step",
        lambda b, x: b.op("Slice", x, *(b.const(ints(v)) for v in (1, 12, 1, 3))),
        c=4,
    ),
    Case(
        "Slice-reverse",
        lambda b, x: b.op("Slice", x, *(b.const(ints(v)) for v in (-1, -99, 1, -1))),
    ),
    Case(
        "Slice-two-axes",
        lambda b, x: b.op(
            "Slice", x, b.const(ints(2, 1)), b.const(ints(8, 5)), b.const(ints(1, 2))
        ),
        c=6,
    ),
    Case(
        "Slice-old",
        lambda b, x: b.op("Slice", x, starts=[3], ends=[10], axes=[1]),
        c=7,
        opset=9,
    ),
    Case(
        "Gather", lambda b, x: b.op("Gather", x, b.const(ints(3, -1, 7, 0, 7)), axis=1), c=5
    ),
    Case(
        "Gather-scalar",
        lambda b, x: b.op(
            "Unsqueeze", b.op("Gather", x, b.const(np.int64(3)), axis=1), b.const(ints(1))
        ),
        c=1,
    ),
    Case("Pad", lambda b, x: b.op("Pad", x, b.const(ints(0, 2, 1, 1, 0, 3, 1, 1))), c=17),
    Case(
        "Pad-reflect",
        lambda b, x: b.op("Pad", x, b.const(ints(0, 0, 1, 1, 0, 0, 1, 1)), mode="reflect"),
    ),
    Case(
        "Pad-old", lambda b, x: b.op("Pad", x, pads=[0, 2, 0, 0, 0, 0, 0, 0]), c=14, opset=9
    ),
    Case(
        "Transpose",
        lambda b, x: b.op(
            "Transpose",
            b.op("Relu", b.op("Transpose", x, perm=[0, 2, 3, 1])),
            perm=[0, 3, 1, 2],
        ),
    ),
    Case(
        "Reshape",
        lambda b, x: b.op(
            "Reshape",
            b.op("Reshape", x, b.const(ints(0, 12, 36))),
            b.const(ints(-1, 12, 6, 6)),
        ),
    ),
    Case(
        "Flatten",
        lambda b, x: b.op("Reshape", b.op("Flatten", x), b.const(ints(-1, 12, 6, 6))),
    ),
    Case(
        "Squeeze",
        lambda b, x: b.op(
            "Squeeze", b.op("Unsqueeze", x, b.const(ints(2))), b.const(ints(2))
        ),
    ),
    Case(
        "Expand",
        lambda b, x: b.op(
            "Add",
            x,
            b.op("Expand", b.const([[[0.5]]], np.float32), b.const(ints(1, 12, 6, 6))),
        ),
    ),
    Case(
        "ConstantOfShape",
        lambda b, x: b.op("Add", x, b.op("ConstantOfShape", b.const(ints(12, 6, 6)))),
    ),
    Case("Tile", lambda b, x: b.op("Tile", x, b.const(ints(1, 2, 1, 1))), c=24),
    Case("Tile-space", lambda b, x: b.op("Tile", x, b.const(ints(1, 1, 2, 1)))),
    Case("DepthToSpace-DCR", unary("DepthToSpace", blocksize=2), c=3),
    Case("DepthToSpace-CRD", unary("DepthToSpace", blocksize=2, mode="CRD"), c=3),
    Case("SpaceToDepth", unary("SpaceToDepth", blocksize=2), c=48),
    Case("depthwise", lambda b, x: b.conv(x, 12, 12, 3, group=12)),
    Case("depthwise-multiplier", lambda b, x: b.conv(x, 12, 24, 3, group=12), c=24),
    Case("grouped", lambda b, x: b.conv(x, 12, 8, 3, group=4), c=8),
    Case("grouped-2", lambda b, x: b.conv(x, 12, 8, 3, group=2), c=8),
    Case(
        "ConvTranspose",
        lambda b, x: b.op(
            "ConvTranspose", x, b.weight(12, 10, 2, 2), b.weight(10), strides=[2, 2]
        ),
        c=10,
    ),
    Case(
        "ConvTranspose-grouped",
        lambda b, x: b.op("ConvTranspose", x, b.weight(12, 3, 2, 2), group=4),
        c=12,
    ),
    Case(
        "MatMul",
        lambda b, x: b.op(
            "Transpose",
            b.op("MatMul", b.op("Transpose", x, perm=[0, 2, 3, 1]), b.weight(12, 9)),
            perm=[0, 3, 1, 2],
        ),
        c=9,
    ),
    Case(
        "MatMul-activations",
        lambda b, x: b.op(
            "MatMul", x, b.op("Transpose", b.conv("x", 3, 12, name="b"), perm=[0, 1, 3, 2])
        ),
    ),
    Case(
        "QDQ",
        lambda b, x: b.op("DequantizeLinear", b.op("QuantizeLinear", x, *qdq(b)), *qdq(b)),
    ),
    Case(
        "QDQ-axis",
        lambda b, x: b.op(
            "DequantizeLinear",
            b.op("QuantizeLinear", x, *qdq(b, 12), axis=1),
            *qdq(b, 12),
            axis=1,
        ),
    ),
    Case(
        "unknown",
        lambda b, x: b.op("FusedGelu", x, domain="com.example"),
        free=False,
        domains=[("com.example", 1)],
    ),
]


def standardised(b: Builder, x: str) -> str:
    """A convolution whose weight is standardised inside the graph, as timm exports it."""
    w = b.op("Reshape", b.weight(12, 12, 3, 3), b.const(ints(1, 12, -1)))
    zeros, ones = b.const(np.zeros(12), np.float32), b.const(np.ones(12), np.float32)
    names = [b.const(b.rng.uniform(0.5, 1.5, 12), np.float32), zeros, zeros, ones]
    w = b.op("BatchNormalization", w, *names, outputs=3, training_mode=1, momentum=0.0)
    return b.op(
        "Conv", x, b.op("Reshape", w, b.const(ints(12, 12, 3, 3))), pads=[1, 1, 1, 1]
    )


def qdq(b: Builder, size: int = 0) -> list[str]:
    if not size:
        return [b.const(0.02, np.float32), b.const(3, np.uint8)]
    return [
        b.const(b.rng.uniform(0.01, 0.05, size), np.float32),
        b.const(b.rng.integers(100, 150, size), np.uint8),
    ]


#: Cases in which one channel of layer "a" stays: it is read by itself, or nothing else is read.
PARTLY = ("Gather", "Gather-scalar")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_operator(case: Case) -> None:
    graph = graph_of(case)
    fixed = fixed_reasons(graph)
    assert ("a" not in fixed) == case.free or case.id in PARTLY, fixed
    if case.domains:
        assert fixed["a"] == "FusedGelu has no rule"
        return  # ONNX Runtime has no such operator either
    for seed in range(2):
        prove(graph, seed)


def test_layer_norm_and_rms_norm() -> None:
    for op, opset in (("LayerNormalization", 17), ("RMSNormalization", 23)):
        b = Builder(opset=opset, ir_version=10)
        x = b.op("MatMul", b.input("n", 5, 7), b.weight(7, 12), name="a")
        weights = [
            b.weight(12, scale=1.0),
            *([b.weight(12)] if op == "LayerNormalization" else []),
        ]
        y = b.op(op, x, *weights, axis=-1)
        graph = b.graph(b.op("MatMul", b.relu(y), b.weight(12, 3), name="after"))
        coupling = analyze(graph)
        assert [g.exact for g in coupling.groups] == [False]
        prove(graph)


def test_embedding_lookup() -> None:
    b = Builder()
    ids = b.input("n", 5, name="ids", kind=onnx.TensorProto.INT64)
    x = b.op("Gather", b.weight(20, 12), ids, name="table")
    graph = b.graph(b.op("MatMul", b.relu(x), b.weight(12, 3), name="after"))
    assert [g.channels for g in analyze(graph).groups] == [12]
    prove(graph)


def test_gemm_every_way_round() -> None:
    for a in (0, 1):
        for c in (0, 1):
            b = Builder()
            x = b.linear(b.input(6, 7), 7, 12, name="first")
            x = b.op("Transpose", b.relu(x), perm=[1, 0]) if a else b.relu(x)
            y = b.op(
                "Gemm",
                x,
                b.weight(9, 12) if c else b.weight(12, 9),
                b.weight(9),
                transA=a,
                transB=c,
                name="g",
            )
            graph = b.graph(b.linear(b.relu(y), 9, 3, name="last"))
            assert len(analyze(graph).groups) == 2
            prove(graph)


def test_sequences() -> None:
    b = Builder(opset=18)
    x = b.conv(b.input("n", 3, 6, 6), 3, 12, name="a")
    s = b.op("SplitToSequence", x, b.const(ints(4, 8)), axis=1)
    parts = [b.op("SequenceAt", s, b.const(np.int64(i))) for i in (0, 1)]
    y = b.op("Concat", b.relu(parts[1]), parts[0], axis=1)
    graph = b.graph(b.head(b.conv(y, 12, 8, 1), 8))
    assert "a" not in fixed_reasons(graph)
    prove(graph)

"""Rules of operators that are layers themselves: recurrence, attention, fused and quantized ones."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import prunegraph as pg
from tests.builders import Builder
from tests.oracle import fixed_reasons, prove, random_plan

MS = [("com.microsoft", 1)]


def i64(*values: int) -> np.ndarray:
    return np.asarray(values, np.int64)


def projected(b: Builder, x: str, cin: int, cout: int, name: str) -> str:
    return b.op("MatMul", x, b.weight(cin, cout), name=name)


@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("states", [False, True])
def test_recurrent(op: str, direction: str, states: bool) -> None:
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[op]
    d, hidden = (2 if direction == "bidirectional" else 1), 6
    b = Builder()
    x = projected(b, b.input(5, "n", 7), 7, 8, "before")
    weights = [
        b.weight(d, gates * hidden, 8, scale=0.3),
        b.weight(d, gates * hidden, hidden, scale=0.3),
    ]
    weights.append(b.weight(d, 2 * gates * hidden, scale=0.1))
    if states:
        n = b.op("Shape", x, start=1, end=2)
        shape = b.op("Concat", b.const(i64(d)), n, b.const(i64(hidden)), axis=0)
        state = b.op("Expand", b.const([[[0.5]]], np.float32), shape)
        weights += ["", *([state, state] if op == "LSTM" else [state])]
    y = b.op(
        op, x, *weights, hidden_size=hidden, direction=direction, name="cell", outputs=1
    )
    y = b.op("Transpose", y, perm=[0, 2, 1, 3])
    y = b.op("Reshape", y, b.const(i64(0, 0, d * hidden)))
    graph = b.graph(projected(b, y, d * hidden, 3, "after"))
    coupling = pg.analyze(graph)
    assert not set(fixed_reasons(graph)) & {"before", "cell"}
    assert sorted(g.channels for g in coupling.groups) == [hidden, 8]
    pruned, _ = prove(graph)
    assert pruned.node("cell").attributes["hidden_size"] == 3


@pytest.mark.parametrize(
    ("equation", "shape"),
    [("bhwc,hkc->bhwk", (4, 6, 9)), ("...c,ck->...k", (9, 6)), ("bhwc,cz", (9, 6))],
)
def test_einsum_with_a_weight(equation: str, shape: tuple[int, ...]) -> None:
    b = Builder()
    x = b.op("Relu", projected(b, b.input("n", 4, 5, 7), 7, 9, "before"))
    weight = (
        b.weight(*shape)
        if len(shape) == 2
        else b.const(b.rng.standard_normal((4, 6, 9)), np.float32)
    )
    y = b.op("Einsum", x, weight, equation=equation, name="e")
    graph = b.graph(projected(b, b.op("Relu", y), 6, 3, "after"))
    assert sorted(g.channels for g in pg.analyze(graph).groups) == [6, 9]
    prove(graph)


def test_einsum_of_activations() -> None:
    b = Builder()
    x = b.input("n", 5, 7)
    q, k = (projected(b, x, 7, 8, name) for name in "qk")
    graph = b.graph(b.op("Softmax", b.op("Einsum", q, k, equation="bqd,bkd->bqk")))
    assert [g.channels for g in pg.analyze(graph).groups] == [8]
    prove(graph)


def attention_graph(flat: bool, query_heads: int, key_heads: int) -> pg.Graph:
    b = Builder(opset=24, ir_version=11)
    x, size = b.input("n", 5, 16), 4
    parts = [
        projected(b, x, 16, n * size, name)
        for name, n in zip("qkv", (query_heads, key_heads, key_heads), strict=True)
    ]
    if flat:
        y = b.op(
            "Attention",
            *parts,
            q_num_heads=query_heads,
            kv_num_heads=key_heads,
            name="attention",
        )
    else:
        split = [
            b.op(
                "Transpose",
                b.op("Reshape", p, b.const(i64(0, 0, n, size))),
                perm=[0, 2, 1, 3],
            )
            for p, n in zip(parts, (query_heads, key_heads, key_heads), strict=True)
        ]
        y = b.op(
            "Transpose", b.op("Attention", *split, name="attention"), perm=[0, 2, 1, 3]
        )
        y = b.op("Reshape", y, b.const(i64(0, 0, query_heads * size)))
    return b.graph(projected(b, y, query_heads * size, 3, "out"))


@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize(("query_heads", "key_heads"), [(4, 4), (8, 2)])
@pytest.mark.parametrize("policy", ["heads", "head_dim"])
def test_attention(flat: bool, query_heads: int, key_heads: int, policy: str) -> None:
    graph = attention_graph(flat, query_heads, key_heads)
    coupling = pg.analyze(graph, attention=policy)
    assert not set(fixed_reasons(graph)) & set("qkv")
    assert [g.channels for g in coupling.groups] == (
        [key_heads] if policy == "heads" else [4, 4]
    )
    plan = random_plan(coupling)
    pruned = pg.apply(graph, plan)
    assert pg.verify(graph, plan, pruned).relative < 1e-4
    if policy == "heads" and flat:
        assert pruned.node("attention").attributes["q_num_heads"] == query_heads // 2


@pytest.mark.parametrize("policy", ["heads", "head_dim"])
def test_attention_of_single_operators(policy: str) -> None:
    """Packed qkv, heads by reshape and transpose, a scale computed from a shape."""
    b = Builder()
    x, heads, size = b.input("n", 5, 16), 4, 6
    qkv = b.op(
        "Reshape",
        projected(b, x, 16, 3 * heads * size, "qkv"),
        b.const(i64(0, 0, 3, heads, size)),
    )
    qkv = b.op("Transpose", qkv, perm=[2, 0, 3, 1, 4])
    q, k, v = (b.op("Gather", qkv, b.const(np.int64(i)), axis=0) for i in range(3))
    width = b.op("Cast", b.op("Shape", q, start=3, end=4), to=1)
    scores = b.op(
        "Div",
        b.op("MatMul", q, b.op("Transpose", k, perm=[0, 1, 3, 2])),
        b.op("Sqrt", width),
    )
    y = b.op("MatMul", b.op("Softmax", scores), v)
    y = b.op(
        "Reshape", b.op("Transpose", y, perm=[0, 2, 1, 3]), b.const(i64(0, 0, heads * size))
    )
    graph = b.graph(projected(b, y, heads * size, 3, "out"))
    coupling = pg.analyze(graph, attention=policy)
    assert [g.channels for g in coupling.groups] == [heads if policy == "heads" else size]
    plan = random_plan(coupling)
    pg.verify(graph, plan, pg.apply(graph, plan))


def test_contrib_attention_and_skip_norm() -> None:
    b = Builder()
    x, heads, size = b.input("n", 5, 16), 4, 6
    x = b.op("Relu", projected(b, x, 16, 12, "embed"))
    q, k, v = (projected(b, x, 12, heads * size, name) for name in "qkv")
    y = b.op(
        "MultiHeadAttention",
        q,
        k,
        v,
        b.weight(3 * heads * size),
        num_heads=heads,
        domain="com.microsoft",
        name="mha",
    )
    y = projected(b, y, heads * size, 12, "out")
    y = b.op(
        "SkipLayerNormalization",
        y,
        x,
        b.weight(12, scale=1),
        b.weight(12),
        b.weight(12),
        domain="com.microsoft",
    )
    y = b.op(
        "BiasGelu", projected(b, y, 12, 10, "mlp"), b.weight(10), domain="com.microsoft"
    )
    y = b.op("QuickGelu", y, domain="com.microsoft")
    y = b.op(
        "FusedMatMul",
        y,
        b.weight(3, 10),
        transB=1,
        alpha=0.5,
        domain="com.microsoft",
        name="last",
    )
    graph = b.graph(y, domains=MS)
    assert set(fixed_reasons(graph)) == {"last"}
    assert sorted(g.channels for g in pg.analyze(graph).groups) == [6, 6, 10, 12]
    for seed in range(3):
        prove(graph, seed)


@pytest.mark.parametrize("rotary", [0, 1])
def test_grouped_query_attention(rotary: int) -> None:
    b = Builder()
    x, heads, groups, size = b.input("n", 5, 16), 4, 2, 16
    q, k, v = (
        projected(b, x, 16, n * size, name)
        for n, name in ((heads, "q"), (groups, "k"), (groups, "v"))
    )
    batch = b.op("Shape", x, end=1)
    last = b.op("Expand", b.const([4], np.int32), batch)
    tables = [
        b.const(f(np.outer(np.arange(8), np.ones(size // 2))), np.float32)
        for f in (np.cos, np.sin)
    ]
    y = b.op(
        "GroupQueryAttention",
        q,
        k,
        v,
        "",
        "",
        last,
        b.const(5, np.int32),
        *(tables if rotary else []),
        num_heads=heads,
        kv_num_heads=groups,
        do_rotary=rotary,
        outputs=3,
        domain="com.microsoft",
        name="gqa",
    )
    graph = b.graph(projected(b, y, heads * size, 3, "out"), domains=MS)
    coupling = pg.analyze(graph, attention="heads")
    assert [g.channels for g in coupling.groups] == [groups]
    plan = random_plan(coupling)
    pruned = pg.apply(graph, plan)
    pg.verify(graph, plan, pruned)
    assert (
        pruned.node("gqa").attributes["num_heads"],
        pruned.node("gqa").attributes["kv_num_heads"],
    ) == (2, 1)


def test_fused_conv_and_deform_conv() -> None:
    b = Builder(opset=19, ir_version=9)
    x = b.conv(b.input("n", 3, 6, 6), 3, 8, name="a")
    y = b.op(
        "FusedConv",
        x,
        b.weight(6, 8, 1, 1),
        b.weight(6),
        activation="Relu",
        domain="com.microsoft",
        name="fused",
    )
    graph = b.graph(b.head(b.conv(y, 6, 4), 4), domains=MS)
    assert set(fixed_reasons(graph)) == {"head"}
    prove(graph)


def test_deform_conv() -> None:
    b = Builder(opset=19, ir_version=9)
    x = b.conv(b.input("n", 3, 6, 6), 3, 8, name="a")
    offset = b.conv(x, 8, 18, name="offset")
    y = b.op(
        "DeformConv",
        x,
        b.weight(6, 8, 3, 3),
        offset,
        b.weight(6),
        pads=[1, 1, 1, 1],
        name="deform",
    )
    graph = b.graph(b.head(b.conv(y, 6, 4), 4))
    assert set(fixed_reasons(graph)) == {"offset", "head"}
    prove(graph)


def test_matmul_of_packed_bits() -> None:
    b = Builder()
    n, k, block = 8, 32, 16
    x = projected(b, b.input("n", 5, 7), 7, k, "before")
    packed = b.const(b.rng.integers(0, 256, (n, k // block, block // 2)), np.uint8)
    scales = b.const(b.rng.uniform(0.01, 0.1, n * k // block), np.float32)
    y = b.op(
        "MatMulNBits",
        x,
        packed,
        scales,
        K=k,
        N=n,
        bits=4,
        block_size=block,
        domain="com.microsoft",
        name="bits",
    )
    graph = b.graph(projected(b, b.op("Relu", y), n, 3, "after"), domains=MS)
    assert fixed_reasons(graph)["before"] == "packed in blocks of bits"
    assert "bits" not in fixed_reasons(graph)
    pruned, _ = prove(graph)
    assert pruned.node("bits").attributes["N"] == 4


def scale(b: Builder, size: int = 0) -> str:
    return b.const(b.rng.uniform(0.02, 0.05, size) if size else 0.03, np.float32)


@pytest.mark.parametrize("per_channel", [False, True])
def test_qlinear_conv(per_channel: bool) -> None:
    b = Builder()
    x = b.conv(b.input("n", 3, 6, 6), 3, 8, name="a")
    xs, xz = scale(b), b.const(120, np.uint8)
    q = b.op("QuantizeLinear", x, xs, xz)
    for name, cin, cout in (("c1", 8, 6), ("c2", 6, 5)):
        w = b.const(b.rng.integers(-90, 90, (cout, cin, 3, 3)), np.int8)
        ws, wz = (
            scale(b, cout if per_channel else 0),
            b.const(np.zeros(cout) if per_channel else 0, np.int8),
        )
        bias = b.const(b.rng.integers(-500, 500, cout), np.int32)
        ys, yz = b.const(0.4, np.float32), b.const(110, np.uint8)
        q = b.op(
            "QLinearConv", q, xs, xz, w, ws, wz, ys, yz, bias, pads=[1, 1, 1, 1], name=name
        )
        xs, xz = ys, yz
    graph = b.graph(b.head(b.op("DequantizeLinear", q, xs, xz), 5))
    assert set(fixed_reasons(graph)) == {"head"}
    assert sorted(g.channels for g in pg.analyze(graph).groups) == [5, 6, 8]
    prove(graph)


def test_integer_matmul_behind_dynamic_quantization() -> None:
    b = Builder()
    x = b.op("Relu", projected(b, b.input("n", 5, 7), 7, 8, "before"))
    b.op("DynamicQuantizeLinear", x, outputs=3, name="dynamic")
    q, s, z = b.nodes[-1].output
    w = b.const(b.rng.integers(-90, 90, (8, 6)), np.int8)
    y = b.op("Cast", b.op("MatMulInteger", q, w, z, name="integer"), to=1)
    y = b.op("Mul", b.op("Mul", y, s), scale(b, 6))
    graph = b.graph(projected(b, b.op("Relu", y), 6, 3, "after"))
    assert sorted(g.channels for g in pg.analyze(graph).groups) == [6, 8]
    prove(graph)


def test_qdq_weights_keep_their_scales() -> None:
    b = Builder(opset=21, ir_version=10)
    x = b.conv(b.input("n", 3, 6, 6), 3, 8, name="a")
    w = b.const(b.rng.integers(-90, 90, (6, 8, 3, 3)), np.int8)
    w = b.op("DequantizeLinear", w, scale(b, 6), b.const(np.zeros(6), np.int8), axis=0)
    y = b.op("Conv", x, w, pads=[1, 1, 1, 1], name="q")
    graph = b.graph(b.head(b.op("Relu", y), 6))
    assert sorted(g.channels for g in pg.analyze(graph).groups) == [6, 8]
    pruned, _ = prove(graph)
    node = next(n for n in pruned.nodes if n.op == "DequantizeLinear")
    assert pruned.weights[node.inputs[1]].shape == (3,)


@pytest.mark.parametrize(
    "kind", [onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16]
)
def test_other_floats(kind: int) -> None:
    """16-bit floats are proved to 2e-2, doubles to 1e-4; bfloat16 is computed between casts, as exporters write it."""
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind)
    b = Builder(opset=19, ir_version=9)
    store = kind == onnx.TensorProto.BFLOAT16
    x = b.input("n", 5, 7) if store else b.input("n", 5, 7, kind=kind)
    for name, cin, cout in (("a", 7, 8), ("b", 8, 6), ("c", 6, 4)):
        w = b.const(b.rng.standard_normal((cin, cout)) / 3, dtype)
        x = b.op(
            "Relu", b.op("MatMul", x, b.op("Cast", w, to=1) if store else w, name=name)
        )
    model = b.model(x)
    if not store:
        model.graph.output[0].type.tensor_type.elem_type = kind
    graph = pg.load(model)
    assert sorted(g.channels for g in pg.analyze(graph).groups) == [6, 8]
    pruned, proof = prove(graph)
    assert (
        pruned.weights[
            pruned.node("a").inputs[1] if not store else pruned.nodes[0].inputs[0]
        ].dtype
        == dtype
    )
    assert proof.tolerance == (1e-4 if kind == onnx.TensorProto.DOUBLE else 2e-2)


def test_bfloat16_inputs_and_outputs() -> None:
    """NumPy has no such type, so ONNX Runtime does not give or take it as an array."""
    b = Builder(opset=19, ir_version=9)
    x = b.op(
        "Cast",
        b.input("n", 5, 7, kind=onnx.TensorProto.BFLOAT16),
        to=onnx.TensorProto.FLOAT,
    )
    x = projected(b, b.op("Relu", projected(b, x, 7, 8, "inner")), 8, 4, "head")
    model = b.model(b.op("Cast", x, to=onnx.TensorProto.BFLOAT16))
    model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.BFLOAT16
    graph = pg.load(model)
    pruned, proof = prove(graph)
    assert [g.channels for g in pg.analyze(graph).groups] == [8]
    assert [each.name for each in proof.differences] == list(graph.outputs)
    assert pg.compare(graph, pruned, runs=2).latency.first > 0


def test_gate_and_value() -> None:
    """SwiGLU couples its inputs; ONNX Runtime does not run it yet, so nothing is proved."""
    b = Builder(opset=28, ir_version=14)
    x = b.input("n", 5, 7)
    y = b.op("SwiGLU", projected(b, x, 7, 8, "gate"), projected(b, x, 7, 8, "value"))
    (group,) = pg.analyze(b.graph(projected(b, y, 8, 4, "head"))).groups
    assert group.channels == 8
    assert group.layers == ("gate", "value")


@pytest.mark.parametrize(
    ("ratio", "training", "free"), [(0.5, True, []), (0.0, True, [8]), (0.5, False, [8])]
)
def test_what_is_dropped_at_random_stays(
    ratio: float, training: bool, free: list[int]
) -> None:
    """Noise is drawn by the places of the elements: without the others, the rest would get other noise."""
    b = Builder()
    x = projected(b, b.input("n", 5, 7), 7, 8, "inner")
    x = b.op(
        "Dropout", x, b.const(ratio, np.float32), b.const(training, np.bool_), name="noise"
    )
    graph = b.graph(projected(b, x, 8, 4, "head"))
    assert [group.channels for group in pg.analyze(graph).groups] == free
    if not free:
        assert "dropped at random" in fixed_reasons(graph)["inner"]


def test_masked_statistics_keep_their_types() -> None:
    """A normalisation of 16-bit floats gives its statistics in 32 bits."""
    b = Builder(opset=17, ir_version=8)
    half = onnx.TensorProto.FLOAT16
    x = b.op("Cast", projected(b, b.input("n", 5, 7), 7, 8, "inner"), to=half)
    scale, bias = (b.const(b.rng.random(8) + 0.5, np.float16) for _ in range(2))
    y = b.op("LayerNormalization", x, scale, bias, axis=-1, outputs=3, name="norm")
    y = b.op(
        "Add",
        b.op("Cast", y, to=onnx.TensorProto.FLOAT),
        b.op("Mul", "norm.out1", "norm.out2"),
    )
    prove(b.graph(projected(b, y, 8, 4, "head")))


def test_tied_embeddings() -> None:
    b = Builder()
    table = b.weight(20, 8, scale=1)
    ids = b.input("n", 5, name="ids", kind=onnx.TensorProto.INT64)
    x = b.op("Relu", b.op("Gather", table, ids))
    x = projected(b, x, 8, 8, "inner")
    graph = b.graph(b.op("MatMul", x, b.op("Transpose", table, perm=[1, 0]), name="logits"))
    assert [g.channels for g in pg.analyze(graph).groups] == [8]
    pruned, _ = prove(graph)
    assert pruned.weights[table].shape == (20, 4)


@pytest.mark.parametrize(
    "op", ["TopK", "CumSum", "Trilu", "GatherElements", "ScatterElements", "GridSample"]
)
def test_along_an_axis(op: str) -> None:
    """These look along one axis; channels on another axis pass."""
    b = Builder()
    x = b.conv(b.input("n", 3, 6, 6), 3, 8, name="a")
    if op == "TopK":
        y = b.op(op, x, b.const(i64(3)), outputs=2, axis=3)
    elif op == "CumSum":
        y = b.op(op, x, b.const(np.int64(2)))
    elif op == "Trilu":
        y = b.op(op, x)
    elif op == "GatherElements":
        y = b.op(op, x, b.op("ArgMax", x, axis=3), axis=3)
    elif op == "ScatterElements":
        y = b.op(op, x, b.op("ArgMax", x, axis=3), b.op("ReduceMax", x, axes=[3]), axis=3)
    else:
        y = b.op(
            op,
            x,
            b.op(
                "Expand",
                b.const(np.zeros((1, 1, 1, 2)), np.float32),
                b.op("Concat", b.op("Shape", x, end=1), b.const(i64(4, 4, 2)), axis=0),
            ),
        )
    graph = b.graph(b.head(b.conv(y, 8, 6), 6))
    assert "a" not in fixed_reasons(graph)
    prove(graph)


def test_sparse_initializers_stay() -> None:
    b = Builder()
    x = b.conv(b.input("n", 3, 6, 6), 3, 8, name="a")
    y = b.op("Flatten", b.op("GlobalAveragePool", x))
    model = b.model(b.op("MatMul", y, "sparse", name="m"))
    values = onnx.helper.make_tensor("sparse", onnx.TensorProto.FLOAT, [2], [1.0, 2.0])
    indices = onnx.helper.make_tensor("sparse_i", onnx.TensorProto.INT64, [2], [1, 9])
    model.graph.sparse_initializer.append(
        onnx.helper.make_sparse_tensor(values, indices, [8, 3])
    )
    graph = pg.load(model)
    assert "sparse" in fixed_reasons(graph)["a"]
    pruned, _ = prove(graph)
    assert pruned.model.graph.sparse_initializer == model.graph.sparse_initializer

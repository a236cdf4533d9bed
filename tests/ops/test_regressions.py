"""Wrong results that random networks found, one network each."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import prunegraph as pg
from tests.builders import Builder
from tests.ops.test_rules_whole import MS, i64, projected
from tests.oracle import fixed_reasons, prove


@pytest.mark.parametrize("read", [False, True], ids=["data", "numbers"])
def test_whole_numbers_computed_from_a_weight_are_cut_with_it(read: bool) -> None:
    """As numbers they would keep their length where the weight loses its own: then none of it goes."""
    b = Builder()
    x = b.op("Cast", projected(b, b.input(1, 3), 3, 4, "a"), to=6)
    weight = b.op("Cast", b.op("Mul", b.weight(1, 4), b.const(4, np.float32)), to=6)
    y = b.op("Cast", b.op("Equal", x, weight), to=1)
    graph = b.graph(
        projected(b, y, 4, 3, "b"),
        *([b.op("Range", weight, weight, weight)] if read else []),
    )
    assert bool(pg.analyze(graph).groups) != read
    if not read:
        prove(graph)


def test_statistics_of_a_normalisation_are_outputs_too() -> None:
    b = Builder()
    x = projected(b, b.input("n", 5, 7), 7, 8, "a")
    b.op("LayerNormalization", x, b.weight(8, scale=1), outputs=3, name="norm")
    y, mean, deviation = b.nodes[-1].output
    y = b.op("Add", projected(b, y, 8, 3, "b"), b.op("Mul", mean, deviation))
    assert [g.channels for g in pg.analyze(b.graph(y)).groups] == [8]
    prove(b.graph(y))


def test_layer_norm_without_a_schema() -> None:
    """ONNX Runtime's optimizer writes it into ONNX's own domain; its shape is known from a run."""
    b = Builder()
    x = projected(b, b.input("n", 5, 7), 7, 8, "a")
    y = b.op("SimplifiedLayerNormalization", x, b.weight(8, scale=1), axis=-1)
    graph = b.graph(projected(b, y, 8, 3, "b"))
    assert "a" not in fixed_reasons(graph)
    prove(graph)


@pytest.mark.parametrize("known", [True, False])
def test_elements_of_a_sequence(known: bool) -> None:
    """One is read from its end; where it is not known which, all of them stay and not only the first."""
    b = Builder()
    x = b.op("Transpose", projected(b, b.input(1, 3), 3, 5, "a"), perm=[1, 0])
    sequence = b.op("SplitToSequence", x, b.const(i64(1, 4)), axis=0)
    index = (
        b.const(np.int64(-1))
        if known
        else b.input(name="index", kind=onnx.TensorProto.INT64)
    )
    y = b.op(
        "MatMul",
        b.op("Flatten", b.op("SequenceAt", sequence, index), axis=0),
        b.weight(4, 3),
    )
    graph = b.graph(y)
    assert {fixed.layer: fixed.channels for fixed in pg.analyze(graph).fixed}.get(
        "a", 0
    ) == (1 if known else 5)  # the first element's one channel is a group of its own
    if known:
        prove(graph)


def test_running_statistics_that_are_read() -> None:
    """ONNX Runtime updates them run by run, so that no two runs agree."""
    b = Builder()
    x = projected(b, b.input(1, 3, 5), 5, 8, "a")
    names = [b.const(b.rng.uniform(0.5, 1.5, 3), np.float32) for _ in range(4)]
    b.op("BatchNormalization", x, *names, outputs=3, training_mode=1)
    y, mean, _ = b.nodes[-1].output
    y = b.op(
        "Add", projected(b, y, 8, 1, "b"), b.op("Reshape", mean, b.const(i64(1, 3, 1)))
    )
    assert fixed_reasons(b.graph(y))["a"] == "running statistics are taken over it"


def test_positions_of_a_pooling_that_nobody_reads() -> None:
    b = Builder()
    x = b.conv(b.input("n", 3, 6, 6), 3, 8, name="a")
    y = b.op("MaxPool", x, kernel_shape=[2, 2], outputs=2)
    graph = b.graph(b.head(b.conv(y, 8, 4, 1), 4))
    assert "a" not in fixed_reasons(graph)
    prove(graph)


@pytest.mark.parametrize(("scale", "free"), [(1.0, True), (1.05, False)])
def test_resize_with_channels_last(scale: float, free: bool) -> None:
    """An axis that keeps its size may be scaled all the same."""
    b = Builder()
    x = projected(b, b.input("n", 4, 4, 3), 3, 8, "a")
    y = b.op("Resize", x, "", b.const([1, 2, 2, scale], np.float32), mode="nearest")
    graph = b.graph(projected(b, y, 8, 3, "b"))
    assert ("a" not in fixed_reasons(graph)) == free
    prove(graph)


def test_scales_of_packed_bits_as_a_matrix() -> None:
    """The axis of blocks had labels of its own, and was cut."""
    b = Builder()
    x = projected(b, b.input("n", 5, 7), 7, 64, "before")
    packed = b.const(b.rng.integers(0, 256, (6, 4, 8)), np.uint8)
    scales = b.const(b.rng.uniform(0.01, 0.1, (6, 4)), np.float32)
    y = b.op(
        "MatMulNBits",
        x,
        packed,
        scales,
        K=64,
        N=6,
        bits=4,
        block_size=16,
        domain="com.microsoft",
        name="bits",
    )
    graph = b.graph(projected(b, b.op("Relu", y), 6, 3, "after"), domains=MS)
    assert [g.channels for g in pg.analyze(graph).groups] == [6]
    prove(graph)


def test_integers_without_a_zero_point() -> None:
    b = Builder()
    x = projected(b, b.input("n", 5, 7), 7, 8, "a")
    q = b.op("QuantizeLinear", x, b.const(0.03, np.float32), b.const(120, np.uint8))
    y = b.op(
        "Cast",
        b.op("MatMulInteger", q, b.const(b.rng.integers(-90, 90, (8, 6)), np.int8)),
        to=1,
    )
    prove(b.graph(projected(b, y, 6, 3, "b")))


def test_the_epsilon_that_skip_norms_have_by_default() -> None:
    b = Builder()
    x = b.op("Mul", projected(b, b.input("n", 5, 7), 7, 8, "a"), b.const(1e-3, np.float32))
    y = b.op(
        "SkipSimplifiedLayerNormalization",
        x,
        x,
        b.weight(8, scale=1),
        domain="com.microsoft",
    )
    prove(b.graph(projected(b, y, 8, 3, "b"), domains=MS))


def multi_head(past: bool) -> pg.Graph:
    b = Builder()
    heads, size = 3, 4
    parts = [
        projected(b, b.input(1, 2, 7, name=name), 7, heads * size, name.upper())
        for name in "qkv"
    ]
    cache = [b.weight(1, heads, 2, size, scale=1) for _ in range(2)] if past else []
    bias = b.weight(3 * heads * size, scale=1)
    b.op(
        "MultiHeadAttention",
        *parts,
        bias,
        "",
        "",
        *cache,
        num_heads=heads,
        outputs=3,
        domain="com.microsoft",
    )
    y, keys, values = b.nodes[-1].output
    y = projected(b, y, heads * size, 3, "out")
    for each in (keys, values):
        y = b.op(
            "Add",
            y,
            projected(
                b,
                b.op("Reshape", each, b.const(i64(1, 1, -1))),
                48 if past else 24,
                3,
                f"r{each}",
            ),
        )
    return b.graph(y, domains=MS)


@pytest.mark.parametrize("past", [False, True])
@pytest.mark.parametrize("unit", ["heads", "head_dim"])
def test_multi_head_attention_with_biases_and_a_cache(past: bool, unit: str) -> None:
    """Biases of queries and keys that go meet in the scores, unless they are masked too."""
    graph = multi_head(past)
    plan = pg.select(
        graph,
        pg.analyze(graph, attention=unit),
        algorithm="random",
        budget=pg.Budget(ratio=0.5),
        round_to=1,
    )
    assert plan.remove
    pg.verify(graph, plan, pg.apply(graph, plan))


def test_head_sizes_in_blocks_of_eight() -> None:
    """ONNX Runtime takes no others in a GroupQueryAttention."""
    b = Builder()
    parts = [
        projected(b, b.input(1, 5, 7, name=name), 7, count * 24, name.upper())
        for name, count in zip("qkv", (2, 1, 1), strict=True)
    ]
    last = b.const([4], np.int32), b.const(5, np.int32)
    options = {"num_heads": 2, "kv_num_heads": 1, "domain": "com.microsoft"}
    y = b.op("GroupQueryAttention", *parts, "", "", *last, outputs=3, **options)
    graph = b.graph(projected(b, y, 48, 3, "out"), domains=MS)
    assert [g.channels for g in pg.analyze(graph).groups] == [3]
    prove(graph)


def test_queries_that_a_mask_knows_by_position() -> None:
    """Channels on the axis of the queries: a mask or causality has a row for each."""
    b = Builder(opset=23, ir_version=11)
    x = b.op("Transpose", projected(b, b.input(1, 8, 7), 7, 6, "a"), perm=[0, 2, 1])
    keys = [b.input(1, 6, 8, name=name) for name in "kv"]
    y = b.op("Attention", x, *keys, b.weight(6, 6), q_num_heads=2, kv_num_heads=2)
    graph = b.graph(b.op("MatMul", b.op("Transpose", y, perm=[0, 2, 1]), b.weight(6, 3)))
    assert fixed_reasons(graph)["a"] == "position decides what is attended to"


def test_keys_and_values_that_an_attention_returns() -> None:
    """ONNX's inference does not know their shapes."""
    b = Builder(opset=23, ir_version=11)
    parts = [
        projected(b, b.input(1, 5, 7, name=name), 7, 12, name.upper()) for name in "qkv"
    ]
    b.op("Attention", *parts, q_num_heads=3, kv_num_heads=3, outputs=4)
    y, keys, _, scores = b.nodes[-1].output
    y = projected(b, y, 12, 3, "out")
    y = b.op(
        "Add", y, projected(b, b.op("Reshape", keys, b.const(i64(1, 1, 60))), 60, 3, "keys")
    )
    y = b.op(
        "Add",
        y,
        projected(b, b.op("Reshape", scores, b.const(i64(1, 1, 75))), 75, 3, "scores"),
    )
    graph = b.graph(y)
    assert [g.channels for g in pg.analyze(graph, attention="heads").groups] == [3]
    prove(graph)


def test_a_mean_of_whole_numbers() -> None:
    b = Builder()
    x = b.op(
        "Cast",
        b.op("Mul", projected(b, b.input("n", 5, 7), 7, 8, "a"), b.const(9, np.float32)),
        to=6,
    )
    y = b.op("Cast", b.op("ReduceMean", x, axes=[2], keepdims=1), to=1)
    graph = b.graph(projected(b, y, 1, 3, "b"))
    assert fixed_reasons(graph)["a"] == "a mean of whole numbers is rounded"


def test_a_position_on_an_empty_axis_is_no_arithmetic_error() -> None:
    """Nothing can run it; the fuzzer's files have it, and analysis divided by the axis' size."""
    b = Builder()
    x = b.op(
        "Slice",
        projected(b, b.input("n", 5), 5, 4, "a"),
        b.const(i64(0)),
        b.const(i64(0)),
        b.const(i64(1)),
    )
    graph = b.graph(b.op("Gather", x, b.const(i64(1)), axis=1))
    assert [group.channels for group in pg.analyze(graph).groups] == [
        4
    ]  # nothing reads them


@pytest.mark.parametrize("op", ["Split", "SplitToSequence"])
def test_a_vector_of_the_file_that_is_split(op: str) -> None:
    """PyTorch keeps the biases of queries, keys and values in one vector."""
    b = Builder()
    x, bias = b.input("n", 3), b.weight(8)
    if op == "Split":
        b.op("Split", bias, b.const(i64(4, 4)), outputs=2, axis=0)
        parts = list(b.nodes[-1].output)
    else:
        sequence = b.op("SplitToSequence", bias, b.const(np.asarray(4, np.int64)), axis=0)
        parts = [
            b.op("SequenceAt", sequence, b.const(np.asarray(place, np.int64)))
            for place in range(2)
        ]
    halves = [
        b.op("Add", projected(b, x, 3, 4, name), part)
        for name, part in zip("ab", parts, strict=True)
    ]
    graph = b.graph(projected(b, b.op("Mul", *halves), 4, 2, "c"))
    assert [group.channels for group in pg.analyze(graph).groups] == [4]
    prove(graph)


@pytest.mark.parametrize("opset", [11, 18])
@pytest.mark.parametrize("ones", [True, False])
def test_squeezed_axes_are_those_of_the_original(opset: int, ones: bool) -> None:
    """Without axes all of size 1 go; where one channel was left, it went with them."""
    b = Builder(opset=opset)
    x = b.conv(b.input(2, 3, 1, 1), 3, 4, k=1, name="a")
    if not ones:
        x = b.op("Reshape", x, b.const(i64(2, 4)))
    graph = b.graph(b.op("MatMul", b.op("Squeeze", x), b.weight(4, 3)))
    assert [group.channels for group in pg.analyze(graph).groups] == [4]
    pruned, _ = prove(graph, ratio=0.75)
    assert pruned.node("a").channels.outputs == 1

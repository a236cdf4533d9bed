"""Quantized graphs: what they hold and what they compute."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import prunegraph as pg
from prunegraph.errors import UnknownNameError
from prunegraph.measuring.sqnr import MOST, decibels, dequantized, sqnr
from prunegraph.quantization.equalize import equalize
from prunegraph.quantization.report import layer_types
from prunegraph.quantization.scheme import REDUCED, scheme
from prunegraph.quantization.weights import DAMPING, _inverse_factor, quantized
from prunegraph.rewriting.fold import fold
from tests.builders import Builder, residual_net
from tests.quantization.integer_reference import Reference
from tests.quantization.networks import fused, random_net, run_fast, samples
from tests.quantization.outputs import decibels_of, outputs, scales

# -- what is computed -------------------------------------------------------------------------


@settings(max_examples=10)
@given(st.integers(0, 2**31))
def test_onnx_runtime_agrees_with_the_integer_reference_within_one_code(seed: int) -> None:
    graph = random_net(seed)
    created = pg.quantize(graph, samples(8)).model
    names = [node.outputs[0] for node in created.nodes if node.op == "QuantizeLinear"]
    codes = run_fast(created, samples(2, seed=1), names)
    expected = Reference(created, codes).results()
    assert len(expected) >= 3
    difference = np.concatenate(
        [np.abs(v.astype(int) - codes[k].astype(int)).ravel() for k, v in expected.items()]
    )
    assert difference.max() <= 1
    assert (difference == 0).mean() >= 0.99


@settings(max_examples=8)
@given(st.integers(0, 2**31), st.sampled_from(["mse", "minmax", "percentile"]))
def test_random_networks_stay_near_the_float_ones(seed: int, method: str) -> None:
    graph = random_net(seed)
    quantized = pg.quantize(graph, samples(), method=method)
    assert decibels_of(graph, quantized.model, samples()) > 12
    assert quantized.outputs["head.out"] == pytest.approx(
        decibels_of(graph, quantized.model, samples()), abs=0.01
    )


def test_every_layer_of_a_residual_net_runs_in_integers(tmp_path: Path) -> None:
    quantized = pg.quantize(residual_net(), samples())
    kinds = fused(quantized.model, str(tmp_path / "optimized.onnx"))
    assert kinds["QLinearConv"] == 3 and kinds["QLinearAdd"] == 1 and kinds["QGemm"] == 1
    assert not {
        "Conv",
        "Gemm",
        "Add",
        "Relu",
        "BatchNormalization",
        "DequantizeLinear",
    } & set(kinds)


@settings(max_examples=15)
@given(st.integers(0, 2**31))
def test_folding_batch_normalization_changes_nothing(seed: int) -> None:
    graph = random_net(seed)
    folded = fold(graph)
    layers = {node.outputs[0] for node in graph.layers}
    remaining = [node for node in folded.nodes if node.op == "BatchNormalization"]
    assert all(node.inputs[0] not in layers for node in remaining)
    np.testing.assert_allclose(
        outputs(folded, samples(2)), outputs(graph, samples(2)), rtol=1e-4, atol=1e-5
    )


def test_folding_leaves_weights_alone_that_others_read() -> None:
    b = Builder()
    x, w = b.input("n", 4, 8, 8), b.weight(4, 4, 1, 1)
    y = b.bn(b.op("Conv", x, w), 4)
    graph = b.graph(b.op("Add", y, b.op("Conv", x, w)))
    assert len(fold(graph).nodes) == len(graph.nodes) - 1
    inputs = samples(2, channels=4)
    np.testing.assert_allclose(
        outputs(fold(graph), inputs), outputs(graph, inputs), rtol=1e-4, atol=1e-5
    )


def test_constants_for_each_channel_are_folded() -> None:
    b = Builder()
    x = b.conv(b.input("n", 3, 8, 8), 3, 4, bias=False)
    x = b.op(
        "Add",
        b.op("Mul", x, b.const(0.3, np.float32)),
        b.const(np.ones((1, 4, 1, 1)), np.float32),
    )
    x = b.op("Mul", b.const(np.arange(4).reshape(4, 1, 1), np.float32), x)
    x = b.op("Add", x, b.const(np.ones((1, 1, 8, 8)), np.float32))
    y = b.op("Gemm", b.op("Flatten", x), b.weight(256, 5), b.weight(1, 5), beta=0.5)
    graph = b.graph(b.op("Mul", y, b.const([1, 2, 3, 4, 5], np.float32)))
    folded = fold(graph)
    assert [node.op for node in folded.nodes] == ["Conv", "Add", "Flatten", "Gemm"]
    np.testing.assert_allclose(
        outputs(folded, samples(2)), outputs(graph, samples(2)), rtol=1e-4, atol=1e-5
    )


def test_equalization_keeps_the_function_and_evens_out_ranges() -> None:
    b = Builder()
    x = b.conv(b.input("n", 3, 8, 8), 3, 6, name="one")
    x = b.relu(b.conv(b.relu(x), 6, 6, group=6, name="two"))
    graph = b.graph(b.conv(x, 6, 4, name="three"))
    even = equalize(graph)
    np.testing.assert_allclose(
        outputs(even, samples(2)), outputs(graph, samples(2)), rtol=1e-4, atol=1e-5
    )
    rows = [np.abs(even.weights[even.node(n).inputs[1]].read()) for n in ("one", "two")]
    np.testing.assert_allclose(
        rows[0].max(axis=(1, 2, 3)), rows[1].max(axis=(1, 2, 3)), rtol=0.05
    )


def test_bias_correction_brings_means_back() -> None:
    b = Builder(3)
    x = b.relu(b.conv(b.input("n", 3, 8, 8), 3, 16))
    graph = b.graph(b.conv(x, 16, 16, name="last"))
    inputs = {"x": np.abs(samples(64)["x"])}
    expected, shift = outputs(graph, inputs), {}
    for on in (True, False):
        created = pg.quantize(
            graph, inputs, weights="int4", rounding="nearest", bias_correction=on
        ).model
        shift[on] = abs((outputs(created, inputs) - expected).mean(axis=(0, 2, 3))).max()
    assert shift[True] < 0.25 * shift[False]


def test_gptq_is_nearer_than_rounding_to_the_nearest() -> None:
    graph = residual_net(width=16)
    data = samples(64)
    created = {
        r: pg.quantize(graph, data, weights="int4", activations="none", rounding=r)
        for r in ("gptq", "nearest")
    }
    assert created["gptq"].outputs["head.out"] > created["nearest"].outputs["head.out"] + 1


def test_the_factor_that_gptq_uses() -> None:
    rows = np.random.default_rng(0).standard_normal((900, 300))
    gram = rows.T @ rows / 900
    factor = _inverse_factor(gram)
    damped = gram + DAMPING * np.diag(gram).mean() * np.eye(300)
    np.testing.assert_allclose(factor.T @ factor @ damped, np.eye(300), atol=1e-9)
    assert np.allclose(factor, np.triu(factor))
    for flat in (
        np.zeros((5, 5)),
        np.full((5, 5), 1e8, np.float32),
        np.diag([1.0, -0.1, 1.0]),
    ):
        assert np.isfinite(_inverse_factor(flat)).all()


@pytest.mark.parametrize(
    ("options", "least"),
    [
        ({"activations": "int8"}, 25),
        ({"activations": "uint16"}, 30),
        ({"weights": "int16"}, 25),
        ({"weights": "int16", "activations": "uint16"}, 60),
        ({"weights": "int4"}, 10),
        ({"weights": "int4", "activations": "none", "block": 4}, 12),
        ({"activations": "none"}, 30),
        ({"target": "openvino"}, 25),
        ({"target": "qnn"}, 25),
        ({"target": "tensorrt"}, 20),
        ({"reduce_range": True}, 25),
        ({"equalize": True}, 25),
        ({"rounding": "gptq"}, 25),
    ],
)
def test_every_scheme_runs(options: dict[str, object], least: float) -> None:
    graph = residual_net(width=8)
    quantized = pg.quantize(graph, samples(), **options)
    assert decibels_of(graph, quantized.model, samples()) > least


@pytest.mark.parametrize("opset", [9, 10, 11, 12, 13, 21])
def test_old_operator_sets(opset: int) -> None:
    b = Builder(opset=opset)
    x = b.relu(b.conv(b.input("n", 3, 8, 8), 3, 8))
    graph = b.graph(b.head(b.relu(b.conv(x, 8, 8)), 8))
    quantized = pg.quantize(graph, samples())
    assert quantized.model.opsets[""] == (opset if opset >= 10 else 13)
    assert decibels_of(graph, quantized.model, samples()) > 25


@pytest.mark.parametrize("opset", [7, 10, 11, 13])
@pytest.mark.parametrize(
    "options", [{"target": "openvino"}, {"weights": "int16", "activations": "uint16"}]
)
def test_biases_in_float_in_old_operator_sets(
    opset: int, options: dict[str, object]
) -> None:
    """The session makes them integers by itself, with operators that sets below 13 have not."""
    b = Builder(opset=opset)
    x = b.relu(b.conv(b.input("n", 3, 8, 8), 3, 8))
    graph = b.graph(b.head(b.relu(b.conv(x, 8, 8)), 8))
    quantized = pg.quantize(graph, samples(), **options)
    assert decibels_of(graph, quantized.model, samples()) > 20


# -- placement --------------------------------------------------------------------------------


@settings(max_examples=10)
@given(st.integers(0, 2**31))
def test_what_meets_in_a_concat_or_is_moved_shares_one_scale(seed: int) -> None:
    created = pg.quantize(random_net(seed), samples(4), method="minmax").model
    known = scales(created)
    for node in created.nodes:
        if node.op in ("Concat", "Reshape", "Transpose", "MaxPool"):
            data = node.inputs if node.op == "Concat" else node.inputs[:1]
            names = {created.nodes[created.producer[v]].inputs[1:] for v in data}
            assert len(names) == 1, "inputs have scales of their own"
            assert (
                created.nodes[created.consumers[node.outputs[0]][0][0]].inputs[1:] in names
            )
    assert known


def test_activations_are_absorbed_where_the_range_says_the_same() -> None:
    graph = residual_net()
    created = pg.quantize(graph, samples()).model
    assert not any(node.op == "Relu" for node in created.nodes)
    b = Builder()
    x = b.input("n", 3, 8, 8)
    both = b.op("Concat", b.relu(b.conv(x, 3, 4)), b.conv(x, 3, 4), axis=1)
    graph = b.graph(b.conv(both, 8, 4))
    created = pg.quantize(graph, samples()).model
    assert [node.op for node in created.nodes].count("Relu") == 1, (
        "half of the shared range is negative"
    )
    assert decibels_of(graph, created, samples()) > 25


def test_a_clip_that_the_range_implies_is_absorbed(tmp_path: Path) -> None:
    b = Builder()
    x = b.conv(b.input("n", 3, 8, 8), 3, 8)
    x = b.op("Clip", x, b.const(0, np.float32), b.const(6, np.float32))
    graph = b.graph(b.head(x, 8))
    created = pg.quantize(graph, samples(), method="minmax").model
    assert not any(node.op == "Clip" for node in created.nodes)
    assert fused(created, str(tmp_path / "o.onnx"))["QLinearConv"] == 1
    wide = pg.quantize(graph, samples(), ranges={x: {"scale": 0.1, "zero_point": 10}}).model
    assert any(node.op == "Clip" for node in wide.nodes)
    assert outputs(wide, samples()).shape == outputs(graph, samples()).shape


def test_layers_stay_in_float_where_asked() -> None:
    graph = residual_net()
    quantized = pg.quantize(graph, samples(), float_layers=["first", "last", "block1"])
    assert {layer.name: layer.weights for layer in quantized.layers} == {
        "stem": "float32",
        "block1": "float32",
        "block2": "int8",
        "head": "float32",
    }
    assert {layer.reason for layer in quantized.layers} == {"", "asked for"}
    types = {
        each.name: (each.weights, each.activations) for each in layer_types(quantized.model)
    }
    assert types == {
        "stem": ("float32", "float32"),
        "block1": ("float32", "float32"),
        "block2": ("int8", "uint8"),
        "head": ("float32", "float32"),
    }
    with pytest.raises(UnknownNameError, match="blck1"):
        pg.quantize(graph, samples(), float_layers=["blck1"])


def test_outputs_shared_weights_constants_and_values_with_readers_in_float() -> None:
    b = Builder()
    x = b.input("n", 3, 8, 8)
    w = b.weight(3, 3, 3, 3)
    y = b.op("Conv", x, w, pads=[1] * 4)
    z = b.op("Conv", y, w, pads=[1] * 4, name="again")
    b.nodes.append(onnx.helper.make_node("Constant", [], ["held"], value=b.tensors.pop()))
    b.nodes[0].input[1] = b.nodes[1].input[1] = "held"
    b.nodes.insert(0, b.nodes.pop())
    graph = b.graph(y, z, b.op("Softmax", y, axis=1))
    quantized = pg.quantize(graph, samples())
    assert quantized.model.outputs == graph.outputs
    assert min(quantized.outputs.values()) > 25


def test_normalisations_softmax_and_attention_stay_in_float() -> None:
    b = Builder()
    x = b.input("n", 6, 8)
    y = b.op("LayerNormalization", x, b.weight(8), b.weight(8), axis=-1)
    q, k = (b.op("Add", b.op("MatMul", y, b.weight(8, 8)), b.weight(8)) for _ in range(2))
    scores = b.op(
        "Softmax", b.op("MatMul", q, b.op("Transpose", k, perm=[0, 2, 1])), axis=-1
    )
    graph = b.graph(b.op("MatMul", b.op("MatMul", scores, y), b.weight(8, 8), name="out"))
    data = {"x": np.random.default_rng(0).standard_normal((16, 6, 8)).astype(np.float32)}
    quantized = pg.quantize(graph, data)
    assert [layer.weights for layer in quantized.layers] == ["int8"] * 3
    read = {
        v
        for node in quantized.model.nodes
        if node.op == "QuantizeLinear"
        for v in node.inputs
    }
    kinds = {
        quantized.model.nodes[quantized.model.producer[v]].op
        for v in read
        if v in quantized.model.producer
    }
    assert kinds == {"LayerNormalization", "MatMul"}
    assert quantized.outputs[graph.outputs[0]] > 25


# -- weights ----------------------------------------------------------------------------------


def test_weights_have_one_symmetric_scale_an_output() -> None:
    graph = residual_net()
    for node in graph.layers:
        weight = graph.weights[node.inputs[1]].read()
        codes = quantized(node, weight, scheme())
        assert abs(codes.codes).max() == REDUCED and codes.scales.shape == (len(weight),)
        assert np.all(np.abs(codes.values() - weight) <= 0.5001 * codes.each())


def test_blocks_have_scales_of_their_own() -> None:
    node = residual_net(width=40).node("block1")
    weight = np.random.default_rng(0).standard_normal((80, 40, 3, 3)).astype(np.float32)
    codes = quantized(node, weight, scheme("int4"))
    assert (codes.axis, codes.block, codes.scales.shape) == (1, 32, (80, 2, 3, 3))
    assert np.all(np.abs(codes.values() - weight) <= 0.5001 * codes.each())


def test_a_bias_too_large_for_its_scale_raises_the_scale() -> None:
    b = Builder()
    x = b.input("n", 3, 8, 8)
    weight, bias = (
        b.const(np.full((4, 3, 1, 1), 1e-9), np.float32),
        b.const([5.0, -7.0, 0.0, 1.0], np.float32),
    )
    graph = b.graph(b.op("Conv", x, weight, bias, name="tiny"))
    quantized = pg.quantize(graph, samples())
    assert decibels_of(graph, quantized.model, samples()) > 40


def test_a_channel_of_zeros_and_a_constant_activation() -> None:
    b = Builder()
    w = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    w[1] = 0
    x = b.relu(
        b.op(
            "Conv",
            b.input("n", 3, 8, 8),
            b.const(w),
            b.const([0, 2, -50, -50], np.float32),
            pads=[1] * 4,
        )
    )
    dead = b.op("Mul", x, b.const(0.0, np.float32))
    graph = b.graph(b.conv(b.op("Add", dead, b.conv(x, 4, 4)), 4, 2))
    quantized = pg.quantize(graph, samples())
    assert all(
        np.isfinite(entry["scale"]) and entry["scale"] > 0
        for entry in quantized.ranges.values()
    )
    assert decibels_of(graph, quantized.model, samples()) > 25


# -- noise ------------------------------------------------------------------------------------


def test_decibels() -> None:
    assert decibels(1.0, 0.01) == pytest.approx(20)
    assert (
        decibels(1.0, 0.0) == MOST
        and decibels(0.0, 1.0) == -MOST
        and decibels(1.0, np.inf) == -MOST
    )


def test_noise_is_measured_value_by_value() -> None:
    graph = residual_net()
    quantized = pg.quantize(graph, samples())
    values = sqnr(graph, quantized.model, [samples()])
    assert graph.outputs[0] in values and "x" not in graph.outer
    assert set(dequantized(quantized.model)) & graph.outer <= set(values)
    assert all(20 < value < 60 for value in values.values()), values
    assert quantized.weakest in quantized.layers

"""Weights that are right on processors with and without VNNI, and what is said of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import prunegraph as pg
from prunegraph.errors import UnknownNameError
from prunegraph.graph.model import Graph
from prunegraph.measuring.sqnr import decibels
from prunegraph.quantization import saturation
from prunegraph.quantization.report import layer_types
from prunegraph.quantization.saturation import can_saturate, processor_saturates
from prunegraph.report.quantized import outcome
from prunegraph.runtime.data import Data
from tests.builders import Builder, residual_net
from tests.commands import FIXTURES, in_process
from tests.quantization.integer_reference import Reference, Saturating, exact
from tests.quantization.networks import random_net, run_fast, samples

Array = np.ndarray


@pytest.fixture(params=[True, False], ids=["saturating", "exact"])
def processor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Either kind of processor, as the probe would find it; whether 8-bit products saturate there."""
    result = bool(request.param)
    monkeypatch.setattr(saturation, "processor_saturates", lambda: result)
    return result


def differing(created: Graph, inputs: dict[str, Array], seed: int | None) -> int:
    """Codes that differ between exact sums and those of a processor that saturates."""
    names = [node.outputs[0] for node in created.nodes if node.op == "QuantizeLinear"]
    codes = run_fast(created, inputs, names)
    right, other = (
        Reference(created, codes).results(),
        Reference(created, codes, Saturating(seed)).results(),
    )
    assert right
    return sum(int((right[name] != other[name]).sum()) for name in right)


def heavy_net(seed: int, kind: str = "conv") -> Graph:
    """A network of which the largest weights of an output are alike, on inputs that are mostly large."""
    b = Builder(seed)
    x = b.input("n", 8, 6, 6)
    for _ in range(3):
        signs = b.rng.choice([-1.0, 1.0], (8, 1, 1, 1))
        weight = b.const(
            signs * b.rng.uniform(0.05, 0.06, (8, 8 if kind == "conv" else 1, 3, 3)),
            np.float32,
        )
        bias = b.const(np.full(8, 1.0), np.float32)
        x = b.relu(
            b.op("Conv", x, weight, bias, pads=[1] * 4, group=1 if kind == "conv" else 8)
        )
    return b.graph(b.head(x, 8))


def large(seed: int = 0) -> dict[str, Array]:
    """Inputs near the top of their range."""
    return {
        "x": np.random.default_rng(seed).uniform(0.9, 1.0, (8, 8, 6, 6)).astype(np.float32)
    }


@settings(max_examples=6)
@given(st.integers(0, 2**31), st.sampled_from([None, 0, 1]))
def test_the_default_is_the_same_whether_a_processor_saturates_or_not(
    seed: int, order: int | None
) -> None:
    assert (
        differing(
            pg.quantize(random_net(seed), samples(8)).model, samples(2, seed=1), order
        )
        == 0
    )


@pytest.mark.parametrize("kind", ["conv", "depthwise"])
@pytest.mark.parametrize("options", [{}, {"rounding": "gptq"}, {"activations": "int8"}])
def test_no_pair_of_products_leaves_16_bits(kind: str, options: dict[str, str]) -> None:
    graph = heavy_net(0, kind)
    assert differing(pg.quantize(graph, large(), **options).model, large(1), 0) == 0
    whole = pg.quantize(graph, large(), reduce_range="no", **options).model
    assert differing(whole, large(1), 0) > 100, "or the test shows nothing"


@pytest.mark.parametrize("kind", ["conv", "depthwise"])
def test_onnx_runtime_sums_exactly_on_this_processor(kind: str) -> None:
    created = pg.quantize(heavy_net(0, kind), large()).model
    names = [node.outputs[0] for node in created.nodes if node.op == "QuantizeLinear"]
    codes = run_fast(created, large(1), names)
    for name, expected in Reference(created, codes, exact).results().items():
        assert np.abs(expected.astype(int) - codes[name].astype(int)).max() <= 1, name


def test_scales_from_outside_that_need_8_bits_are_held_so_that_nothing_saturates() -> None:
    graph = heavy_net(0)
    scales = {}
    for node in graph.layers:
        weight = graph.weights[node.inputs[1]].read()
        rows = np.abs(weight).reshape(len(weight), -1).max(axis=1)
        scales[node.inputs[1]] = {"scale": (rows / 127).tolist()}
    quantized = pg.quantize(graph, large(), ranges=scales)
    assert {layer.weights for layer in quantized.layers if layer.op == "Conv"} == {"uint8"}
    assert {each.weights for each in layer_types(quantized.model) if each.op == "Conv"} == {
        "uint8"
    }
    assert "uint8 weights, since the scales given need 8 bits" in outcome(quantized, graph)
    assert differing(quantized.model, large(1), 0) == 0
    x, y = (run_fast(each, large(1))["head.out"] for each in (graph, quantized.model))
    assert decibels(float(np.square(x).sum()), float(np.square(x - y).sum())) > 30
    native = pg.quantize(graph, large(), ranges=scales, reduce_range="no")
    assert {layer.weights for layer in native.layers} == {"int8"}


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ([[127, 1]], False),
        ([[127, 2]], True),
        ([[127, -127]], False),
        ([[-127, -2]], True),
        ([[64, 64, 64]], False),
        ([[65, 3, 64]], True),
        ([[127]], False),
        ([[1, 1], [-70, -70]], True),
        (np.zeros((0, 3)), False),
    ],
)
def test_which_codes_can_saturate(codes: object, expected: bool) -> None:
    assert can_saturate(np.asarray(codes, np.int32), 0) is expected
    assert can_saturate(np.asarray(codes, np.int32).T, 1) is expected


def test_the_probe_knows_the_right_answer() -> None:
    assert processor_saturates() is processor_saturates()
    w, x = np.full((1, 1, 16), 127), np.full((1, 1, 16), 255)
    assert exact(x, w).item() == 16 * 255 * 127
    assert Saturating()(x, w).item() == 8 * (2**15 - 1)


@pytest.mark.parametrize(
    ("options", "limits"),
    [
        ({}, (64, 64)),
        ({"target": "native"}, (64, 127)),
        ({"target": "openvino"}, (64, 64)),
        ({"target": "qnn"}, (127, 127)),
        ({"target": "tensorrt"}, (127, 127)),
        ({"reduce_range": "no"}, (127, 127)),
        ({"reduce_range": False}, (127, 127)),
        ({"reduce_range": True, "target": "native"}, (64, 64)),
        ({"reduce_range": "yes", "target": "qnn"}, (64, 64)),
    ],
)
def test_which_range_is_taken_and_why(
    options: dict[str, object], limits: tuple[int, int], processor: bool
) -> None:
    graph = residual_net()
    quantized = pg.quantize(graph, samples(), **options)
    chosen = quantized.weight_range
    assert chosen is not None and (chosen.limit, chosen.saturates) == (
        limits[0 if processor else 1],
        processor,
    )
    largest = max(
        np.abs(weight.read().astype(int)).max()
        for weight in quantized.model.weights.values()
        if weight.dtype == np.int8 and weight.read().size > 1
    )
    assert largest == chosen.limit
    assert chosen.reason in outcome(quantized, graph)


def test_ranges_where_no_bytes_are_multiplied() -> None:
    for options in (
        {"activations": "none"},
        {"weights": "int16"},
        {"activations": "uint16"},
    ):
        assert pg.quantize(residual_net(), samples(), **options).weight_range is None
    with pytest.raises(UnknownNameError, match="reduce_range"):
        pg.quantize(residual_net(), samples(), reduce_range="maybe")


def test_the_noise_is_that_of_the_file_as_it_is_opened(tmp_path: Path) -> None:
    import onnxruntime

    data = np.load(FIXTURES / "fashion_calibration.npz")["image"][:64]
    graph = pg.load(FIXTURES / "fashion_resnet.onnx")
    for options in ({}, {"reduce_range": "no"}):
        quantized = pg.quantize(graph, {"image": data}, **options)
        pg.save(quantized.model, tmp_path / "int8.onnx")
        paths = (FIXTURES / "fashion_resnet.onnx", tmp_path / "int8.onnx")
        x, y = (
            onnxruntime.InferenceSession(str(path)).run(None, {"image": data})[0]
            for path in paths
        )
        expected = decibels(float(np.square(x).sum()), float(np.square(x - y).sum()))
        assert quantized.outputs["logits"] == pytest.approx(expected, abs=0.01)
        assert quantized.layers[-1].sqnr == quantized.outputs["logits"]
        compared = pg.compare(
            graph, pg.load(paths[1]), data=Data.of({"image": data}), runs=1
        )
        assert compared.sqnr["logits"] == pytest.approx(expected, abs=0.01)


def test_the_option(tmp_path: Path) -> None:
    pg.save(residual_net(), tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", **samples())
    files = (tmp_path / "m.onnx", "-o", tmp_path / "o.onnx", "--data", tmp_path / "x.npz")
    for words, limit in (
        ((), 64),
        (("--reduce-range",), 64),
        (("--reduce-range", "no"), 127),
    ):
        done = in_process("quantize", *files, "--json", tmp_path / "o.json", *words)
        assert done.exit_code == 0, done.stderr
        assert (
            json.loads((tmp_path / "o.json").read_text())["weight_range"]["limit"] == limit
        )
        assert f"codes -{limit} to {limit}: " in done.stderr

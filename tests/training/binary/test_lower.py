"""Binary networks as files of ONNX's operators: same outputs in ONNX Runtime, a bit for a weight."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import prunegraph as pg
from prunegraph.errors import OptionError
from prunegraph.graph.model import Graph
from prunegraph.runtime import session
from prunegraph.training.binary import (
    Quantizer,
    compression,
    estimate_statistics,
    lower,
    to_binary,
    trainable,
)
from prunegraph.training.binary.compression import CompressionRatios
from prunegraph.training.binary.levels import half_wave_step
from prunegraph.training.binary.serial import bit_planes, serial_product
from prunegraph.training.binary.thresholds import AffineMap, as_thresholds
from prunegraph.training.module import GraphModule
from tests.builders import Builder, residual_net
from tests.training.binary.networks import plain_net, task

Array = np.ndarray


def settled(graph: Graph, **options: object) -> Graph:
    """A binary graph whose normalisations have seen data."""
    binary, _ = to_binary(graph, **options)  # type: ignore[arg-type]
    module = GraphModule(binary, trainable=trainable(binary)).eval()
    estimate_statistics(module, [{"x": torch.from_numpy(task()["x"])}])
    return module.write_back()


def in_torch(graph: Graph, x: Array) -> Array:
    with torch.no_grad():
        result: Array = GraphModule(graph).eval()(torch.from_numpy(x))[0].numpy()
    return result


def in_runtime(graph: Graph, x: Array) -> Array:
    result: Array = session.run(session.session(graph), {"x": x})[0]
    return result


X = task(100, seed=3)["x"]


@pytest.mark.parametrize(
    "form", [{"runtime": "packed"}, {"form": "thresholds"}, {"runtime": "integers"}]
)
@pytest.mark.parametrize("deadzone", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_packed_outputs_are_those_of_the_trained_network(
    bits: int, deadzone: bool, form: dict[str, str]
) -> None:
    graph = settled(plain_net(width=12), quantizer=Quantizer(bits, deadzone))
    wanted = in_torch(graph, X)
    packed = lower(graph, **form)  # type: ignore[arg-type]
    assert {node.domain for node in packed.nodes} == {""}
    np.testing.assert_allclose(
        in_runtime(packed, X), wanted, atol=2e-5 * np.abs(wanted).max()
    )


@pytest.mark.parametrize("runtime", ["float", "packed", "integers"])
def test_no_weight_is_quantized_between_two_dead_zones(runtime: str) -> None:
    """ONNX Runtime gives a layer between a DequantizeLinear and a QuantizeLinear 8-bit weights, one scale for all."""
    b = Builder(4, opset=18)
    x = b.relu(b.bn(b.conv(b.input("n", 3, 8, 8), 3, 12), 12))
    x = b.relu(b.bn(b.conv(x, 12, 12, bias=False), 12))
    x = b.relu(b.bn(b.conv(x, 12, 12, bias=False), 12))
    graph = settled(b.graph(b.head(x, 12)), quantizer=Quantizer(3, True))
    wanted = in_torch(graph, X)
    result = in_runtime(lower(graph, runtime=runtime), X)  # type: ignore[arg-type]
    far = np.abs(result - wanted).max(1) > 2e-5 * np.abs(wanted).max()
    assert far.sum() <= 1


@pytest.mark.parametrize("scales", [1, 4])
@pytest.mark.parametrize("last", ["float", "binary"])
def test_packing_changes_no_bit(last: str, scales: int) -> None:
    for source in (plain_net(width=12), residual_net(width=16)):
        graph = settled(source, last=last, min_inputs=16, scales=scales)
        np.testing.assert_array_equal(
            in_runtime(lower(graph, runtime="packed"), X),
            in_runtime(lower(graph, runtime="float"), X),
        )


@pytest.mark.parametrize("scales", [1, 3])
def test_layers_without_a_normalisation_behind_keep_their_scales(scales: int) -> None:
    b = Builder(0, opset=18)
    x = b.relu(b.conv(b.input("n", 3, 8, 8), 3, 9, name="first"))
    x = b.relu(b.conv(x, 9, 11, name="middle"))
    graph = settled(b.graph(b.head(x, 11)), scales=scales)
    wanted = in_torch(graph, X)
    for options in ({"runtime": "packed"}, {"form": "thresholds"}, {}):
        result = in_runtime(lower(graph, **options), X)  # type: ignore[arg-type]
        np.testing.assert_allclose(result, wanted, atol=2e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("scales", [1, 5])
def test_matrix_products_become_binary_too(scales: int) -> None:
    b = Builder(0, opset=18)
    x = b.linear(b.op("Flatten", b.input("n", 3, 8, 8)), 192, 70)
    x = b.op("MatMul", b.relu(b.bn(x, 70)), b.weight(70, 65), name="middle")
    x = b.relu(b.bn(x, 65))
    graph = settled(
        b.graph(
            b.linear(
                b.relu(b.bn(b.linear(x, 65, 66, name="second"), 66)), 66, 5, name="head"
            )
        ),
        scales=scales,
    )
    wanted = in_torch(graph, X)
    packed = lower(graph)
    assert [node.op for node in packed.nodes].count("MatMulInteger") == 2
    np.testing.assert_allclose(
        in_runtime(packed, X), wanted, atol=2e-5 * np.abs(wanted).max()
    )


def test_filters_are_not_on_the_axis_that_is_normalised() -> None:
    """A matrix product of three axes has its filters on the last, a normalisation its channels on the second."""
    b = Builder(0, opset=18)
    x = b.relu(b.bn(b.linear(b.op("Flatten", b.input("n", 3, 8, 8)), 192, 90), 90))
    x = b.op("Reshape", x, b.const(np.array([-1, 3, 30])))
    x = b.op("MatMul", x, b.weight(30, 3), name="middle")
    x = b.op("Flatten", b.relu(b.bn(x, 3)))
    graph = settled(b.graph(b.linear(x, 9, 5, name="head")), min_inputs=16)
    wanted = in_torch(graph, X)
    for options in ({"runtime": "packed"}, {"form": "thresholds"}, {}):
        result = in_runtime(lower(graph, **options), X)  # type: ignore[arg-type]
        np.testing.assert_allclose(result, wanted, atol=2e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("scales", [1, 3])
def test_binary_layers_compute_with_whole_numbers_in_the_threshold_form(
    scales: int,
) -> None:
    graph = settled(plain_net(width=12), scales=scales)
    packed = lower(graph, form="thresholds")
    for name in ("second", "third"):
        value = packed.node(name).outputs[0]
        result = session.run_values(packed, {"x": X}, [value])[value]
        np.testing.assert_array_equal(result, np.rint(result))
        assert np.abs(result).max() > 3


@pytest.mark.parametrize("deadzone", [False, True])
def test_thresholds_are_the_normalisation_and_the_quantizer(deadzone: bool) -> None:
    rng = np.random.default_rng(0)
    affine = AffineMap(np.array([0.7, -1.3, 0.0, 0.0]), np.array([0.2, -0.4, 0.9, -0.9]))
    step = half_wave_step(2, deadzone)
    x = rng.standard_normal((5000, 4)) * 2
    sign, limits = as_thresholds(affine, step, 3, deadzone)
    codes = sum((sign * x > limit).astype(int) for limit in limits)
    y = x * affine.scale + affine.shift
    edges = ([0.5 * step] if deadzone else [0.0]) + [1.5 * step, 2.5 * step]
    np.testing.assert_array_equal(codes, sum((y > edge).astype(int) for edge in edges))


@pytest.mark.parametrize("form", [{"runtime": "packed"}, {"form": "thresholds"}, {}])
def test_scales_of_groups_are_a_byte_each(form: dict[str, str], tmp_path: Path) -> None:
    graphs = [settled(plain_net(width=12), scales=scales) for scales in (1, 4)]
    wanted = in_torch(graphs[1], X)
    packed = [lower(graph, **form) for graph in graphs]  # type: ignore[arg-type]
    off = np.abs(in_runtime(packed[1], X) - wanted).max(1)
    assert (off > 2e-5 * np.abs(wanted).max()).sum() <= (2 if form else 10)
    sizes = []
    for number, graph in enumerate(packed):
        pg.save(graph, tmp_path / f"{number}.onnx")
        sizes.append((tmp_path / f"{number}.onnx").stat().st_size)
    # 48 filters with 4 groups each; the rest are nodes that unpack.
    assert 192 <= sizes[1] - sizes[0] <= 192 + 900
    counted = compression(graphs[1])
    assert counted.sizes == 192 and compression(graphs[0]).sizes == 0
    assert counted.layers == pytest.approx(32 * 7776 / (7776 + 32 * 48 + 8 * 192))


def test_products_bit_by_bit() -> None:
    rng = np.random.default_rng(0)
    for bits, size in ((1, 64), (2, 37), (4, 300)):
        codes = rng.integers(0, 2**bits, (20, size))
        weights = np.where(rng.standard_normal((7, size)) >= 0, 1, -1)
        result = serial_product(bit_planes(codes, bits), np.packbits(weights > 0, axis=-1))
        np.testing.assert_array_equal(result, codes @ weights.T)


def test_a_packed_layer_is_about_31_times_smaller(tmp_path: Path) -> None:
    b = Builder(0, opset=18)
    x = b.relu(b.bn(b.conv(b.input("n", 3, 8, 8), 3, 256, k=1, pads=[0] * 4), 256))
    x = b.relu(b.bn(b.conv(x, 256, 512, bias=False, name="big"), 512))
    graph = b.graph(b.head(x, 512))
    output = onnx.helper.make_tensor_value_info(
        graph.outputs[0], onnx.TensorProto.FLOAT, ["n", 5]
    )
    graph.model.graph.output[0].CopyFrom(output)
    sizes = []
    binary, _ = to_binary(graph)
    for each in (graph, lower(binary)):
        pg.save(each, tmp_path / "net.onnx")
        onnx.checker.check_model(onnx.load(tmp_path / "net.onnx"), full_check=True)
        sizes.append((tmp_path / "net.onnx").stat().st_size)
    assert (
        4 * 512 * 256 * 9 - (512 * 256 * 9 // 8) < sizes[0] - sizes[1] < 4 * 512 * 256 * 9
    )
    assert compression(binary).layers == pytest.approx(32 / (1 + 32 / 2304))


def test_int8_weights_of_the_last_layer() -> None:
    graph = settled(plain_net(width=12), last="int8")
    packed = lower(graph, int8=["head"])
    assert {node.op for node in packed.nodes} >= {"DequantizeLinear"}
    wanted = in_runtime(lower(graph), X)
    np.testing.assert_allclose(
        in_runtime(packed, X), wanted, atol=0.02 * np.abs(wanted).max()
    )


def test_ratios_of_the_network_for_cifar() -> None:
    whole = CompressionRatios(
        binary=4_571_136, filters=1664, last=81_920, last_filters=10, others=3456 + 3584
    )
    result = [whole.whole(bits) for bits in (32, 8, 1)]
    assert result == pytest.approx([19.96, 27.09, 30.24], abs=5e-3)
    assert whole.layers == pytest.approx(31.6, abs=0.05)


def test_counts_are_those_of_the_file() -> None:
    binary, _ = to_binary(plain_net(width=8))
    result = compression(binary)
    assert (result.binary, result.filters) == (8 * 16 * 9 + 16 * 16 * 9, 32)
    assert (result.last, result.last_filters) == (16 * 5, 5)
    # The first layer, two plain normalisations with mean and variance, one whole one, the last layer's bias.
    assert result.others == 3 * 8 * 9 + 2 * 8 + 2 * 16 + 4 * 16 + 5
    ends, _ = to_binary(plain_net(width=32), last="binary")
    assert (compression(ends).last, compression(ends).last_filters) == (64 * 5, 5)


def test_no_such_form() -> None:
    binary, _ = to_binary(plain_net())
    for options, message in (
        ({"form": "serial"}, "form is"),
        ({"runtime": "bits"}, "runtime is"),
        ({"runtime": "integers", "form": "thresholds"}, "thresholds are for"),
    ):
        with pytest.raises(OptionError, match=message):
            lower(binary, **options)  # type: ignore[arg-type]

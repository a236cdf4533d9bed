"""Binary layers in integers: the codes that the trained network has, and no others, on every processor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import prunegraph as pg
from prunegraph.graph.linear import output_axis
from prunegraph.graph.model import Graph
from prunegraph.operators import is_batch_normalization
from prunegraph.rewriting.rewriter import Rewriter
from prunegraph.runtime import session
from prunegraph.training.binary import (
    Quantizer,
    estimate_statistics,
    lower,
    to_binary,
    trainable,
)
from prunegraph.training.binary import integers as module
from prunegraph.training.binary.levels import BITS, half_wave_step
from prunegraph.training.binary.network import binary_layers
from prunegraph.training.binary.operators import LEVELS
from prunegraph.training.binary.requantize import MAGNITUDE, CodeTable, Requantization
from prunegraph.training.binary.thresholds import AffineMap
from prunegraph.training.module import GraphModule
from tests.builders import Builder, residual_net
from tests.training.binary.networks import plain_net, task

Array = np.ndarray

#: The largest sum of two products of bytes that processors without VNNI do not saturate.
SATURATED = 2**15 - 1


def half_wave_codes(x: Array, bits: int, deadzone: bool) -> Array:
    """Codes of the quantizer as it is defined, in double precision."""
    steps, top = x / np.float32(half_wave_step(bits, deadzone)), 2**bits - 1
    if deadzone:
        codes: Array = np.clip(np.rint(steps), 0, top)
    else:
        codes = np.where(x > 0, np.clip(np.ceil(steps - 0.5), 1, top), 0)
    return codes


def looked_up(y: Array, table: CodeTable) -> Array:
    """What DequantizeLinear, LeakyRelu and QuantizeLinear make of bytes, in single precision."""
    real = (y.astype(np.float32) - table.kink) * table.scale
    bent = np.where(real < 0, np.float32(table.slope) * real, real)
    codes: Array = np.clip(np.rint(bent / table.code_scale) + 1, 0, 255)
    return codes


@pytest.mark.parametrize("deadzone", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_the_table_has_the_quantizers_codes(bits: int, deadzone: bool) -> None:
    table = CodeTable(half_wave_step(bits, deadzone), 2**bits - 1, deadzone)
    y = np.arange(256)
    # The middle of the values of x that give a y.
    x = (y - table.base - 0.5) / 16 * table.step
    np.testing.assert_array_equal(looked_up(y, table), half_wave_codes(x, bits, deadzone))


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 4),
    st.booleans(),
    st.floats(-1.0, 1.0),
    st.floats(-3.0, 3.0),
    st.integers(0, 2**32 - 1),
)
def test_sums_become_the_codes_of_their_normalisation(
    bits: int, deadzone: bool, size: float, shift: float, seed: int
) -> None:
    """Whole sums, a map of each channel, scale, shift and saturation as QLinearConv has them, then the look-up."""
    rng = np.random.default_rng(seed)
    table = CodeTable(half_wave_step(bits, deadzone), 2**bits - 1, deadzone)
    reach, step, channels = 3 * 600, 0.5388, 40
    scale = rng.standard_normal(channels) * size * 0.1
    affine = AffineMap(scale, shift + rng.standard_normal(channels))
    numbers = Requantization.of(affine, step, table, reach)
    sums = np.arange(-reach, reach + 1)[:, None]
    codes = half_wave_codes(
        (sums * affine.scale + affine.shift).astype(np.float64), bits, deadzone
    )
    turned = np.where(numbers.turned, -1, 1)
    total = (sums * turned * MAGNITUDE + numbers.shifts.astype(np.int64)).astype(np.int64)
    assert np.abs(total).max() < 2**31
    factor = (np.float32(step) * numbers.scales / table.scale).astype(np.float32)
    y = np.clip(np.rint(total.astype(np.float32) * factor) + table.base, 0, 255)
    result = looked_up(y, table)
    # Where thresholds are so close to whole sums, on both sides, that no whole shift is right for all.
    assert np.abs(result - codes).max() <= 1
    assert (result != codes).mean() < 2e-4


@pytest.mark.parametrize("scale", [0.0, 1e-12, -1e-12])
def test_a_channel_that_is_constant_has_its_code(scale: float) -> None:
    table = CodeTable(half_wave_step(2), 3, False)
    shifts = np.array([-9.0, -0.1, 0.1, 0.7, 0.9, 1.2, 1.4, 40.0])
    affine = AffineMap(np.full(8, scale), shifts)
    numbers = Requantization.of(affine, 0.5388, table, 14_000)
    factor = np.float32(0.5388) * numbers.scales / table.scale
    for total in (-14_000, 0, 14_000):
        sums = (total * MAGNITUDE + numbers.shifts.astype(np.int64)).astype(np.float32)
        y = np.clip(np.rint(sums * factor) + table.base, 0, 255)
        np.testing.assert_array_equal(
            looked_up(y, table), half_wave_codes(shifts, 2, False)
        )


def settled(graph: Graph, **options: object) -> Graph:
    """A binary graph whose normalisations have seen data."""
    binary, _ = to_binary(graph, **options)  # type: ignore[arg-type]
    network = GraphModule(binary, trainable=trainable(binary)).eval()
    estimate_statistics(network, [{"x": torch.from_numpy(task()["x"])}])
    return network.write_back()


def turned(graph: Graph, seed: int = 0) -> Graph:
    """The graph with other normalisations: a third of the scales negative, one 0, and shifts."""
    rng, rewriter = np.random.default_rng(seed), Rewriter(graph)
    for node in graph.nodes:
        if is_batch_normalization(node):
            size = graph.weights[node.inputs[1]].size
            scale = (0.5 + rng.random(size)) * np.where(rng.random(size) < 0.3, -1, 1)
            scale[0] = 0
            for slot, values in ((1, scale), (2, rng.standard_normal(size) * 0.3)):
                fresh = rewriter.add_initializer("turned", values.astype(np.float32))
                rewriter.set_input(node, slot, fresh)
    return rewriter.finish()


def deep_net() -> Graph:
    """Convolutions with strides and dilation between normalisations, a pool, and matrix products behind a Flatten."""
    b = Builder(3, opset=18)
    x = b.relu(b.bn(b.conv(b.input("n", 3, 8, 8), 3, 11, name="first"), 11))
    x = b.relu(b.bn(b.conv(x, 11, 13, name="one", bias=False), 13))
    x = b.conv(x, 13, 9, name="two", dilations=[2, 2], pads=[2] * 4)
    x = b.op("MaxPool", b.relu(b.bn(x, 9)), kernel_shape=[3, 3], strides=[2, 2])
    x = b.conv(x, 9, 17, name="three", strides=[2, 2], pads=[1, 0, 1, 1])
    x = b.op("Flatten", b.relu(b.bn(x, 17)))
    x = b.relu(b.bn(b.linear(x, 34, 70, name="four"), 70))
    x = b.relu(b.bn(b.op("MatMul", x, b.weight(70, 66), name="five"), 66))
    return b.graph(b.linear(x, 66, 5, name="head"))


def mobile_net() -> Graph:
    """Two inverted residual blocks as exporters write them: no normalisations, Clip to 6, some channels constant."""
    b = Builder(5, opset=18)
    zero, six = b.const(0.0, np.float32), b.const(6.0, np.float32)
    x = b.op("Clip", b.conv(b.input("n", 3, 8, 8), 3, 16, name="first"), zero, six)
    for block in range(2):
        y = b.op("Clip", b.conv(x, 16, 24, k=1, name=f"expand{block}"), zero, six)
        weight = b.rng.standard_normal((24, 1, 3, 3)).astype(np.float32)
        weight[::4] = 0
        bias = b.rng.uniform(0.1, 0.9, 24).astype(np.float32)
        y = b.op(
            "Conv",
            y,
            b.const(weight),
            b.const(bias),
            group=24,
            pads=[1] * 4,
            name=f"depthwise{block}",
        )
        y = b.conv(b.op("Clip", y, zero, six), 24, 16, k=1, name=f"project{block}")
        x = b.op("Add", x, y)
    return b.graph(b.head(x, 16))


NETS = {
    "inverted residuals": mobile_net,
    "plain": lambda: plain_net(width=12),
    "negative scales behind pools and without": lambda: turned(plain_net(width=12)),
    "residual": lambda: residual_net(width=16),
    "strides, matrices": deep_net,
    "strides, matrices, negative scales": lambda: turned(deep_net()),
}

#: Operators that layers in integers become.
LAYERS = ("QLinearConv", "ConvInteger", "MatMulInteger", "Conv")


@pytest.mark.parametrize(("bits", "last"), [(1, "float"), (2, "binary"), (4, "float")])
@pytest.mark.parametrize("net", NETS)
def test_outputs_are_those_of_the_trained_network(
    net: str, bits: int, last: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At any size above which a convolution that gives whole sums adds them up in integers."""
    options = {"quantizer": Quantizer(bits), "last": last, "min_inputs": 16}
    graph = settled(NETS[net](), **options)
    x = task(60, seed=3)["x"]
    with torch.no_grad():
        wanted = GraphModule(graph).eval()(torch.from_numpy(x))[0].numpy()
    for worth in (0, 10**9):
        monkeypatch.setattr(module, "WORTH", worth)
        result = session.run(session.session(lower(graph)), {"x": x})[0]
        far = np.abs(result - wanted).max(1) > 2e-5 * np.abs(wanted).max()
        # Sums of levels are rounded in the trained network, whole sums are not: at a threshold, codes differ.
        assert far.sum() <= 1


@pytest.mark.parametrize("scales", [2, 4])
@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("net", NETS)
def test_outputs_with_scales_of_groups(
    net: str, bits: int, scales: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In floats as it is; in integers shifts are coarser than with one scale, and 4 bits have 15 thresholds to meet."""
    options = {"quantizer": Quantizer(bits), "last": "binary", "min_inputs": 16}
    graph = settled(uneven(NETS[net]()), scales=scales, **options)
    assert max(layer.scales for layer in binary_layers(graph)) >= min(scales, 3)
    x = task(60, seed=3)["x"]
    with torch.no_grad():
        wanted = GraphModule(graph).eval()(torch.from_numpy(x))[0].numpy()
    one = GraphModule(settled(uneven(NETS[net]()), **options)).eval()
    with torch.no_grad():
        apart = np.abs(one(torch.from_numpy(x))[0].numpy() - wanted).max()
    near = 2e-5 * np.abs(wanted).max()
    for worth in (None, 0, 10**9):
        monkeypatch.setattr(module, "WORTH", worth)
        packed = lower(graph, runtime="packed" if worth is None else "integers")
        off = np.abs(session.run(session.session(packed), {"x": x})[0] - wanted).max(1)
        exact = worth is None or bits <= 2
        assert np.median(off) <= near and ((off > near).sum() <= 1 or not exact)
        assert off.max() < 0.01 * np.abs(wanted).max() < apart


def uneven(graph: Graph, seed: int = 0) -> Graph:
    """The graph with weights whose input channels have different sizes."""
    rng, rewriter = np.random.default_rng(seed), Rewriter(graph)
    for node in graph.layers:
        weight = graph.weights[node.inputs[1]].read().copy()
        axis = 1 - output_axis(node)
        shape = [-1 if i == axis else 1 for i in range(weight.ndim)]
        sizes = rng.uniform(0.1, 2, weight.shape[axis]).reshape(shape)
        fresh = rewriter.add_initializer("uneven", (weight * sizes).astype(np.float32))
        rewriter.set_input(node, 1, fresh)
    return rewriter.finish()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4), st.booleans(), st.integers(0, 2**32 - 1))
def test_sums_of_uneven_weights_become_codes(bits: int, deadzone: bool, seed: int) -> None:
    """Where shifts are coarser: up to 2 bits all codes are right, then all but those at one sum of a threshold."""
    rng = np.random.default_rng(seed)
    table = CodeTable(half_wave_step(bits, deadzone), 2**bits - 1, deadzone)
    reach, step, channels, factor = 15 * 3 * 600, 0.5388, 20, MAGNITUDE // LEVELS
    affine = AffineMap(rng.standard_normal(channels) * 1e-2, rng.standard_normal(channels))
    numbers = Requantization.of(affine, step, table, reach, factor)
    sums = np.arange(-reach, reach + 1)[:, None]
    codes = half_wave_codes(
        (sums * affine.scale + affine.shift).astype(np.float64), bits, deadzone
    )
    signed = sums * np.where(numbers.turned, -factor, factor)
    total = signed + numbers.shifts.astype(np.int64)
    gain = (np.float32(step) * numbers.scales / table.scale).astype(np.float32)
    y = np.clip(np.rint(total.astype(np.float32) * gain) + table.base, 0, 255)
    result = looked_up(y, table)
    assert np.abs(result - codes).max() <= 1
    wrong = (result != codes).sum(0)
    assert (wrong <= table.top).all() and (bits > 2 or wrong.sum() <= 1)


def kinds(graph: Graph) -> dict[str, str]:
    return {node.name: node.op for node in graph.nodes if node.op in LAYERS}


def test_what_layers_become() -> None:
    graph = settled(deep_net(), min_inputs=16)
    assert kinds(lower(graph)) == {
        "first": "Conv",
        "one": "QLinearConv",
        "two": "QLinearConv",
        "three": "QLinearConv",
        "four": "MatMulInteger",
        "five": "MatMulInteger",
    }
    # A pool of sums does not keep what a negative scale would make the largest.
    small = kinds(lower(settled(turned(plain_net(width=12)))))
    assert small == {"first": "Conv", "second": "Conv", "third": "Conv"}


def test_sums_go_to_floats_in_integers_where_that_is_worth_it() -> None:
    b = Builder(0, opset=18)
    x = b.relu(b.bn(b.conv(b.input("n", 3, 24, 24), 3, 32), 32))
    x = b.relu(b.bn(b.conv(x, 32, 32, name="large"), 32))
    graph, _ = to_binary(b.graph(b.head(x, 32)))
    assert kinds(lower(graph))["large"] == "ConvInteger"


@pytest.mark.parametrize("scales", [1, 4])
def test_products_of_two_pairs_do_not_saturate(scales: int) -> None:
    """On processors without VNNI, unsigned times signed bytes are added up in pairs, in 16 bits."""
    for bits in BITS:
        assert 2 * (2**bits - 1) * MAGNITUDE <= SATURATED
    binary = settled(
        uneven(turned(deep_net())), min_inputs=16, quantizer=Quantizer(4), scales=scales
    )
    graph = lower(binary)
    x, seen = task(40, seed=5)["x"], 0
    for node in graph.nodes:
        if node.op in ("QLinearConv", "MatMulInteger"):
            codes, weights = (
                node.inputs[0],
                node.inputs[3 if node.op == "QLinearConv" else 1],
            )
            values = session.run_values(graph, {"x": x}, [codes, weights])
            largest = int(values[codes].max()) * int(np.abs(values[weights]).max())
            assert values[codes].min() >= 0 and 2 * largest <= SATURATED
            seen += 1
    assert seen == 5


@pytest.mark.parametrize("scales", [1, 3])
def test_weights_are_unpacked_when_a_session_is_made(tmp_path: Path, scales: int) -> None:
    graph = settled(deep_net(), min_inputs=16, scales=scales)
    wanted = {"BitwiseAnd", "Gather"}
    for runtime in ("integers", "packed"):
        packed = lower(graph, runtime=runtime)  # type: ignore[arg-type]
        pg.save(packed, tmp_path / "net.onnx")
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
        onnxruntime.InferenceSession(
            tmp_path / "net.onnx", options, providers=["CPUExecutionProvider"]
        )
        run = {node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node}
        assert {node.op for node in packed.nodes} >= wanted and not run & wanted


def test_readers_that_take_no_codes_get_levels() -> None:
    """A Dropout between quantizer and layer is left out at run time, but has no form for bytes."""
    b = Builder(0, opset=18)
    x = b.relu(b.bn(b.conv(b.input("n", 3, 8, 8), 3, 12), 12))
    x = b.conv(b.op("Dropout", x), 12, 12, name="middle")
    graph = settled(b.graph(b.head(b.relu(b.bn(x, 12)), 12)))
    assert kinds(lower(graph))["middle"] == "Conv"
    x = task(60, seed=3)["x"]
    wanted, result = (
        session.run(session.session(lower(graph, runtime=runtime)), {"x": x})[0]
        for runtime in ("float", "integers")
    )
    np.testing.assert_array_equal(result, wanted)

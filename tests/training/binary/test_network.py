"""Operators of binary networks, their gradients, and which layers become binary."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from prunegraph.errors import ModelError, OptionError, UnknownNameError
from prunegraph.runtime import session
from prunegraph.training.binary import (
    Quantizer,
    estimate_statistics,
    lower,
    to_binary,
    trainable,
)
from prunegraph.training.binary.levels import half_wave_error, half_wave_step
from prunegraph.training.binary.network import binary_layers, is_plain
from prunegraph.training.binary.operators import (
    DOMAIN,
    HalfWaveThrough,
    SignThrough,
    half_wave,
)
from prunegraph.training.binary.rectifiers import weights_of_shifted
from prunegraph.training.module import GraphModule
from tests.builders import Builder, residual_net
from tests.training.binary.networks import plain_net, task

Array = np.ndarray


def by_definition(x: Array, step: float, top: int, deadzone: bool) -> Array:
    """Levels by comparing with every threshold."""
    edges = [
        0.5 * step if deadzone else 0.0,
        *((i - 0.5) * step for i in range(2, top + 1)),
    ]
    return step * sum((x > edge).astype(float) for edge in edges)


@pytest.mark.parametrize("deadzone", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_the_quantizer_is_that_of_the_definition(bits: int, deadzone: bool) -> None:
    step, top = half_wave_step(bits, deadzone), 2**bits - 1
    x = np.random.default_rng(bits).standard_normal(200_000)
    result = half_wave(torch.from_numpy(x), step, top, deadzone).numpy()
    np.testing.assert_allclose(result, by_definition(x, step, top, deadzone), atol=1e-12)
    missed = half_wave_error([i * step for i in range(1, top + 1)], deadzone)
    assert np.mean((result - np.maximum(x, 0)) ** 2) == pytest.approx(missed, rel=0.02)


def test_edges_of_the_published_quantizer() -> None:
    x = torch.tensor([-1.0, 0.0, 1e-30, 0.5, 1.5, 1.5000001, 2.5, 2.6, 99.0])
    assert half_wave(x, 1.0, 3).tolist() == [0, 0, 1, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize("kind", ["clipped", "relu", "log"])
def test_gradients(kind: str) -> None:
    x = torch.tensor(
        [-0.5, 0.0, 0.1, 1.6, 1.7, 5.0], dtype=torch.float64, requires_grad=True
    )
    step, top = 0.5, 3
    HalfWaveThrough.apply(x, step, top, False, kind).sum().backward()
    above = {"clipped": [0, 0], "relu": [1, 1], "log": [1 / 1.2, 1 / 4.5]}[kind]
    inside = 1.0 if kind != "clipped" else 0.0
    wanted = [0, 0, 1, 1 / 1.1 if kind == "log" else inside, *above]
    np.testing.assert_allclose(x.grad.numpy(), wanted)


def test_the_log_tail_goes_on_where_the_middle_ends() -> None:
    limit, near = 1.6, 1e-9
    x = torch.tensor([limit - near, limit + near], dtype=torch.float64, requires_grad=True)
    HalfWaveThrough.apply(x, limit, 1, False, "log").sum().backward()
    below, above = x.grad.tolist()
    assert below == pytest.approx(above, abs=1e-8)
    # The function it is the slope of, q + ln(x - (q - 1)), has the value q there.
    assert limit + np.log(limit - (limit - 1)) == pytest.approx(limit)


def test_binary_weights_and_their_gradient() -> None:
    w = torch.tensor([[1.0, -3.0, 0.0, -0.0], [2.0, 2.0, -2.0, 2.0]], requires_grad=True)
    pruned = SignThrough.apply(w, 0)
    np.testing.assert_allclose(pruned.detach(), [[1, -1, 1, 1], [2, 2, -2, 2]])
    pruned.backward(torch.arange(8.0).reshape(2, 4))
    np.testing.assert_array_equal(w.grad, np.arange(8.0).reshape(2, 4))
    np.testing.assert_allclose(SignThrough.apply(w, 1)[:, 1].detach(), [-2.5, 2.5])


def test_a_scale_for_each_group_of_inputs() -> None:
    """By definition: the largest mean magnitude is 15 steps, the others whole numbers of them."""
    w = torch.randn(5, 12, 3, 3) * torch.rand(5, 12, 1, 1)
    w.requires_grad_(True)
    means = w.detach().abs().reshape(5, 4, 27).mean(2).numpy().astype(np.float64)
    step = means.max(1, keepdims=True) / 15
    sizes = np.rint(means / step) * step
    wanted = np.where(w.detach().reshape(5, 4, 27) >= 0, 1, -1) * sizes[..., None]
    result = SignThrough.apply(w, 0, 4)
    np.testing.assert_allclose(
        result.detach(), wanted.reshape(5, 12, 3, 3), rtol=1e-5, atol=1e-9
    )
    result.sum().backward()
    assert w.grad is not None and bool((w.grad == 1).all())
    turned = SignThrough.apply(w[:, :, 0, 0].T, 1, 4).T
    np.testing.assert_array_equal(
        turned.detach(), SignThrough.apply(w[:, :, 0, 0], 0, 4).detach()
    )
    assert bool((SignThrough.apply(torch.zeros(2, 4), 0, 2) == 0).all())


def test_numbers_of_scales_divide_the_channels() -> None:
    binary, _ = to_binary(plain_net(width=12), scales=5)
    assert [layer.scales for layer in binary_layers(binary)] == [4, 4]
    with pytest.raises(OptionError, match="at least 1 scale"):
        to_binary(plain_net(), scales=0)


def test_layers_and_order_of_the_published_network() -> None:
    graph = plain_net()
    binary, remaining = to_binary(graph)
    assert remaining == {"first": "the first layer", "head": "the last layer"}
    assert [layer.node.name for layer in binary_layers(binary)] == ["second", "third"]
    assert all(layer.quantized and layer.axis == 0 for layer in binary_layers(binary))
    ops = [node.op for node in binary.nodes if node.op != "BinaryWeight"]
    assert ops == [
        "Conv",
        "BatchNormalization",
        "HalfWave",
        "Conv",
        "MaxPool",
        "BatchNormalization",
        "HalfWave",
        "Conv",
        "BatchNormalization",
        "Relu",
        "GlobalAveragePool",
        "Flatten",
        "Gemm",
    ]
    plain = [
        node
        for node in binary.nodes
        if node.op == "BatchNormalization" and is_plain(binary, node)
    ]
    assert len(plain) == 2
    names = trainable(binary)
    assert not names & {value for node in plain for value in node.inputs[1:3]}
    assert {layer.weight for layer in binary_layers(binary)} < names


def test_the_last_layer_can_be_binary_with_inputs_as_they_are() -> None:
    binary, remaining = to_binary(plain_net(width=32), last="binary")
    assert [layer.quantized for layer in binary_layers(binary)] == [True, True, False]
    assert remaining == {"first": "the first layer"}


def test_a_rectifier_with_other_readers_stays_and_the_layer_gets_a_quantizer_of_its_own() -> (
    None
):
    binary, _ = to_binary(residual_net(width=16))
    ops = [node.op for node in binary.nodes]
    assert "HalfWave" in ops and "Add" in ops and "Relu" in ops
    added = next(node for node in binary.nodes if node.op == "Add")
    assert all(
        binary.nodes[binary.producer[value]].domain != DOMAIN for value in added.inputs
    )
    module = GraphModule(binary, trainable=trainable(binary)).eval()
    x = torch.randn(200, 3, 8, 8)
    estimate_statistics(module, [{"x": x}])
    quantizers = [node for node in binary.nodes if node.op == "HalfWave"]
    assert quantizers
    for node in quantizers:
        normal = binary.nodes[binary.producer[node.inputs[0]]]
        if is_plain(binary, normal):
            values = module.values([node.inputs[0]], {"x": x})[node.inputs[0]]
            np.testing.assert_allclose(values.mean((0, 2, 3)).detach(), 0, atol=1e-3)
            assert values.var((0, 2, 3)).detach().numpy() == pytest.approx(1, abs=2e-2)


def test_a_network_without_normalisation_gets_one() -> None:
    b = Builder(0)
    x = b.relu(b.conv(b.input("n", 3, 8, 8), 3, 16, name="first"))
    x = b.relu(b.conv(x, 16, 16, name="middle"))
    binary, _ = to_binary(b.graph(b.head(x, 16)))
    assert [
        node.op for node in binary.nodes if node.op in ("BatchNormalization", "HalfWave")
    ] == [
        "BatchNormalization",
        "HalfWave",
    ]
    middle = binary.node("middle")
    assert middle.input(2), "without a normalisation behind it, the bias stays"


def test_a_bias_before_a_normalisation_goes_into_its_mean() -> None:
    b = Builder(0)
    x = b.relu(b.bn(b.conv(b.input("n", 3, 8, 8), 3, 16), 16))
    x = b.relu(b.bn(b.conv(x, 16, 16, name="middle"), 16, name="behind"))
    graph = b.graph(b.head(x, 16))
    binary, _ = to_binary(graph)
    assert binary.node("middle").input(2) == ""
    before, after = (g.weights[g.node("behind").inputs[3]].read() for g in (graph, binary))
    np.testing.assert_allclose(
        before - graph.weights[graph.node("middle").inputs[2]].read(), after, rtol=1e-6
    )


def test_scale_and_shift_are_kept_in_proportion_or_dropped() -> None:
    b = Builder(0)
    x = b.conv(b.input("n", 3, 8, 8), 3, 16, bias=False)
    x = b.conv(b.relu(b.bn(x, 16, name="normal")), 16, 16, name="middle")
    graph = b.graph(b.head(b.relu(x), 16))
    scale, shift = (graph.weights[name].read() for name in graph.node("normal").inputs[1:3])
    kept, _ = to_binary(graph)
    result = [kept.weights[name].read() for name in kept.node("normal").inputs[1:3]]
    assert float((result[0] ** 2 + result[1] ** 2).mean()) == pytest.approx(1, rel=1e-5)
    np.testing.assert_allclose(result[0] / result[1], scale / shift, rtol=1e-5)
    dropped, _ = to_binary(graph, affine=False)
    assert is_plain(dropped, dropped.node("normal"))


def test_reasons_why_a_layer_stays() -> None:
    b = Builder(0)
    x = b.relu(b.bn(b.conv(b.input("n", 3, 8, 8), 3, 32), 32))
    x = b.conv(x, 32, 32, group=32, name="depthwise")
    x = b.conv(b.relu(b.bn(x, 32)), 32, 16, k=1, name="narrow", pads=[0] * 4)
    x = b.conv(b.bn(x, 16), 16, 16, name="linear")
    x = b.conv(b.relu(b.bn(x, 16)), 16, 16, name="kept")
    x = b.conv(b.relu(b.bn(x, 16)), 16, 16, name="binary")
    _, remaining = to_binary(b.graph(b.head(b.relu(x), 16)), keep=["kept"])
    assert remaining["depthwise"] == "a grouped convolution"
    assert remaining["narrow"] == "its filters have 32 inputs, fewer than 64"
    assert remaining["linear"] == "its input is not the output of a rectifier"
    assert remaining["kept"] == "kept" and "binary" not in remaining


def test_rows_of_a_product_have_no_channel_axis() -> None:
    b = Builder(0)
    x = b.op("MatMul", b.input("n", 7, 64), b.weight(64, 70), name="first")
    x = b.op("MatMul", b.relu(x), b.weight(70, 66), name="middle")
    graph = b.graph(b.op("MatMul", b.relu(x), b.weight(66, 5), name="head"))
    with pytest.raises(ModelError, match="its rectifier's input has no known channel axis"):
        to_binary(graph)


def test_a_copy_stands_where_the_file_needs_it_first() -> None:
    from prunegraph.runtime import session

    b = Builder(0, opset=18)
    x = b.relu(b.bn(b.conv(b.input("n", 3, 8, 8), 3, 16), 16))
    x = b.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    first, second = (b.conv(x, 16, 16, name=name) for name in ("one", "two"))
    graph = b.graph(b.head(b.relu(b.op("Add", x, b.op("Add", second, first))), 16))
    binary, _ = to_binary(graph)
    assert [node.op for node in binary.nodes].count("HalfWave") == 1
    assert [node.op for node in binary.nodes].count("MaxPool") == 2
    x = np.zeros((2, 3, 8, 8), np.float32)
    (match,) = session.run(session.session(lower(binary)), {"x": x})
    np.testing.assert_allclose(
        match, GraphModule(binary).eval()(torch.from_numpy(x))[0].detach(), atol=1e-4
    )


def test_bad_choices() -> None:
    graph = plain_net()
    with pytest.raises(UnknownNameError, match="'secnd'"):
        to_binary(graph, keep=["secnd"])
    with pytest.raises(ModelError, match="no layer can become binary"):
        to_binary(graph, min_inputs=10_000)
    with pytest.raises(OptionError, match="1 to 4 bits"):
        Quantizer(5)
    with pytest.raises(OptionError, match="backward"):
        Quantizer(backward="sign")
    with pytest.raises(OptionError, match="last is"):
        to_binary(graph, last="half")  # type: ignore[arg-type]


def test_a_binary_network_learns() -> None:
    from prunegraph.training import Batches, TrainingConfig, fit

    binary, _ = to_binary(plain_net())
    module = GraphModule(binary, trainable=trainable(binary))
    run = fit(module, Batches(task(), 25), TrainingConfig(6, lr=0.05), progress=False)
    assert run.history[-1]["loss"] < 0.5 * run.history[0]["loss"]


def test_real_valued_rectifiers_get_shifts_and_slopes() -> None:
    """They start as plain ones, are trained, and are written as they are; those before quantizers stay quantizers."""
    source = residual_net(width=16)
    plain, _ = to_binary(source, min_inputs=16)
    binary, _ = to_binary(source, min_inputs=16, rprelu=True)
    names = set(weights_of_shifted(binary))
    bends = [node for node in binary.nodes if node.op == "PRelu"]
    rectifiers = [node for node in binary.nodes if node.op == "Relu"]
    assert bends and len(names) == 3 * len(bends)
    assert len(rectifiers) + len(bends) == sum(node.op == "Relu" for node in plain.nodes)
    assert names <= trainable(binary) and names <= binary.weights.keys()
    x = torch.from_numpy(task(40)["x"])
    module = GraphModule(binary, trainable=trainable(binary)).eval()
    with torch.no_grad():
        before = GraphModule(plain).eval()(x)[0]
        np.testing.assert_array_equal(module(x)[0], before)
    module(x)[0].square().sum().backward()
    gradients = [module.weight(name).grad for name in names]
    assert all(bool((each != 0).any()) for each in gradients if each is not None)
    assert all(each is not None for each in gradients)
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for name in sorted(names):
            weight = module.weight(name)
            weight.copy_(torch.from_numpy(rng.standard_normal(tuple(weight.shape)) * 0.3))
        wanted = module(x)[0].numpy()
    assert np.abs(wanted - before.numpy()).max() > 0.01 * np.abs(wanted).max()
    for runtime in ("float", "packed", "integers"):
        written = lower(module.write_back(), runtime=runtime)
        result = session.run(session.session(written), {"x": x.numpy()})[0]
        off = np.abs(result - wanted).max(1)
        assert (off > 2e-5 * np.abs(wanted).max()).sum() <= 1


def test_rectifiers_of_a_chain_stay_quantizers() -> None:
    binary, _ = to_binary(plain_net(), rprelu=True)
    ops = [node.op for node in binary.nodes]
    assert ops.count("HalfWave") == 2 and ops.count("PRelu") == 1
    assert list(weights_of_shifted(to_binary(plain_net())[0])) == []

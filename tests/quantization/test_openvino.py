"""What `--target openvino` writes, in OpenVINO: the codes of ONNX Runtime, from integer kernels."""

from __future__ import annotations

import re

import numpy as np
import onnx
import pytest
from onnx import helper

import prunegraph as pg
from prunegraph.graph.onnx_io import from_model
from prunegraph.operators import is_quantize
from prunegraph.runtime.runtimes import OnnxRuntime, OpenVino
from prunegraph.runtime.session import run_values
from tests.paths import FIXTURES
from tests.quantization.networks import random_net, samples

pytest.importorskip("openvino", reason="the extra [openvino] is not installed")

Array = np.ndarray

FASHION = FIXTURES / "fashion_resnet.onnx"

#: Operators of OpenVINO that layers become.
LAYERS = re.compile("Convolution|GroupConvolution|FullyConnected.*|MatMul")

#: Types of activations that the target takes.
TYPES = ("uint8", "int8")


def fashion(part: str, count: int) -> dict[str, Array]:
    return {"image": np.load(FIXTURES / f"fashion_{part}.npz")["image"][:count]}


def cut_open(
    graph: pg.Graph, inputs: dict[str, Array]
) -> tuple[pg.Graph, dict[str, Array]]:
    """A graph that takes all of its activations' codes as inputs and gives them as outputs, and those codes.

    What is between two of them is then computed by itself: differences do not add up from layer to layer.
    """
    values = [node.outputs[0] for node in graph.nodes if is_quantize(node)]
    codes = run_values(graph, inputs, values)
    model = onnx.ModelProto.FromString(graph.model.SerializeToString())
    for node in model.graph.node:
        if node.output[0] in codes:
            node.output[0] += "#made"
    for name, array in codes.items():
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        model.graph.input.append(helper.make_tensor_value_info(name, kind, array.shape))
        model.graph.output.append(
            helper.make_tensor_value_info(f"{name}#made", kind, array.shape)
        )
    return from_model(model), {**inputs, **codes}


def check_codes(graph: pg.Graph, inputs: dict[str, Array]) -> float:
    """Assert that codes are at most one apart, and outputs the same; returns the share of codes that differ at all."""
    opened, given = cut_open(graph, inputs)
    first, second = (each.open(opened).run(given) for each in (OnnxRuntime(), OpenVino()))
    apart = total = 0
    for name, a, b in zip(opened.outputs, first, second, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape, name
        if name in graph.outputs:
            assert np.abs(a - b).max() <= 1e-4 * np.abs(a).max(), name
            continue
        steps = np.abs(a.astype(int) - b.astype(int))
        assert steps.max() <= 1, f"{name}: {steps.max()} codes apart"
        apart, total = apart + int(steps.sum()), total + steps.size
    return apart / total


def float_layers(graph: pg.Graph, inputs: dict[str, Array]) -> list[str]:
    """Layers that OpenVINO does not run in integers, by their kernels; asserts that it runs as many as there are."""
    model = OpenVino(profiled=True).open(graph)
    model.run(inputs)
    layers = [node for node in model.nodes() if LAYERS.fullmatch(node.op)]
    assert len(layers) == len(graph.layers)
    return [
        f"{node.name}: {node.kernel}"
        for node in layers
        if not node.kernel.lower().endswith("_i8")
    ]


@pytest.mark.parametrize("activations", TYPES)
def test_codes_of_the_fashion_network(activations: str) -> None:
    result = pg.quantize(
        pg.load(FASHION),
        fashion("calibration", 64),
        target="openvino",
        activations=activations,
    )
    images = fashion("eval", 32)
    assert check_codes(result.model, images) < 0.01
    assert float_layers(result.model, images) == []


@pytest.mark.parametrize("activations", TYPES)
@pytest.mark.parametrize("seed", range(6))
def test_codes_of_random_networks(seed: int, activations: str) -> None:
    """Residual sums, concatenations, gates, squeezes, shuffles and depthwise convolutions."""
    result = pg.quantize(
        random_net(seed), samples(), target="openvino", activations=activations
    )
    assert check_codes(result.model, samples(8, seed=1)) < 0.02


def test_accuracy_is_that_of_onnx_runtime() -> None:
    """Codes that flip do not add up to more than a few images in a thousand."""
    result = pg.quantize(pg.load(FASHION), fashion("calibration", 256), target="openvino")
    images, labels = fashion("eval", 1000), np.load(FIXTURES / "fashion_eval.npz")["labels"]
    first, second = (
        each.open(result.model).run(images)[0] for each in (OnnxRuntime(), OpenVino())
    )
    right = [(each.argmax(1) == labels).mean() for each in (first, second)]
    assert abs(right[0] - right[1]) <= 0.003
    assert (first.argmax(1) == second.argmax(1)).mean() >= 0.99

"""Layers in every form a file can write them in, in training: run, trained with fake quantization, made binary."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from prunegraph.graph.model import Graph
from prunegraph.runtime.session import run, session
from prunegraph.training.binary.lower import lower
from prunegraph.training.binary.network import to_binary
from prunegraph.training.module import GraphModule
from prunegraph.training.qat import QuantizedModule
from tests.builders import Builder
from tests.graph.layer_forms import FORMS, OUTPUTS, ROWS, Form, network, samples

Array = np.ndarray
GEMMS = [form for form in FORMS if form.op == "Gemm"]


def first(form: Form) -> dict[str, Array]:
    return {"x": samples(form, ROWS)["x"]}


def by_module(module: GraphModule, x: dict[str, Array]) -> Array:
    with torch.no_grad():
        (y,) = module.eval()(*(torch.from_numpy(each) for each in x.values()))
    return np.asarray(y)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_a_module_gives_what_the_file_gives(form: Form) -> None:
    graph, x = network(form), first(form)
    module = GraphModule(graph)
    (expected,) = run(session(graph), x)
    np.testing.assert_allclose(by_module(module, x), expected, rtol=1e-4, atol=1e-5)
    module.train()(torch.from_numpy(x["x"]))[0].square().sum().backward()
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.grad is not None:
                parameter -= 0.01 * parameter.grad
    (after,) = run(session(module.write_back()), x)
    np.testing.assert_allclose(after, by_module(module, x), rtol=1e-4, atol=1e-5)


def test_a_bias_without_weight_may_hold_anything() -> None:
    """ONNX Runtime does not read C where beta is 0."""
    b = Builder()
    nothing = b.const(np.full(OUTPUTS, np.nan), np.float32)
    graph = b.graph(b.op("Gemm", b.input("n", 8), b.weight(8, OUTPUTS), nothing, beta=0.0))
    x = {"x": np.ones((2, 8), np.float32)}
    np.testing.assert_allclose(
        by_module(GraphModule(graph), x), run(session(graph), x)[0], rtol=1e-5
    )


@pytest.mark.parametrize("form", [form for form in GEMMS if not form.normal], ids=str)
def test_fake_quantization_is_what_is_written(form: Form) -> None:
    graph, x = network(form), first(form)
    module = QuantizedModule(graph, samples(form))
    written: Graph = module.quantized()
    (given,) = run(session(written, fast=False), x)
    (original,) = run(session(graph), x)
    assert np.abs(given - original).max() < 0.1 * np.abs(original).max()
    assert np.abs(given - by_module(module, x)).max() < 0.03 * np.abs(original).max()


@pytest.mark.parametrize("form", GEMMS, ids=str)
def test_binary(form: Form) -> None:
    """The layer is binary, and the standard operators give what the trained form gives."""
    graph, x = network(form, opset=18 if form.bias != "computed" else 17), first(form)
    binary, remaining = to_binary(graph, min_inputs=1)
    assert "layer" not in remaining
    expected = by_module(GraphModule(binary), x)
    (given,) = run(session(lower(binary)), x)
    np.testing.assert_allclose(given, expected, rtol=1e-3, atol=1e-4)
    rest = binary.node("layer")
    assert rest.attributes.get("alpha", 1.0) == 1 and not rest.attributes.get("transA")

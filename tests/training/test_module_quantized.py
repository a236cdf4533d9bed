"""Gradients through quantized graphs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from prunegraph.graph.model import Graph
from prunegraph.runtime.data import random_inputs
from prunegraph.training.module import GraphModule
from tests.builders import Builder
from tests.training.running import difference, reference, run


def quantized(per_channel: bool = False) -> tuple[Graph, str, str]:
    """A convolution between pairs of QuantizeLinear and DequantizeLinear; its weight, and the input's scale."""
    b = Builder()
    scale, zero = b.const(0.05, np.float32), b.const(10, np.uint8)
    weight = b.weight(4, 3, 3, 3)
    if per_channel:
        pair, axis = (
            (b.const([0.01, 0.02, 0.03, 0.04], np.float32), b.const([0] * 4, np.int8)),
            {"axis": 0},
        )
    else:
        pair, axis = (b.const(0.01, np.float32), b.const(0, np.int8)), {}
    x = b.op("QuantizeLinear", b.input("n", 3, 6, 6), scale, zero)
    x = b.op("DequantizeLinear", b.op("Transpose", x, perm=[0, 1, 3, 2]), scale, zero)
    w = b.op(
        "DequantizeLinear", b.op("QuantizeLinear", weight, *pair, **axis), *pair, **axis
    )
    return b.graph(b.relu(b.op("Conv", x, w, pads=[1] * 4))), weight, scale


@pytest.mark.parametrize("per_channel", [False, True])
def test_quantized_graphs_have_gradients_straight_through(per_channel: bool) -> None:
    graph, weight, _ = quantized(per_channel)
    module, inputs = GraphModule(graph), random_inputs(graph)
    assert difference(run(module, inputs)[0], reference(graph, inputs)[0]) <= 1e-5
    assert {name for name, _ in module.named_parameters()} == {weight}
    module(inputs)[0].sum().backward()
    assert (module.weight(weight).grad != 0).all()


def test_scales_are_trained_where_they_are_named() -> None:
    graph, weight, scale = quantized()
    assert scale not in dict(GraphModule(graph, trainable="all").named_parameters())
    assert {
        name for name, _ in GraphModule(graph, trainable=[scale]).named_parameters()
    } == {scale}
    assert {scale, weight} < {
        name for name, _ in GraphModule(graph, learn_scales=True).named_parameters()
    }


def test_clipped_values_have_no_gradient() -> None:
    b = Builder()
    scale, zero = b.const(0.1, np.float32), b.const(0, np.int8)
    y = b.op(
        "DequantizeLinear", b.op("QuantizeLinear", b.input(5), scale, zero), scale, zero
    )
    module = GraphModule(b.graph(y))
    x = torch.tensor([-13.0, -12.8, 0.34, 12.7, 13.0], requires_grad=True)
    module(x)[0].sum().backward()
    assert x.grad.tolist() == [0, 1, 1, 1, 0]


def test_learnt_scales_have_the_gradient_of_lsq() -> None:
    """Esser et al. 2020, equation 3: round(v/s) - v/s inside, the bound outside; times 1/sqrt(elements * top)."""
    b = Builder()
    scale, zero = b.const(0.1, np.float32), b.const(0, np.int8)
    y = b.op(
        "DequantizeLinear", b.op("QuantizeLinear", b.input(1, 5), scale, zero), scale, zero
    )
    module = GraphModule(b.graph(y), learn_scales=True)
    v = torch.tensor([[-13.0, -0.26, 0.34, 0.51, 13.0]])
    module(v)[0].sum().backward()
    inside = (v / 0.1).round() - v / 0.1
    wanted = torch.where(
        v < -12.8, -128.0, torch.where(v > 12.7, 127.0, inside)
    ).sum() / np.sqrt(5 * 127)
    torch.testing.assert_close(module.weight(scale).grad, wanted, rtol=1e-4, atol=1e-4)
    assert module.weight(scale).grad.item() == pytest.approx(wanted.item(), rel=1e-4)

"""Random networks around every operator, in all its opsets, as PyTorch modules: ONNX Runtime's outputs, and gradients.

The networks are those of `tests/operator_cases*.py`. Few of each operator are drawn by default, always the same;
`-m often` draws many.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, note, reject, seed, settings

from prunegraph.errors import ModelError
from prunegraph.runtime import session
from prunegraph.runtime.data import random_inputs
from prunegraph.training.module import GraphModule
from prunegraph.training.operators import layers
from prunegraph.training.operators.table import OPERATORS
from prunegraph.training.program import CONTROL
from tests.builders import Builder
from tests.ops.networks import MS, Network, networks
from tests.ops.test_properties import CASES, FEW

SUPPORTED = sorted(key for key in CASES if key in OPERATORS or key[1] in CONTROL)


#: Products of whole numbers up to 2^31, times a weight: what lies beyond, ONNX leaves open.
OVERFLOW = 2**27

#: ONNX Runtime infers a wrong shape for its second output where `axis` is not the last, and refuses what reads that.
REFUSED = {("", "SimplifiedLayerNormalization")}

#: Operators with a rule that are not run as PyTorch modules, and why.
UNTRAINED = {
    **dict.fromkeys(
        [
            ("", "ConvInteger"),
            ("", "DynamicQuantizeLinear"),
            ("", "MatMulInteger"),
            ("", "QLinearConv"),
            ("", "QLinearMatMul"),
            (MS, "GatherBlockQuantized"),
            (MS, "MatMulNBits"),
            (MS, "QMoE"),
        ],
        "whole numbers have no gradients",
    ),
    **dict.fromkeys(
        [
            ("", op)
            for op in (
                "Bernoulli",
                "RandomNormal",
                "RandomNormalLike",
                "RandomUniform",
                "RandomUniformLike",
            )
        ],
        "its outputs are random",
    ),
    **dict.fromkeys(
        [
            ("", op)
            for op in ("BlackmanWindow", "HammingWindow", "HannWindow", "MelWeightMatrix")
        ],
        "exporters write its result",
    ),
    **dict.fromkeys(
        [("", "DeformConv")],
        "not yet",
    ),
    **dict.fromkeys(
        [
            (MS, op)
            for op in (
                "Attention",
                "FusedConv",
                "FusedGemm",
                "GridSample",
                "GroupQueryAttention",
                "MoE",
                "MultiHeadAttention",
                "RotaryEmbedding",
            )
        ],
        "not yet: train the graph before ONNX Runtime's optimizer has fused it",
    ),
}


def check(operator: tuple[str, str], profile: settings) -> None:
    ran = 0

    @profile
    @given(networks(CASES[operator]))
    def compare(network: Network) -> None:
        nonlocal ran
        graph = network.graph
        note(onnx.printer.to_text(graph.model))
        inputs = random_inputs(graph, seed=network.seed)
        try:
            wanted = session.run(session.session(graph, threads=1, fast=False), inputs)
        except ModelError:
            # Shapes that ONNX infers are not those of the kernel (`ceil_mode`); the optimizer breaks transposed Pads.
            if operator not in REFUSED:
                reject()
            return
        ran += 1
        module = GraphModule(graph).eval()
        created = module(inputs)
        for y, t in zip(created, wanted, strict=True):
            assert y.shape == t.shape
            top = max(np.abs(t[np.isfinite(t)]).max(initial=0), 1e-6)
            if operator == ("", "ReduceProd") and top > OVERFLOW:
                return
            np.testing.assert_allclose(y.detach().numpy(), t, rtol=0, atol=1e-4 * top)
        loss = sum(y.sum() for y in created if y.requires_grad)
        loss.backward()
        used = [p for p in module.parameters() if p.grad is not None]
        assert used and all(
            torch.isfinite(p.grad).all() for p in used if torch.isfinite(loss)
        )

    if profile.derandomize:
        compare = seed(zlib.crc32(".".join(operator).encode()))(compare)
    compare()
    assert ran


@pytest.mark.parametrize("operator", SUPPORTED, ids=lambda key: ".".join(filter(None, key)))
def test_operator(operator: tuple[str, str]) -> None:
    check(operator, settings(FEW, max_examples=4))


@pytest.mark.often
@pytest.mark.parametrize("operator", SUPPORTED, ids=lambda key: ".".join(filter(None, key)))
def test_operator_often(operator: tuple[str, str]) -> None:
    check(operator, settings(FEW, max_examples=60))


@pytest.mark.parametrize(
    "sides", [{}, {"transA": 1}, {"transB": 1}, {"transA": 1, "transB": 1}]
)
def test_rows_before_the_batch(sides: dict[str, int]) -> None:
    b = Builder()
    shape = (3, 2, 5, 3)  # rows, batch, batch, columns; as many rows as columns
    y = b.op(
        "FusedMatMul",
        b.input(*shape),
        b.weight(*shape),
        domain=MS,
        transBatchA=1,
        transBatchB=1,
        **sides,
    )
    graph = b.graph(y, domains=[(MS, 1)])
    inputs = random_inputs(graph)
    (wanted,), (output,) = (
        session.run(session.session(graph), inputs),
        GraphModule(graph)(inputs),
    )
    np.testing.assert_allclose(output.detach().numpy(), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("inputs", [1, 5, 9])
def test_pointwise_convolutions_with_strides(
    inputs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few channels, which are last: on some processors their own strides gave wrong gradients, or ended the process."""
    strides = []

    def conv2d(x: torch.Tensor, w: torch.Tensor, *others: Any) -> torch.Tensor:
        strides.append(others[1])
        return torch.nn.functional.conv2d(x, w, *others)

    monkeypatch.setitem(layers.CONV, 2, conv2d)
    b = Builder()
    graph = b.graph(
        b.conv(b.input(4, inputs, 8, 7), inputs, 9, k=1, strides=[2, 3], name="conv")
    )
    module = GraphModule(graph)
    given = random_inputs(graph)
    x = torch.from_numpy(given[graph.inputs[0]]).contiguous(
        memory_format=torch.channels_last
    )
    (output,) = module({graph.inputs[0]: x})
    assert strides == [[1, 1]]
    (reference,) = session.run(session.session(graph), given)
    np.testing.assert_allclose(output.detach().numpy(), reference, rtol=1e-5, atol=1e-6)
    torch.square(output).sum().backward()
    [weight] = [p for p in module.parameters() if p.dim() == 4]
    assert weight.grad is not None
    slope = 2 * torch.einsum(
        "nohw,nchw->oc", output.detach().double(), x.double()[:, :, ::2, ::3]
    )
    torch.testing.assert_close(
        weight.grad[:, :, 0, 0].double(), slope, rtol=1e-5, atol=1e-5
    )


def test_operators_are_run_or_the_reason_is_known() -> None:
    assert set(CASES) == set(SUPPORTED) | set(UNTRAINED) and not set(SUPPORTED) & set(
        UNTRAINED
    )

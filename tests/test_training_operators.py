"""Random networks around every operator, in all its opsets, as PyTorch modules: ONNX Runtime's outputs, and gradients.

The networks are those of `tests/operator_cases*.py`. Few of each operator are drawn by default, always the same;
`-m often` draws many.
"""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from hypothesis import given, note, seed, settings

torch = pytest.importorskip("torch", reason="the extra [torch] is not installed")

import onnx  # noqa: E402

from prunegraph.errors import ModelError  # noqa: E402
from prunegraph.runtime import session  # noqa: E402
from prunegraph.runtime.data import random_inputs  # noqa: E402
from prunegraph.training.module import GraphModule  # noqa: E402
from prunegraph.training.program import CONTROL  # noqa: E402
from prunegraph.training.table import OPERATORS  # noqa: E402
from tests.operator_nets import MS, Network, networks  # noqa: E402
from tests.test_operator_properties import CASES, FEW  # noqa: E402

torch.set_num_threads(1)
SUPPORTED = sorted(key for key in CASES if key in OPERATORS or key[1] in CONTROL)


#: Products of whole numbers up to 2^31, times a weight: what lies beyond, ONNX leaves open.
OVERFLOW = 2**27

#: ONNX Runtime infers a wrong shape for its second output where `axis` is not the last, and refuses what reads that.
REFUSED = {("", "SimplifiedLayerNormalization")}

#: Operators with a rule that are not run as PyTorch modules, and why.
UNTRAINED = {
    **dict.fromkeys(
        [("", "ConvInteger"), ("", "DynamicQuantizeLinear"), ("", "MatMulInteger"), ("", "QLinearConv"),
         ("", "QLinearMatMul"), (MS, "MatMulNBits")],
        "whole numbers have no gradients",
    ),
    **dict.fromkeys(
        [("", op) for op in ("Bernoulli", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")],
        "its outputs are random",
    ),
    **dict.fromkeys(
        [("", op) for op in ("BlackmanWindow", "HammingWindow", "HannWindow", "MelWeightMatrix")],
        "exporters write its result",
    ),
    **dict.fromkeys(
        [("", "DeformConv")],
        "not yet",
    ),
    **dict.fromkeys(
        [(MS, op) for op in ("Attention", "FusedConv", "FusedGemm", "GridSample", "GroupQueryAttention",
                             "MultiHeadAttention", "RotaryEmbedding")],
        "not yet: train the graph before ONNX Runtime's optimizer has fused it",
    ),
}  # fmt: skip


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
            opened = session.session(graph, threads=1, fast=False)
        except ModelError:
            assert operator in REFUSED
            return
        ran += 1
        wanted = session.run(opened, inputs)
        module = GraphModule(graph).eval()
        made = module(inputs)
        for y, t in zip(made, wanted, strict=True):
            assert y.shape == t.shape
            top = max(np.abs(t[np.isfinite(t)]).max(initial=0), 1e-6)
            if operator == ("", "ReduceProd") and top > OVERFLOW:
                return
            np.testing.assert_allclose(y.detach().numpy(), t, rtol=0, atol=1e-4 * top)
        loss = sum(y.sum() for y in made if y.requires_grad)
        loss.backward()
        used = [p for p in module.parameters() if p.grad is not None]
        assert used and all(torch.isfinite(p.grad).all() for p in used if torch.isfinite(loss))

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


def test_operators_are_run_or_the_reason_is_known() -> None:
    assert set(CASES) == set(SUPPORTED) | set(UNTRAINED) and not set(SUPPORTED) & set(UNTRAINED)

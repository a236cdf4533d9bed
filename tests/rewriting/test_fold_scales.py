"""Scales in front of layers go into their weights: the same function without a Mul."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prunegraph.graph.model import Graph
from prunegraph.rewriting.fold_scales import fold_scales
from tests.builders import Builder
from tests.rotation.networks import outputs, random_inputs


def multiplications(graph: Graph) -> list[str]:
    return [node.name for node in graph.nodes if node.op == "Mul"]


def difference(first: Graph, second: Graph) -> float:
    inputs = random_inputs(first, 0)
    wanted = outputs(first, inputs)
    return float(abs(wanted - outputs(second, inputs)).max() / abs(wanted).max())


def scaled(net: Builder, *shape: int) -> str:
    """The input [n, 5, 4] behind a Sigmoid, times a constant."""
    return net.op("Mul", net.weight(*shape), net.op("Sigmoid", "x"), name="scales")


@given(
    readers=st.lists(
        st.sampled_from(["own", "shared", "shape"]), min_size=1, max_size=4
    ).filter(lambda kinds: set(kinds) != {"shape"}),
    leading=st.integers(0, 2),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=20)
def test_layers_take_the_scales_of_what_they_read(
    readers: list[str], leading: int, seed: int
) -> None:
    net = Builder(seed)
    net.input("n", 5, 4)
    value = scaled(net, *[1] * leading, 4)
    shared = net.weight(4, 3)
    # The weight that layers share is read by one with other inputs, too.
    parts = [net.op("MatMul", "x", shared)]
    for kind in readers:
        if kind == "shape":
            size = net.op("Cast", net.op("Shape", value), to=1)
            parts.append(net.op("Add", parts[-1], net.op("ReduceSum", size)))
        else:
            weight = shared if kind == "shared" else net.weight(4, 3)
            parts.append(net.op("MatMul", value, weight))
    graph = net.graph(net.op("Concat", *parts, axis=2))
    result = fold_scales(graph)
    assert not multiplications(result)
    assert difference(graph, result) < 1e-5


@pytest.mark.parametrize("transposed", [0, 1])
def test_a_gemm_takes_them_on_the_side_of_its_inputs(transposed: int) -> None:
    net = Builder(0)
    net.input("n", 4)
    value = net.op("Mul", "x", net.weight(4))
    weight = net.weight(*((3, 4) if transposed else (4, 3)))
    graph = net.graph(
        net.op("Gemm", value, weight, net.weight(3), transB=transposed, alpha=0.5)
    )
    result = fold_scales(graph)
    assert not multiplications(result)
    assert difference(graph, result) < 1e-5


def test_scales_that_anything_else_reads_or_that_are_of_other_axes_stay() -> None:
    for obstacle in ("output", "activation", "rows", "kept", "second operand"):
        net = Builder(0)
        net.input("n", 5, 4)
        value = scaled(net, *((5, 1) if obstacle == "rows" else (4,)))
        result = net.op("MatMul", value, net.weight(4, 4))
        if obstacle == "activation":
            result = net.op("Add", result, net.op("Tanh", value))
        if obstacle == "second operand":
            result = net.op("MatMul", result, net.op("Transpose", value, perm=[0, 2, 1]))
        graph = net.graph(*([result, value] if obstacle == "output" else [result]))
        keep = ["scales.out"] if obstacle == "kept" else []
        assert fold_scales(graph, keep) is graph, obstacle


def test_a_scale_that_half_precision_cannot_take_stays() -> None:
    net = Builder(0)
    net.input("n", 5, 4)
    scale = net.const(np.full(4, 6e4), np.float16)
    weight = net.const(np.full((4, 3), 6e4), np.float16)
    value = net.op("Mul", net.op("Cast", "x", to=10), scale)
    graph = net.graph(net.op("Cast", net.op("MatMul", value, weight), to=1))
    assert fold_scales(graph) is graph

"""Layers that are left in float, in any combination: what is between them still fits together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import prunegraph as pg
from prunegraph.graph.model import Graph
from prunegraph.measuring.sqnr import decibels
from prunegraph.quantization.calibrate import watched
from prunegraph.quantization.placement import place
from prunegraph.quantization.quantize import prepared
from prunegraph.quantization.scheme import scheme
from prunegraph.runtime.session import run, session
from tests.builders import Builder
from tests.quantization.networks import random_net

Array = np.ndarray

#: What stands between two layers.
BETWEEN = ("", "Relu", "Clip", "Sigmoid", "Softmax", "LeakyRelu", "HardSwish")


def layer(b: Builder, x: str, kind: str) -> str:
    if kind == "MatMul":
        return b.op("MatMul", x, b.weight(6, 6, scale=0.5))
    return b.op("Gemm", x, b.weight(6, 6, scale=0.5), b.weight(6), transB=1)


def act(b: Builder, x: str, kind: str) -> str:
    if kind == "Clip":
        return b.op("Clip", x, b.const(-0.5, np.float32), b.const(1, np.float32))
    return b.op(kind, x) if kind else x


def rows(seed: int = 0) -> dict[str, Array]:
    return {"x": np.random.default_rng(seed).standard_normal((32, 6)).astype(np.float32)}


@st.composite
def dense_nets(draw: st.DrawFn) -> Graph:
    """Layers, activations and sums of values from anywhere before; some values are outputs as well."""
    b = Builder(draw(st.integers(0, 2**16)))
    values, named = [b.input("n", 6)], []
    for _ in range(draw(st.integers(2, 5))):
        x = draw(st.sampled_from(values[-3:]))
        y = layer(b, x, draw(st.sampled_from(["MatMul", "Gemm"])))
        z = act(b, y, draw(st.sampled_from(BETWEEN)))
        if draw(st.booleans()):
            z = b.op(
                draw(st.sampled_from(["Add", "Mul"])), z, draw(st.sampled_from(values))
            )
            z = act(b, z, draw(st.sampled_from(BETWEEN)))
        values += [y, z] if draw(st.booleans()) else [z]
        named += [y] if draw(st.integers(0, 4)) == 0 else []
    last = layer(b, values[-1], "Gemm")
    return b.graph(last, *dict.fromkeys(named))


def check(graph: Graph, created: Graph, inputs: dict[str, Array], least: float) -> None:
    expected, given_ = run(session(graph), inputs), run(session(created), inputs)
    for x, y in zip(expected, given_, strict=True):
        assert decibels(float(np.square(x).sum()), float(np.square(x - y).sum())) > least


@settings(max_examples=25)
@given(st.data())
def test_any_layers_may_stay_in_float(data: st.DataObject) -> None:
    graph = data.draw(dense_nets())
    names = [node.name for node in graph.layers]
    keep = data.draw(st.sets(st.sampled_from(names), max_size=len(names) - 1))
    target = data.draw(st.sampled_from(["cpu", "openvino", "qnn"]))
    check(
        graph,
        pg.quantize(graph, rows(), float_layers=keep, target=target).model,
        rows(),
        12,
    )


@settings(max_examples=8)
@given(dense_nets(), st.sampled_from(["float", "int16"]), st.sampled_from([1e-9, 1e-4]))
def test_a_tolerance_is_met_on_any_of_them(
    graph: Graph, fallback: str, tolerance: float
) -> None:
    quantized = pg.quantize(graph, rows(), tolerance=tolerance, fallback=fallback)
    assert quantized.loss is not None
    if fallback == "float":
        assert quantized.loss <= tolerance
    check(graph, quantized.model, rows(), 12)


@settings(max_examples=20)
@given(st.data())
def test_what_fewer_layers_need_has_been_seen(data: st.DataObject) -> None:
    """Ranges are taken once, with all layers quantized; layers are put back to float after that."""
    graph = data.draw(st.one_of(dense_nets(), st.builds(random_net, st.integers(0, 2**16))))
    base = prepared(graph, scheme())
    whole = place(base, scheme())
    names = [base.nodes[index].name for index in whole.layers]
    fewer = place(base, scheme(), data.draw(st.sets(st.sampled_from(names))))
    assert set(watched([fewer])) <= set(watched([whole]))


@pytest.mark.parametrize("kind", ["MatMul", "Gemm"])
@pytest.mark.parametrize("between", BETWEEN)
def test_what_nothing_reads_in_integers_is_not_quantized(kind: str, between: str) -> None:
    b = Builder()
    graph = b.graph(
        b.op("Softmax", act(b, layer(b, b.input("n", 6), kind), between), axis=-1)
    )
    created = pg.quantize(graph, rows()).model
    assert [node.op for node in created.nodes].count("QuantizeLinear") == 1


def test_a_tolerance_at_a_layer_behind_an_activation() -> None:
    b = Builder()
    x = b.relu(b.op("MatMul", b.input("n", 6), b.weight(6, 6)))
    graph = b.graph(b.op("MatMul", x, b.weight(6, 6)))
    quantized = pg.quantize(graph, rows(), tolerance=1e-7)
    assert quantized.loss is not None and quantized.loss <= 1e-7

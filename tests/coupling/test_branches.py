"""Residual branches: which are found, and what goes with them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

import prunegraph as pg
from prunegraph.coupling.branches import Branch
from prunegraph.graph.model import Graph
from tests.builders import Builder, residual_net
from tests.residual_graphs import Residuals


def found(graph: Graph) -> list[tuple[str, int, int]]:
    """Sum, operand and number of layers of every branch."""
    branches = pg.analyze(graph).branches
    return [(branch.name, branch.slot, len(branch.layers)) for branch in branches]


def one_block(form: str, turned: bool = False) -> Graph:
    net = Residuals(0)
    net.grow(form, turned)
    return net.graph()


def test_a_block_is_found_with_its_layers() -> None:
    [branch] = pg.analyze(residual_net()).branches
    assert branch.layers == ("block1", "block2")
    assert branch.slot == 1


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(
    ("form", "layers"),
    [
        ("plain", [2]),
        ("activated", [2]),
        ("normalised", [2]),
        ("squeezed", [3]),
        ("scaled", [2]),
        ("parallel", [2, 2]),
        ("nested", [2, 4]),
        ("bypassed", [2]),
        ("wider", []),
    ],
)
def test_forms_of_blocks(form: str, turned: bool, layers: list[int]) -> None:
    branches = found(one_block(form, turned))
    assert [count for _, _, count in branches] == layers
    if form != "parallel":
        assert all(slot == (0 if turned else 1) for _, slot, _ in branches)


def test_an_outer_branch_holds_the_inner_one() -> None:
    inner, outer = pg.analyze(one_block("nested")).branches
    assert outer.holds(inner)
    assert not inner.holds(outer)


def perceptron(b: Builder, x: str, width: int = 8) -> str:
    y = b.op("MatMul", x, b.weight(width, 2 * width))
    return b.op("MatMul", b.relu(y), b.weight(2 * width, width))


def test_the_sum_behind_a_layer_normalization_is_the_next_stream() -> None:
    b = Builder(0)
    x = b.op("MatMul", b.input("n", 4, 8), b.weight(8, 8))
    for _ in range(2):
        y = b.op("Add", perceptron(b, x), x)
        x = b.op("LayerNormalization", y, b.weight(8, scale=1.0), b.weight(8))
    assert [(slot, layers) for _, slot, layers in found(b.graph(x))] == [(0, 2), (0, 2)]


def test_arithmetic_without_a_layer_is_no_branch() -> None:
    b = Builder(0)
    x = b.op("MatMul", b.input("n", 8), b.weight(8, 8))
    cubed = b.op("Mul", b.op("Mul", x, x), x)
    assert found(b.graph(b.op("Add", x, cubed))) == []


def test_a_branch_that_is_broadcast_stays() -> None:
    b = Builder(0)
    x = b.conv(b.input("n", 3, 8, 8), 3, 6)
    gate = b.conv(b.op("GlobalAveragePool", x), 6, 6, 1)
    assert found(b.graph(b.op("Add", x, gate))) == []


def test_what_others_read_does_not_go() -> None:
    b = Builder(0)
    x = b.conv(b.input("n", 3, 8, 8), 3, 6, name="stem")
    y = b.conv(x, 6, 6, name="first")
    z = b.conv(b.relu(y), 6, 6, name="second")
    graph = b.graph(b.op("Add", x, z), y)
    [branch] = pg.analyze(graph).branches
    assert branch.layers == ("second",)


def test_a_branch_that_is_an_output_stays() -> None:
    b = Builder(0)
    x = b.conv(b.input("n", 3, 8, 8), 3, 6)
    y = b.conv(x, 6, 6)
    assert found(b.graph(b.op("Add", x, y), y)) == []


def test_a_stream_doubled_and_a_constant_operand_are_no_branches() -> None:
    b = Builder(0)
    x = b.conv(b.input("n", 3, 8, 8), 3, 6)
    doubled = b.op("Add", x, x)
    constant = b.op("Add", b.conv(doubled, 6, 6), b.weight(1, 6, 8, 8))
    assert found(b.graph(constant)) == []


def test_a_branch_behind_dequantized_copies_of_the_stream() -> None:
    b = Builder(0)
    scale, zero = b.const(0.1, np.float32), b.const(0, np.int8)
    x = b.conv(b.input("n", 3, 8, 8), 3, 6)
    codes = b.op("QuantizeLinear", x, scale, zero)
    first, second = (b.op("DequantizeLinear", codes, scale, zero) for _ in range(2))
    assert [s for _, s, _ in found(b.graph(b.op("Add", first, b.conv(second, 6, 6))))] == [
        1
    ]


def test_inside_a_loop_nothing_is_found() -> None:
    b = Builder(0)
    x = b.conv(b.input(1, 3, 8, 8), 3, 6)
    kernel = b.weight(6, 6, 3, 3)
    body = helper.make_graph(
        [
            helper.make_node("Conv", ["state", kernel], ["step"], pads=[1] * 4),
            helper.make_node("Add", ["state", "step"], ["next"], name="inside"),
            helper.make_node("Identity", ["go"], ["on"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", onnx.TensorProto.INT64, []),
            helper.make_tensor_value_info("go", onnx.TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", onnx.TensorProto.FLOAT, [1, 6, 8, 8]),
        ],
        [
            helper.make_tensor_value_info("on", onnx.TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", onnx.TensorProto.FLOAT, [1, 6, 8, 8]),
        ],
    )
    y = b.op("Loop", b.const(3, np.int64), b.const(True), x, body=body)
    assert found(b.graph(y)) == []


def test_what_several_branches_share_goes_with_the_last_of_them() -> None:
    """The encoder of a translator is needed by every cross-attention."""
    b = Builder(0)
    memory = b.op("MatMul", b.input("n", 8, name="source"), b.weight(8, 8))
    x = b.op("MatMul", b.input("n", 8), b.weight(8, 8))
    for _ in range(2):
        read = b.op("Mul", b.op("MatMul", x, b.weight(8, 8)), memory)
        x = b.op("Add", x, read)
    coupling = pg.analyze(b.graph(x))
    encoder = coupling.graph.nodes[coupling.graph.producer[memory]].index
    first, second = coupling.branches
    assert encoder not in first.nodes | second.nodes
    assert encoder in coupling.nodes_without([first, second])


def test_a_coupling_without_a_branch_offers_no_channels_inside_it() -> None:
    coupling = pg.analyze(residual_net())
    [branch] = coupling.branches
    rest = coupling.without([branch.id])
    inside = {group.id for group in coupling.groups} - {group.id for group in rest.groups}
    assert [coupling.group(name).layers for name in inside] == [("block1",)]
    assert rest.whole.dropped == frozenset()


def test_ids_do_not_meet_those_of_groups() -> None:
    branch = Branch("g0", 0, 1, "x", "y", frozenset(), ("layer",))
    assert branch.id == "branch:g0"

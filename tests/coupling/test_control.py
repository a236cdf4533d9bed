"""Subgraphs of If, Loop and Scan: layers in them are pruned, and the proof holds."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

import prunegraph as pg
from prunegraph.graph.shapes import shape_info
from tests.builders import Builder
from tests.coupling.control_graphs import (
    BOOL,
    INT64,
    Inner,
    head_inputs,
    loop,
)
from tests.coupling.control_networks import branching, conv_branch, finished, recurrent
from tests.oracle import fixed_reasons, prove, random_plan


def test_layers_in_branches_are_pruned() -> None:
    graph = finished(branching())
    coupling = pg.analyze(graph)
    assert set(fixed_reasons(graph)) == {"head"}
    assert [(g.channels, set(g.layers)) for g in coupling.groups] == [
        (8, {"a"}),
        (6, {"first1"}),
        (10, {"second1", "second2"}),
        (6, {"first2"}),
        (4, {"last"}),
    ]
    for seed in range(6):
        pruned, _ = prove(graph, seed)
        widths = {node.name: node.channels.outputs for node in pruned.layers}
        assert widths == {
            "a": 4,
            "first1": 3,
            "second1": 5,
            "first2": 3,
            "second2": 5,
            "last": 2,
            "head": 5,
        }


@pytest.mark.parametrize("constant", [False, True])
def test_a_constant_condition_takes_its_branch(constant: bool) -> None:
    b = branching(constant)
    graph = finished(b)
    coupling = pg.analyze(graph)
    assert set(fixed_reasons(graph)) == {"head"}
    taken, other = ("1", "2") if constant else ("2", "1")
    assert [set(g.layers) for g in coupling.groups] == [
        {"a"},
        {"first" + taken},
        {"second" + taken},
        {"last"},
    ]
    pruned, _ = prove(graph)
    assert [node.op for node in pruned.nodes if node.op == "If"] == []
    assert {node.name for node in pruned.layers} == {
        "a",
        "first" + taken,
        "second" + taken,
        "last",
        "head",
    }
    assert not any(name.startswith("c" + other + "00") for name in pruned.weights)


def test_a_branch_that_does_not_fit_is_dead() -> None:
    """Exporters write both branches of a question about the rank; only one of them fits the shapes."""
    b = Builder()
    x = b.conv(b.input("n", 3, 6, 6), 3, 8, name="a")
    x = b.op("GlobalAveragePool", x)
    size = b.op("Gather", b.op("Shape", x), b.const(2, np.int64))
    is_one = b.op("Equal", size, b.const(1, np.int64))
    yes, no = Inner(b, 1), Inner(b, 2)
    squeezed = yes.op("Squeeze", x, yes.const([2, 3], np.int64))
    y = b.op(
        "If",
        is_one,
        then_branch=yes.body(squeezed),
        else_branch=no.body(no.op("Identity", x)),
    )
    graph = b.graph(b.linear(b.relu(b.linear(y, 8, 6, name="m")), 6, 5, name="head"))
    assert set(fixed_reasons(graph)) == {"head"}
    prove(graph)


def test_a_condition_on_sizes_is_not_constant() -> None:
    """Both candidate sizes give the same answer; an input of another size gives the other one."""
    b = Builder()
    x = b.conv(b.input("n", 3, "h", "h"), 3, 8, name="a")
    size = b.op("Gather", b.op("Shape", x), b.const(2, np.int64))
    large = b.op("Greater", size, b.const(1000, np.int64))
    branches = [conv_branch(b, x, 8, 6, 10, number) for number in (1, 2)]
    y = b.op("If", large, then_branch=branches[0], else_branch=branches[1])
    graph = b.graph(b.head(y, 10))
    assert not shape_info(graph).dead
    pruned, _ = prove(graph)
    assert {"first1", "first2"} <= {node.name for node in pruned.layers}


def test_dead_branches_one_after_the_other() -> None:
    """The answer of the first If decides the second."""
    b = Builder()
    x = b.conv(b.input("n", 3, 6, 6), 3, 8, name="a")
    yes, no = Inner(b, 1), Inner(b, 2)
    two, three = (
        yes.const(2, np.int64),
        no.op("Gather", no.op("Shape", x), no.const(3, np.int64)),
    )
    number = b.op(
        "If",
        b.const(True, np.bool_),
        then_branch=yes.body(yes.op("Identity", two), kinds=[INT64]),
        else_branch=no.body(three, kinds=[INT64]),
    )
    branches = [conv_branch(b, x, 8, 6, 10, number) for number in (3, 4)]
    y = b.op(
        "If",
        b.op("Equal", number, b.const(2, np.int64)),
        then_branch=branches[0],
        else_branch=branches[1],
    )
    graph = b.graph(b.head(y, 10))
    assert [g.layers for g in pg.analyze(graph).groups] == [
        ("a",),
        ("first3",),
        ("second3",),
    ]
    pruned, _ = prove(graph)
    assert not [node for node in pruned.nodes if node.op == "If"]


def test_loops_carry_channels() -> None:
    graph = finished(recurrent())
    coupling = pg.analyze(graph)
    assert set(fixed_reasons(graph)) == {"head"}
    assert [(g.channels, set(g.layers)) for g in coupling.groups] == [
        (8, {"a", "in2"}),
        (6, {"in1"}),
        (4, {"last"}),
    ]
    for seed in range(3):
        pruned, _ = prove(graph, seed)
        assert {n.name: n.channels.outputs for n in pruned.layers} == {
            "a": 4,
            "in1": 3,
            "in2": 4,
            "last": 2,
            "head": 5,
        }


def test_loops_stack_what_every_turn_returns() -> None:
    graph = finished(recurrent(scanned=True))
    assert set(fixed_reasons(graph)) == {"head"}
    pruned, _ = prove(graph)
    assert pruned.node("out").channels.outputs == 4


@pytest.mark.parametrize("iterations", [1, 4])
def test_iterations_decided_at_run_time(iterations: int) -> None:
    b = recurrent("iterations", scanned=True)
    b.nodes[0:0] = [helper.make_node("ReduceSum", ["count"], ["iterations"], keepdims=0)]
    b.inputs.append(helper.make_tensor_value_info("count", INT64, ["m"]))
    graph = finished(b)
    assert set(fixed_reasons(graph)) == {"head"}
    pruned, _ = prove(graph)
    assert pruned.node("out").channels.outputs == 4
    rng = np.random.default_rng(iterations)
    data = {
        "x": rng.standard_normal((1, 3, 6, 6)).astype(np.float32),
        "count": np.ones(iterations, np.int64),
    }
    plan = random_plan(pg.analyze(graph))
    pg.verify(graph, plan, pg.apply(graph, plan), data=[data])


def test_a_value_that_grows_from_turn_to_turn_stays() -> None:
    b = Builder()
    x = b.conv(b.input("n", 3, 6, 6), 3, 8, name="a")
    y = b.conv(x, 8, 5, name="grown")
    i = Inner(b)
    state, list_ = head_inputs(i, ("n", 8, 6, 6), ("n", 5, 6, "w"))
    more = i.conv(state, 8, 5, name="more")
    step = i.op("Tanh", i.conv(state, 8, 8, name="step"))
    body = i.body(
        i.op("Identity", "go1000"), step, i.op("Concat", list_, more, axis=3), kinds=[BOOL]
    )
    z = loop(b, body, b.const(3, np.int64), x, y, created=2)
    z = b.op("Add", b.head(z, 8), b.op("ReduceMean", "loop.out1", keepdims=0))
    graph = b.graph(z)
    reasons = fixed_reasons(graph)
    assert set(reasons) == {"grown", "more", "head"}
    assert (
        reasons["grown"]
        == "'carried1000_1' in loop/body changes its shape from iteration to iteration"
    )
    assert "'carried1000_1'" in reasons["more"]
    prove(graph)


def scanning(axis: int, out_axis: int, direction: int = 0) -> Builder:
    """linear -> Scan over time (an Elman cell with a layer on its output) -> linear."""
    b = Builder()
    x = b.op("MatMul", b.input("n", 5, 7), b.weight(7, 12), name="first")
    x = b.op("Transpose", b.relu(x), perm=[1, 0, 2] if axis in (0, -3) else [0, 1, 2])
    state = b.op(
        "Tanh",
        b.op(
            "MatMul",
            b.op("ReduceMean", x, axes=[axis], keepdims=0),
            b.weight(12, 9),
            name="start",
        ),
    )
    i = Inner(b)
    h, s = i.input("n", 9, name="h"), i.input("n", 12, name="s")
    both = i.op(
        "Add",
        i.op("MatMul", h, i.weight(9, 9), name="hh"),
        i.op("MatMul", s, i.weight(12, 9), name="sh"),
    )
    new = i.op("Tanh", i.op("Add", both, i.weight(9)))
    body = i.body(new, i.relu(i.op("MatMul", new, i.weight(9, 6), name="ho")))
    b.op(
        "Scan",
        state,
        x,
        body=body,
        num_scan_inputs=1,
        scan_input_axes=[axis],
        scan_output_axes=[out_axis],
        scan_input_directions=[direction],
        outputs=2,
        name="scan",
    )
    y = b.op("Transpose", "scan.out1", perm=[1, 0, 2] if out_axis in (0, -3) else [0, 1, 2])
    y = b.op("Add", b.op("MatMul", y, b.weight(6, 4), name="last"), b.const(0, np.float32))
    z = b.op("MatMul", b.op("ReduceMean", y, axes=[1], keepdims=0), b.weight(4, 3))
    b.op("Add", z, b.op("MatMul", "scan.out0", b.weight(9, 3)), name="sum")
    return b


@pytest.mark.parametrize(
    ("axis", "out_axis", "direction"), [(0, 0, 0), (1, 1, 1), (-2, -3, 0), (-3, 1, 1)]
)
def test_scans(axis: int, out_axis: int, direction: int) -> None:
    graph = finished(scanning(axis, out_axis, direction))
    coupling = pg.analyze(graph)
    assert [(g.channels, set(g.layers)) for g in coupling.groups] == [
        (12, {"first"}),
        (9, {"start", "hh", "sh"}),
        (6, {"ho"}),
        (4, {"last"}),
    ]
    pruned, _ = prove(graph)
    assert pruned.node("hh").channels.inputs == 5

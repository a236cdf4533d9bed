"""Subgraphs of If, Loop and Scan: layers in them are pruned, and the proof holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from onnx import helper

import prunegraph as pg
from prunegraph.coupling.explain import explain
from prunegraph.errors import ModelError
from prunegraph.graph.model import Graph
from prunegraph.graph.records import node_records
from prunegraph.graph.shapes import shape_info
from prunegraph.selection.plan import make_plan
from tests.builders import Builder
from tests.coupling.control_graphs import (
    BOOL,
    FLOAT,
    INT64,
    ControlGrower,
    Inner,
    condition,
    head_inputs,
    loop,
)
from tests.oracle import fixed_reasons, outputs, prove, random_plan
from tests.proof.test_properties import SLOW
from tests.random_graphs import GROWERS, Drawn


def conv_branch(
    b: Builder, x: str, cin: int, middle: int, cout: int, number: int
) -> onnx.GraphProto:
    i = Inner(b, number)
    y = i.relu(i.conv(x, cin, middle, name=f"first{number}"))
    return i.body(i.conv(y, middle, cout, name=f"second{number}"))


def branching(constant: bool | None = None, opset: int = 17) -> Builder:
    """conv a -> If (two convolutions in each branch) -> conv last -> head."""
    b = Builder(opset=opset)
    x = b.conv(b.input("n", 3, 6, 6), 3, 8, name="a")
    which = condition(b, x) if constant is None else b.const(constant, np.bool_)
    branches = [conv_branch(b, x, 8, 6, 10, number) for number in (1, 2)]
    y = b.op("If", which, then_branch=branches[0], else_branch=branches[1], name="choice")
    b.head(b.conv(b.relu(y), 10, 4, name="last"), 4)
    return b


def finished(b: Builder) -> Graph:
    return b.graph(b.nodes[-1].output[0])


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


def recurrent(
    iterations: object = 3, scanned: bool = False, share: bool = False
) -> Builder:
    """conv a -> Loop (state = conv2(relu(conv1(state))) + a) -> conv last -> head."""
    b = Builder()
    x = b.conv(b.input("n", 3, 6, 6), 3, 8, name="a")
    i = Inner(b)
    (state,) = head_inputs(i, ("n", 8, 6, 6))
    y = i.relu(i.conv(state, 8, 6, name="in1"))
    y = i.op("Add", i.op("Tanh", i.conv(y, 6, 8, name="in2")), x)
    outs = [i.op("Identity", "go1000"), y] + (
        [i.conv(y, 8, 7, name="out")] if scanned else []
    )
    count = (
        b.const(iterations, np.int64) if isinstance(iterations, int) else str(iterations)
    )
    z = loop(b, i.body(*outs, kinds=[BOOL]), count, x, created=1 + scanned)
    if scanned:
        stacked = b.op("ReduceMax", "loop.out1", axes=[0], keepdims=0)
        z = b.op("Concat", z, b.relu(stacked), axis=1)
    b.head(b.conv(z, 15 if scanned else 8, 4, name="last"), 4)
    return b


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


def test_outer_weights_are_cut_where_a_subgraph_reads_them() -> None:
    b = Builder()
    x = b.conv(b.input("n", 3, 6, 6), 3, 8, name="a")
    shared, bias = b.weight(6, 8, 3, 3), b.weight(6)
    branches = []
    for number in (1, 2):
        i = Inner(b, number)
        y = i.relu(
            i.op(
                "Conv",
                x,
                shared,
                *([bias] if number == 1 else []),
                pads=[1] * 4,
                name=f"c{number}",
            )
        )
        branches.append(i.body(i.conv(y, 6, 4, name=f"d{number}")))
    y = b.op("If", condition(b, x), then_branch=branches[0], else_branch=branches[1])
    graph = b.graph(b.head(y, 4))
    assert [set(g.layers) for g in pg.analyze(graph).groups] == [
        {"a"},
        {"c1", "c2"},
        {"d1", "d2"},
    ]
    pruned, _ = prove(graph)
    assert pruned.weights[shared].shape == (3, 4, 3, 3)
    assert len(pruned.model.graph.initializer) == len(graph.model.graph.initializer)


def test_subgraphs_in_subgraphs() -> None:
    """An If in a Loop in an If; the innermost layer reads the outermost value."""
    b = Builder()
    x = b.conv(b.input("n", 3, 6, 6), 3, 8, name="a")
    no, yes, turn = Inner(b, 1), Inner(b, 2), Inner(b, 3)
    (state,) = head_inputs(turn, ("n", 8, 6, 6))
    deep, flat = Inner(b, 4), Inner(b, 5)
    one = deep.body(deep.op("Add", deep.conv(x, 8, 8, name="deep"), state))
    two = flat.body(flat.op("Tanh", state))
    y = turn.op(
        "If", condition(turn, state), then_branch=one, else_branch=two, name="inner"
    )
    body = turn.body(turn.op("Identity", "go3000"), turn.op("Tanh", y), kinds=[BOOL])
    z = loop(yes, body, yes.const(2, np.int64), x)
    branches = yes.body(yes.conv(z, 8, 6, name="yes")), no.body(no.conv(x, 8, 6, name="no"))
    y = b.op(
        "If",
        condition(b, x),
        then_branch=branches[0],
        else_branch=branches[1],
        name="outer",
    )
    graph = b.graph(b.head(y, 6))
    assert [set(g.layers) for g in pg.analyze(graph).groups] == [
        {"a", "deep"},
        {"yes", "no"},
    ]
    names = [body.name for body in graph.subgraphs]
    assert names == [
        "outer/then_branch",
        "outer/else_branch",
        "loop/body",
        "inner/then_branch",
        "inner/else_branch",
    ]
    for seed in range(4):
        prove(graph, seed)


def test_branches_may_use_the_same_names() -> None:
    b = Builder()
    x = b.conv(b.input("n", 3, 6, 6), 3, 8, name="a")
    branches = []
    for seed in (1, 2):
        i = Inner(b, 1)
        i.rng = np.random.default_rng(seed)
        y = i.relu(i.conv(x, 8, 6, name="conv"))
        branches.append(i.body(i.conv(y, 6, 4)))
    y = b.op(
        "If", condition(b, x), then_branch=branches[0], else_branch=branches[1], name="if"
    )
    graph = b.graph(b.head(y, 4))
    names = [node.name for node in graph.layers]
    assert names[1:-1] == [
        f"if/{branch}/{conv}"
        for branch in ("then_branch", "else_branch")
        for conv in ("conv", branches[0].node[2].name)
    ]
    pruned, _ = prove(graph)
    (choice,) = (node for node in pruned.model.graph.node if node.op_type == "If")
    for attribute in choice.attribute:
        assert [n.name for n in attribute.g.node] == [n.name for n in branches[0].node]
        assert [list(n.input) for n in attribute.g.node] == [
            list(n.input) for n in branches[0].node
        ]


def test_subgraphs_declare_their_shapes_anew() -> None:
    b = recurrent()
    body = b.nodes[-5].attribute[0].g
    assert body.input[2].type.tensor_type.shape.dim[1].dim_value == 8
    pruned, _ = prove(finished(b))
    body = pruned.node("loop").proto.attribute[0].g
    assert body.input[2].type.tensor_type.shape.dim[1].dim_value == 4
    assert body.input[2].type.tensor_type.shape.dim[2].dim_value == 6


def test_sizes_that_a_subgraph_returns_stay_what_they_are() -> None:
    """A branch returns the number of channels, which is read as a number; the cut corrects it in the branch."""
    b = Builder()
    x = b.conv(b.input("n", 3, 6, 6), 3, 8, name="a")
    yes, no = Inner(b, 1), Inner(b, 2)
    size = yes.op("Gather", yes.op("Shape", x), yes.const(1, np.int64))
    other = no.op(
        "Mul",
        no.op("Gather", no.op("Shape", x), no.const(1, np.int64)),
        no.const(2, np.int64),
    )
    n = b.op(
        "If",
        condition(b, x),
        then_branch=yes.body(size, kinds=[INT64]),
        else_branch=no.body(other, kinds=[INT64]),
    )
    y = b.op("Mul", x, b.op("Cast", n, to=FLOAT))
    graph = b.graph(b.head(y, 8))
    assert "a" not in fixed_reasons(graph)
    prove(graph)


def test_constants_that_a_subgraph_returns() -> None:
    b = Builder()
    x = b.conv(b.input("n", 3, 6, 6), 3, 8, name="a")
    yes, no = Inner(b, 1), Inner(b, 2)
    table = no.weight(1, 8, 6, 6)
    mean = yes.op("ReduceMean", x, axes=[0], keepdims=1)
    y = b.op("If", condition(b, x), then_branch=yes.body(mean), else_branch=no.body(table))
    graph = b.graph(b.head(b.op("Add", x, y), 8))
    assert "a" not in fixed_reasons(graph)
    pruned, _ = prove(graph)
    (constant,) = (w for w in pruned.weights.values() if w.name == table)
    assert constant.shape == (1, 4, 6, 6)


def test_a_shared_constant_is_cut_for_one_reader_only() -> None:
    """A branch returns a vector that loses channels, and reads it where nothing goes."""
    b = Builder()
    x = b.conv(b.input("n", 3, 6, 6), 3, 8, name="a")
    yes, no = Inner(b, 1), Inner(b, 2)
    vector = no.weight(8, 1, 1)
    kept = no.op("LRN", no.op("Add", b.input(1, 8, 6, 6, name="other"), vector), size=3)
    one = yes.op(
        "Reshape",
        yes.op("ReduceMean", x, axes=[0, 2, 3], keepdims=0),
        yes.const([-1, 1, 1], np.int64),
    )
    branches = yes.body(yes.op("Neg", "other"), one), no.body(kept, vector)
    b.op(
        "If",
        condition(b, x),
        then_branch=branches[0],
        else_branch=branches[1],
        outputs=2,
        name="if",
    )
    y = b.head(b.op("Mul", x, "if.out1"), 8)
    graph = b.graph(y, "if.out0")
    assert set(fixed_reasons(graph)) == {"head"}
    pruned, _ = prove(graph)
    assert sorted(
        w.shape for w in pruned.weights.values() if w.name.startswith(vector)
    ) == [(4, 1, 1), (8, 1, 1)]


def test_what_is_not_laid_open_stays() -> None:
    """A subgraph with sparse weights, and an operator whose subgraphs nobody knows, pin what they read."""
    b = Builder()
    x = b.conv(b.input("n", 3, 6, 6), 3, 8, name="a")
    yes, no = Inner(b, 1), Inner(b, 2)
    branches = yes.body(yes.op("Add", x, "sparse")), no.body(no.op("Neg", x))
    values = helper.make_tensor("sparse", FLOAT, [1], [2.0])
    indices = helper.make_tensor("sparse_i", INT64, [1], [3])
    branches[0].sparse_initializer.append(helper.make_sparse_tensor(values, indices, [6]))
    y = b.op("If", condition(b, x), then_branch=branches[0], else_branch=branches[1])
    graph = b.graph(b.head(b.conv(y, 8, 8, name="c"), 8))
    assert fixed_reasons(graph)["a"] == "used inside the subgraph of If"
    assert not graph.subgraphs
    prove(graph)


def test_external_weights_in_a_subgraph(tmp_path: Path) -> None:
    b = branching()
    model = b.model(b.nodes[-1].output[0])
    onnx.save(
        model,
        tmp_path / "big.onnx",
        save_as_external_data=True,
        size_threshold=0,
        location="big.bin",
    )
    assert (
        onnx.load(tmp_path / "big.onnx", load_external_data=False)
        .graph.node[3]
        .attribute[0]
        .g.initializer[0]
        .HasField("data_location")
    )
    result = pg.prune(
        str(tmp_path / "big.onnx"),
        str(tmp_path / "small.onnx"),
        budget=pg.Budget(ratio=0.5),
        round_to=1,
    )
    assert result.proof is not None
    (tmp_path / "big.bin").unlink()
    assert outputs(pg.load(str(tmp_path / "small.onnx")))[0].shape == (2, 5)


def test_layers_in_subgraphs_are_named_and_explained() -> None:
    graph = finished(branching(True))
    assert (
        explain(pg.analyze(graph), "first2").advice == "it is in a branch that never runs"
    )
    graph = finished(branching())
    assert "g1" in explain(pg.analyze(graph), "first1").advice
    records = {record["name"]: record for record in node_records(graph)}
    assert records["first1"]["body"] == "choice/then_branch"
    assert "body" not in records["a"]
    b = Builder()
    x = b.conv(b.input("n", 3, 6, 6), 3, 8, name="a")
    yes, no = Inner(b, 1), Inner(b, 2)
    one = yes.body(yes.conv(x, 8, 6, name="inner"))
    y = b.op(
        "If",
        condition(b, x),
        then_branch=one,
        else_branch=no.body(no.conv(x, 8, 6, name="other")),
        name="if",
    )
    coupling = pg.analyze(b.graph(b.head(b.op("LRN", y, size=3, name="lrn"), 6)))
    assert explain(coupling, "inner").path == (
        "inner",
        "if/then_branch/return",
        "if",
        "lrn",
    )
    assert explain(coupling, "other").path == (
        "other",
        "if/else_branch/return",
        "if",
        "lrn",
    )


def test_invalid_subgraphs_are_refused() -> None:
    b = branching()
    b.nodes[3].attribute[0].g.node[0].input[0] = "nothing"
    with pytest.raises(ModelError, match="reads 'nothing', which nothing makes"):
        finished(b)


# -- random subgraphs ------------------------------------------------------------------------


@st.composite
def draw_control(draw: st.DrawFn) -> Graph:
    """One to three pieces, then one or two control-flow nodes, then a piece."""
    grower = ControlGrower(Drawn(draw))
    for _ in range(draw(st.integers(1, 3))):
        grower.maps.append(getattr(grower, draw(st.sampled_from(GROWERS)))(grower.pick()))
    for _ in range(draw(st.integers(1, 2))):
        grow = draw(
            st.sampled_from([grower.control_if, grower.control_loop, grower.control_scan])
        )
        grower.maps.append(grow(grower.pick()))
    grower.maps.append(grower.conv(grower.maps[-1]))
    return grower.finish()


@settings(SLOW, max_examples=60)
@given(draw_control(), st.integers(0, 2**16), st.sampled_from([0.3, 0.5]))
def test_random_subgraphs(graph: Graph, seed: int, ratio: float) -> None:
    prove_subgraphs(graph, seed, ratio)


@pytest.mark.slow
@pytest.mark.often
@settings(SLOW, max_examples=300)
@given(draw_control(), st.integers(0, 2**16), st.sampled_from([0.3, 0.5]))
def test_many_random_subgraphs(graph: Graph, seed: int, ratio: float) -> None:
    prove_subgraphs(graph, seed, ratio)


def prove_subgraphs(graph: Graph, seed: int, ratio: float) -> None:
    hidden = [node for node in graph.layers if node.name.startswith("hidden")]
    alive = {layer for group in pg.analyze(graph).groups for layer in group.layers}
    assert any(node.name in alive for node in hidden)
    try:
        pruned, _ = prove(graph, seed, ratio)
    except ModelError:
        # ONNX Runtime runs a Scan only if it can tell the shapes in its subgraph: then not even the original runs.
        with pytest.raises(ModelError):
            outputs(graph)
        reject()
    for node in hidden:
        if node.name in alive:
            assert pruned.node(node.name).channels.outputs == 6 - int(6 * ratio)


@settings(SLOW, max_examples=20)
@given(draw_control())
def test_nothing_removed_is_the_identity(graph: Graph) -> None:
    pruned = pg.apply(graph, make_plan(pg.analyze(graph), {}))
    assert pruned.model.SerializeToString(
        deterministic=True
    ) == graph.model.SerializeToString(deterministic=True)

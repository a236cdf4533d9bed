"""Subgraphs whose values, names and weights belong to several places."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

import prunegraph as pg
from prunegraph.coupling.explain import explain
from prunegraph.errors import ModelError
from prunegraph.graph.records import node_records
from tests.builders import Builder
from tests.coupling.control_graphs import (
    BOOL,
    FLOAT,
    INT64,
    Inner,
    condition,
    head_inputs,
    loop,
)
from tests.coupling.control_networks import branching, finished, recurrent
from tests.oracle import fixed_reasons, outputs, prove


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

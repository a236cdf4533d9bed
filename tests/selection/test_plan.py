"""Plans as data, as files, and what is wrong with wrong ones."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import prunegraph as pg
from prunegraph.errors import PlanError
from prunegraph.selection.plan import Cut, make_plan
from tests.builders import Builder, residual_net
from tests.oracle import outputs, random_plan
from tests.random_graphs import draw_graph


def test_file_round_trip(tmp_path: Path) -> None:
    plan = random_plan(pg.analyze(residual_net()))
    plan.save(tmp_path / "plan.json")
    assert pg.Plan.load(tmp_path / "plan.json") == plan


def test_cuts_say_what_happens_to_every_weight() -> None:
    graph = residual_net()
    coupling = pg.analyze(graph)
    group = next(g for g in coupling.groups if g.layers == ("block1",))
    plan = make_plan(coupling, {group.id: [1, 4]})
    pruned = pg.apply(graph, plan)
    for cut in plan.cuts:
        assert (
            pruned.weights[cut.weight].shape[cut.axis]
            == graph.weights[cut.weight].shape[cut.axis] - 2
        )
    assert {(c.axis, c.removed) for c in plan.cuts} == {(0, (1, 4)), (1, (1, 4))}
    changed = {
        name
        for name in pruned.weights
        if pruned.weights[name].shape != graph.weights[name].shape
    }
    assert {c.weight for c in plan.cuts} == changed


def test_hand_written_plan_without_cuts() -> None:
    graph = residual_net()
    plan = pg.Plan.from_json(
        {
            "format": "prunegraph/plan@1",
            "model": {"sha256": graph.sha256},
            "remove": {"g0": [0, 3]},
        }
    )
    pruned = pg.apply(graph, plan)
    assert pg.verify(graph, plan, pruned).relative < 1e-4
    assert pruned.node("stem").channels.outputs == 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {"sha256": "0" * 64}}, "another model"),
        ({"remove": {"g99": [0]}}, "names group 'g99'.*g0 to g1"),
        ({"remove": {"g0": [8]}}, "channel 8 of group 'g0', which has 8"),
        ({"remove": {"g0": [1, 1]}}, "twice"),
        ({"remove": {"g0": list(range(8))}}, "removes all 8 channels"),
        ({"cuts": [{"weight": "c1", "axis": 0, "removed": [5]}]}, "'cuts' do not follow"),
        ({"format": "other"}, "not a plan"),
        ({"remove": 3}, "not a plan"),
    ],
)
def test_wrong_plans(change: dict[str, object], message: str) -> None:
    graph = residual_net()
    content = {
        "format": "prunegraph/plan@1",
        "model": {"sha256": graph.sha256},
        "remove": {"g0": [0]},
        **change,
    }
    with pytest.raises(PlanError, match=message):
        pg.apply(graph, pg.Plan.from_json(content))


def test_unreadable_plan_files(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="no such plan"):
        pg.Plan.load(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(PlanError, match="not a plan"):
        pg.Plan.load(tmp_path / "bad.json")


def test_a_plan_survives_json() -> None:
    plan = random_plan(pg.analyze(residual_net()))
    assert pg.Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
    assert all(isinstance(cut, Cut) for cut in plan.cuts)


def test_group_ids_are_stable() -> None:
    first, second = (pg.analyze(pg.load(residual_net().model)) for _ in range(2))
    assert [(g.id, g.layers, g.channels) for g in first.groups] == [
        (g.id, g.layers, g.channels) for g in second.groups
    ]


# -- cuts name their readers --------------------------------------------------------------


def shared_bias_net() -> pg.Graph:
    """Three convolutions; the first two read one bias and lose different channels of it."""
    b = Builder()
    bias = b.weight(8)
    x = b.relu(
        b.op("Conv", b.input("n", 3, 8, 8), b.weight(8, 3, 1, 1), bias, name="first")
    )
    x = b.relu(b.op("Conv", x, b.weight(8, 8, 1, 1), bias, name="second"))
    return b.graph(b.op("Conv", x, b.weight(4, 8, 1, 1), name="third"))


def carried_out(graph: pg.Graph, plan: dict[str, object]) -> onnx.ModelProto:
    """A plan carried out by its cuts alone, by the words of docs/plugins.md."""
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    values = {
        tensor.name: onnx.numpy_helper.to_array(tensor)
        for tensor in model.graph.initializer
    }
    nodes = {node.name or node.output[0]: node for node in model.graph.node}
    cut: dict[tuple[str, int], np.ndarray] = {}
    for entry in plan["cuts"]:  # type: ignore[attr-defined]
        key = entry["node"], entry["input"]
        assert nodes[key[0]].input[key[1]] == entry["weight"]
        cut[key] = np.delete(
            cut.get(key, values[entry["weight"]]), entry["removed"], entry["axis"]
        )
    for number, ((node, slot), array) in enumerate(cut.items()):
        nodes[node].input[slot] = f"cut {number}"
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, f"cut {number}"))
    return model


@pytest.mark.parametrize("graph", [residual_net(), shared_bias_net()])
def test_cuts_alone_are_enough_to_carry_out_a_plan(graph: pg.Graph) -> None:
    plan = random_plan(pg.analyze(graph))
    by_hand = pg.load(carried_out(graph, plan.to_json()))
    for mine, theirs in zip(outputs(pg.apply(graph, plan)), outputs(by_hand), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)


def test_a_tensor_that_is_taken_apart_stands_under_each_reader() -> None:
    graph = shared_bias_net()
    bias = graph.node("first").inputs[2]
    plan = make_plan(pg.analyze(graph), {"g0": [0, 1, 2], "g1": [5]})
    assert plan.to_json()["format"] == "prunegraph/plan@2"
    result = {(c.node, c.input): c.removed for c in plan.cuts if c.weight == bias}
    assert result == {("first", 2): (0, 1, 2), ("second", 2): (5,)}


def test_a_plan_of_the_first_form_is_read() -> None:
    graph = shared_bias_net()
    plan = random_plan(pg.analyze(graph))
    content = plan.to_json() | {"format": "prunegraph/plan@1"}
    for cut in content["cuts"]:
        del cut["node"], cut["input"]
    old = pg.Plan.from_json(json.loads(json.dumps(content)))
    pruned = pg.apply(graph, old)
    assert (
        pruned.model.SerializeToString() == pg.apply(graph, plan).model.SerializeToString()
    )
    pg.verify(graph, old, pruned)
    wrong = replace(old.cuts[0], removed=(0,) if old.cuts[0].removed != (0,) else (1,))
    with pytest.raises(PlanError, match="'cuts' do not follow"):
        pg.apply(graph, replace(old, cuts=(wrong, *old.cuts[1:])))


@pytest.mark.parametrize(
    "change",
    [
        {"node": "first"},
        {"input": 2},
        {"node": 3, "input": 2},
        {"node": "first", "input": "2"},
        {"axis": 0.5},
    ],
)
def test_cuts_that_name_their_reader_badly(change: dict[str, object]) -> None:
    entry = {"weight": "w", "axis": 0, "removed": [0], **change}
    content = {
        "format": "prunegraph/plan@2",
        "model": {"sha256": "0"},
        "remove": {},
        "cuts": [entry],
    }
    with pytest.raises(PlanError, match="not a plan"):
        pg.Plan.from_json(content)


def test_a_reader_that_is_not_the_cut_s_is_refused() -> None:
    graph = shared_bias_net()
    plan = random_plan(pg.analyze(graph))
    swapped = tuple(
        replace(c, node={"first": "second", "second": "first"}.get(c.node or "", c.node))
        for c in plan.cuts
    )
    with pytest.raises(PlanError, match="'cuts' do not follow"):
        pg.apply(graph, replace(plan, cuts=swapped))


@settings(
    max_examples=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.large_base_example],
)
@given(draw_graph(), st.integers(0, 2**16))
def test_cuts_are_whole(graph: pg.Graph, seed: int) -> None:
    """Every float weight that a node reads is the original's without what the cuts say; unnamed ones are whole."""
    plan = random_plan(pg.analyze(graph), seed)
    pruned = pg.apply(graph, plan)
    twins = {node.outputs: node for node in pruned.nodes}
    for node in graph.nodes:
        twin = twins.get(node.outputs)
        for slot, value in enumerate(node.inputs if twin is not None else ()):
            if value in graph.weights and graph.weights[value].is_float:
                array = graph.weights[value].read()
                for cut in plan.cuts:
                    if (cut.node, cut.input) == (node.name, slot):
                        assert cut.weight == value
                        array = np.delete(array, cut.removed, cut.axis)
                np.testing.assert_array_equal(
                    pruned.weights[twin.inputs[slot]].read(), array
                )


def masked_by_hand(graph: pg.Graph, plan: pg.Plan) -> pg.Graph:
    """Every reader that a cut names reads a tensor of its own, with zeros where the cut is."""
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    values = {
        tensor.name: onnx.numpy_helper.to_array(tensor)
        for tensor in model.graph.initializer
    }
    nodes = {node.name: node for node in model.graph.node}
    own: dict[tuple[str | None, int | None], np.ndarray] = {}
    for cut in plan.cuts:
        array = own.setdefault((cut.node, cut.input), values[cut.weight].copy())
        np.moveaxis(array, cut.axis, 0)[list(cut.removed)] = 0
    for number, ((node, slot), array) in enumerate(own.items()):
        nodes[str(node)].input[int(slot or 0)] = f"zeroed {number}"
        model.graph.initializer.append(
            onnx.numpy_helper.from_array(array, f"zeroed {number}")
        )
    return pg.load(model)


def test_a_file_with_a_tensor_of_the_name_that_a_copy_would_get(tmp_path: Path) -> None:
    """The copy of a bias for its second reader must not be taken for a tensor that is there, whatever it is called."""
    b = Builder()
    bias = b.weight(16)
    b.tensors.append(
        onnx.numpy_helper.from_array(
            np.random.default_rng(1).random(16).astype(np.float32), f"{bias}/2"
        )
    )
    x = b.relu(b.op("Conv", b.input("n", 3, 8, 8), b.weight(16, 3, 1, 1), bias))
    x = b.relu(b.op("Conv", x, b.weight(16, 16, 1, 1), bias))
    x = b.relu(b.op("Conv", x, b.weight(16, 16, 1, 1), f"{bias}/2"))
    graph = b.graph(b.op("Conv", x, b.weight(5, 16, 1, 1)))
    result = pg.prune(graph, tmp_path / "y.onnx", budget=pg.Budget(ratio=0.5), round_to=1)
    written, expected = (
        outputs(pg.load(tmp_path / "y.onnx")),
        outputs(masked_by_hand(graph, result.plan)),
    )
    np.testing.assert_allclose(written[0], expected[0], atol=1e-5 * abs(expected[0]).max())
    assert result.plan.remove


def test_branches_make_it_a_plan_of_the_third_form() -> None:
    graph = residual_net()
    coupling = pg.analyze(graph)
    [branch] = coupling.branches
    plan = make_plan(coupling, {branch.id: (0,), "g0": [1]})
    content = json.loads(json.dumps(plan.to_json()))
    assert content["format"] == "prunegraph/plan@3"
    assert content["branches"] == [branch.name]
    assert pg.Plan.from_json(content) == plan
    assert "branches" not in make_plan(coupling, {"g0": [1]}).to_json()


@pytest.mark.parametrize(
    ("branches", "match"),
    [
        ("add", "must be a list of names"),
        ([3], "must be a list of names"),
        (["add", "add"], "twice"),
    ],
)
def test_branches_that_are_no_list_of_names(branches: object, match: str) -> None:
    content = {"format": "prunegraph/plan@3", "model": {"sha256": "0"}, "remove": {}}
    with pytest.raises(PlanError, match=match):
        pg.Plan.from_json(content | {"branches": branches})


@pytest.mark.parametrize("name", ["block1", "nobody"])
def test_a_branch_that_is_not_there(name: str) -> None:
    graph = residual_net()
    plan = pg.Plan(graph.sha256, {}, branches=(name,))
    with pytest.raises(PlanError, match=f"removes branch '{name}'; .* 1 branches"):
        pg.apply(graph, plan)
    with pytest.raises(PlanError, match=f"removes branch '{name}'"):
        make_plan(pg.analyze(graph), {f"branch:{name}": (0,)})

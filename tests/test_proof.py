"""The proof notices what is wrong, and is not fooled by outputs that say nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import pytest

import prunegraph as pg
from prunegraph.errors import ExactnessError, ModelError
from prunegraph.graph.onnx_io import from_model
from prunegraph.ops import rule as rules
from prunegraph.ops.pattern import by_pattern
from tests.builders import Builder, residual_net
from tests.oracle import prove, random_plan


def spoiled(graph: pg.Graph, change: Callable[[onnx.ModelProto], None]) -> pg.Graph:
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    change(model)
    return from_model(model)


def test_a_wrong_weight_fails_and_is_located() -> None:
    graph = residual_net()
    plan = random_plan(pg.analyze(graph))
    small = pg.apply(graph, plan)

    def change(model: onnx.ModelProto) -> None:
        name = next(n.input[1] for n in model.graph.node if n.name == "block1")
        for tensor in model.graph.initializer:
            if tensor.name == name:
                values = onnx.numpy_helper.to_array(tensor).copy()
                values[0] *= 1.5
                tensor.raw_data = values.tobytes()

    with pytest.raises(ExactnessError, match="first node that differs is 'block1'"):
        pg.verify(graph, plan, spoiled(small, change))


def test_the_original_is_not_its_own_pruning() -> None:
    graph = residual_net()
    plan = random_plan(pg.analyze(graph))
    with pytest.raises(ExactnessError):
        pg.verify(graph, plan, graph)


def test_outputs_that_do_not_react_are_not_a_proof() -> None:
    b = Builder()
    x = b.conv(b.input("n", 3, 8, 8), 3, 8, name="a")
    y = b.conv(b.relu(x), 8, 8, name="b")
    score = b.op("ReduceMax", y, axes=[1, 2, 3], keepdims=0)
    graph = b.graph(b.op("Cast", b.op("Greater", score, b.const(1e6, np.float32)), to=1))
    plan = random_plan(pg.analyze(graph))
    small = pg.apply(graph, plan)
    proof = pg.verify(graph, plan, small)
    assert "1 of 1 outputs are empty, saturated or do not react" in str(proof)
    assert "b.out" in [d.name for d in proof.differences]

    def change(model: onnx.ModelProto) -> None:
        model.graph.initializer[0].raw_data = bytes(len(model.graph.initializer[0].raw_data))

    with pytest.raises(ExactnessError):
        pg.verify(graph, plan, spoiled(small, change))


def test_a_model_that_takes_batch_one_only() -> None:
    b = Builder()
    x = b.conv(b.input("n", 3, 8, 8), 3, 8, name="a")
    y = b.op("Reshape", b.op("GlobalAveragePool", b.relu(x)), b.const([1, 8], np.int64))
    graph = b.graph(b.linear(y, 8, 3))
    _, proof = prove(graph)
    assert "batch 1" in str(proof)


def test_user_data_is_compared_too() -> None:
    graph = residual_net()
    plan = random_plan(pg.analyze(graph))
    small = pg.apply(graph, plan)
    proof = pg.verify(graph, plan, small, data=[{"x": np.ones((3, 3, 8, 8), np.float32)}])
    assert proof.runs == 4


# -- sabotage: a broken engine must not pass ----------------------------------------------


def two_graphs() -> list[pg.Graph]:
    b = Builder()
    x = b.relu(b.conv(b.input("n", 3, 8, 8), 3, 12, name="a"))
    y = b.op("Concat", x, b.conv(x, 12, 4, group=4, name="grouped"), axis=1)
    split = b.const([6, 10], np.int64)
    b.op("Split", y, split, outputs=2, axis=1)
    parts = list(b.nodes[-1].output)
    z = b.op("Concat", b.relu(parts[1]), parts[0], axis=1)
    z = b.op("Reshape", b.op("Reshape", z, b.const([0, 16, 64], np.int64)), b.const([0, 16, 8, 8], np.int64))
    return [residual_net(), b.graph(b.head(b.conv(z, 16, 8), 8))]


def fails(graphs: list[pg.Graph]) -> bool:
    """Whether pruning some of the graphs does not get through."""
    for graph in graphs:
        try:
            prove(pg.load(graph.model))
        except (ExactnessError, ModelError, AssertionError, IndexError, ValueError):
            return True
    return False


def test_sound_rules_pass() -> None:
    assert not fails(two_graphs())


LOST_TIES = {
    "Conv": "n (g i) *s, (g o) j *k, (g p)? -> n (g o) *s'",
    "BatchNormalization": "n c ..., d, d, e, e -> n c ...",
}


@pytest.mark.parametrize("op", LOST_TIES)
def test_dropping_one_tie_of_a_pattern_fails(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = rules._RULES["", op][0]
    attributes = {"group": "g"} if op == "Conv" else {}
    careless = replace(entry, spread=by_pattern(LOST_TIES[op], layer=op == "Conv", attributes=attributes))
    monkeypatch.setitem(rules._RULES, ("", op), [careless])
    assert fails(two_graphs())


@pytest.mark.parametrize("op", ["Split", "Reshape"])
def test_skipping_one_repair_fails(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = rules._RULES["", op]
    monkeypatch.setitem(rules._RULES, ("", op), [replace(entry, repair=None) for entry in entries])
    assert fails(two_graphs())


def test_a_wrong_rule_costs_its_groups_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule that calls channels equal to their mirror image: the groups it touches stay whole, the rest is proved."""

    def mirrored(site: rules.Site) -> None:
        n, c, *space = site.labels(0)
        site.give([n, c.take(slice(None, None, -1)), *space])

    monkeypatch.setitem(rules._RULES, ("", "Elu"), [rules.Rule(mirrored)])
    b = Builder()
    x = b.relu(b.conv(b.input("n", 3, 8, 8), 3, 8, name="good"))
    x = b.op("Elu", b.conv(x, 8, 8, name="touched"))
    x = b.relu(b.conv(x, 8, 8, name="fine"))
    result = pg.prune(b.graph(b.head(x, 8)), budget=pg.Budget(ratio=0.5), round_to=1)
    groups = {group.id: group.layers for group in result.coupling.groups}
    assert [groups[g] for g in result.left_out] == [("touched",)]
    assert result.proof is not None
    widths = [result.small.node(name).channels.outputs for name in ("good", "touched", "fine")]
    assert widths == [4, 8, 4]


def test_dropping_the_tie_of_a_rule_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Add no longer ties its operands: the residual branch may be cut apart."""

    def careless(site: rules.Site) -> None:
        site.labels(1)
        site.give(site.labels(0))

    monkeypatch.setitem(rules._RULES, ("", "Add"), [rules.Rule(careless)])
    assert fails([residual_net()])

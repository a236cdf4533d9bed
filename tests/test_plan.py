"""Plans as data, as files, and what is wrong with wrong ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import prunegraph as pg
from prunegraph.errors import PlanError
from prunegraph.selection.plan import Cut, make_plan
from tests.builders import residual_net
from tests.oracle import random_plan


def test_file_round_trip(tmp_path: Path) -> None:
    plan = random_plan(pg.analyze(residual_net()))
    plan.save(tmp_path / "plan.json")
    assert pg.Plan.load(tmp_path / "plan.json") == plan


def test_cuts_say_what_happens_to_every_weight() -> None:
    graph = residual_net()
    found = pg.analyze(graph)
    group = next(g for g in found.groups if g.layers == ("block1",))
    plan = make_plan(found, {group.id: [1, 4]})
    small = pg.apply(graph, plan)
    for cut in plan.cuts:
        assert small.weights[cut.weight].shape[cut.axis] == graph.weights[cut.weight].shape[cut.axis] - 2
    assert {(c.axis, c.removed) for c in plan.cuts} == {(0, (1, 4)), (1, (1, 4))}
    changed = {name for name in small.weights if small.weights[name].shape != graph.weights[name].shape}
    assert {c.weight for c in plan.cuts} == changed


def test_hand_written_plan_without_cuts() -> None:
    graph = residual_net()
    plan = pg.Plan.from_json(
        {"format": "prunegraph/plan@1", "model": {"sha256": graph.sha256}, "remove": {"g0": [0, 3]}}
    )
    small = pg.apply(graph, plan)
    assert pg.verify(graph, plan, small).relative < 1e-4
    assert small.node("stem").channels.outputs == 6


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
    content = {"format": "prunegraph/plan@1", "model": {"sha256": graph.sha256}, "remove": {"g0": [0]}, **change}
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
    assert [(g.id, g.layers, g.channels) for g in first.groups] == [(g.id, g.layers, g.channels) for g in second.groups]

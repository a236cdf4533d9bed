"""All layers alike: each chooses its own channels, as many as the others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import prunegraph as pg
from fixtures.light_models import load
from prunegraph.coupling.coupling import Coupling
from prunegraph.errors import BudgetError
from prunegraph.graph.model import Graph
from prunegraph.selection.plan import Plan
from prunegraph.selection.structure import alike
from prunegraph.selection.units import Step, Unit, join
from tests.commands import cli
from tests.coupling.test_decoders import decoder
from tests.paths import FIXTURES

ALLOCATIONS = ("uniform", "global", "global:per=macs", "isomorphic")


def zoo(name: str) -> Graph:
    return pg.load(load(FIXTURES / f"zoo_transformers/hf__{name}.light.xz"))


def widths(coupling: Coupling, plan: Plan) -> list[set[float]]:
    """By groups that are alike, the shares of them that are left."""
    sizes = {group.id: group.channels for group in coupling.groups}
    return [
        {1 - len(plan.remove.get(group, ())) / sizes[group] for group in groups}
        for groups in alike(coupling)
    ]


@pytest.mark.parametrize("allocation", ALLOCATIONS)
@pytest.mark.parametrize("unit", ["heads", "head_dim"])
def test_layers_stay_alike(allocation, unit):
    graph = zoo("llama_gqa__dynamo")
    coupling = pg.analyze(graph, attention=unit)
    several = 0
    for macs in (0.9, 0.7, 0.5):
        plan = pg.select(
            graph,
            coupling,
            budget=pg.Budget(macs=macs),
            allocation=allocation,
            round_to=1,
            same_width=True,
        )
        assert all(len(each) == 1 for each in widths(coupling, plan))
        several += sum(len(groups) > 1 for groups in alike(coupling))
        pg.verify(graph, plan, pg.apply(graph, plan))
    assert several


def test_without_it_they_do_not():
    graph = zoo("llama_gqa__dynamo")
    coupling = pg.analyze(graph)
    plan = pg.select(
        graph, coupling, budget=pg.Budget(macs=0.7), allocation="global", round_to=1
    )
    assert any(len(each) > 1 for each in widths(coupling, plan))
    assert "same_width" not in plan.provenance


def test_each_layer_chooses_its_own_channels():
    graph = zoo("llama_gqa__dynamo")
    plan = pg.select(graph, budget=pg.Budget(ratio=0.5), round_to=1, same_width=True)
    mlps = [channels for channels in plan.remove.values() if len(channels) == 32]
    assert len(mlps) == 2 and mlps[0] != mlps[1]


@pytest.mark.parametrize(
    "name", ["llama_kv__ts", "qwen3__dynamo", "gemma3__ts", "gpt2__ts", "bert__ts"]
)
@pytest.mark.parametrize("blocks", ["alike", "own"])
def test_head_sizes_of_queries_and_values_are_one(name, blocks):
    """A head of keys is as wide as one of values in every layer: files and caches know one size."""
    graph = zoo(name)
    cache = (*graph.inputs[1:], *graph.outputs[1:]) if "kv" in name else ()
    coupling = pg.analyze(graph, attention="head_dim", allow_io=cache, blocks=blocks)
    # Two layers, each with keys and with values; rotary tables that layers share make the keys one group.
    assert max(len(groups) for groups in alike(coupling)) in (3, 4)
    plan = pg.select(
        graph,
        coupling,
        budget=pg.Budget(macs=0.6),
        allocation="global",
        round_to=1,
        same_width=True,
    )
    small = pg.apply(graph, plan)
    pg.verify(graph, plan, small)
    assert plan.remove and all(len(each) == 1 for each in widths(coupling, plan))


@settings(max_examples=25, deadline=None)
@given(
    keys=st.integers(1, 3),
    repeats=st.integers(1, 2),
    layers=st.integers(1, 3),
    macs=st.floats(0.5, 0.95),
    round_to=st.sampled_from([1, 2, 4]),
    allocation=st.sampled_from(ALLOCATIONS),
)
def test_random_decoders(keys, repeats, layers, macs, round_to, allocation):
    graph = decoder(keys, repeats, layers)
    coupling = pg.analyze(graph)
    try:
        plan = pg.select(
            graph,
            coupling,
            budget=pg.Budget(macs=macs),
            round_to=round_to,
            allocation=allocation,
            same_width=True,
        )
    except BudgetError:
        return
    assert all(len(each) == 1 for each in widths(coupling, plan))


def test_units_meet_where_their_shares_do():
    def unit(name: str, channels: int, size: int) -> Unit:
        scores = np.arange(channels, dtype=float)
        steps = [
            Step(
                name,
                {name: tuple(range(at, at + size))},
                (at + size) / channels,
                {name: scores},
            )
            for at in range(0, channels - size, size)
        ]
        return Unit(name, (name,), channels, tuple(steps))

    joined = join([unit("a", 12, 1), unit("b", 6, 1), unit("c", 9, 1)])
    assert [step.share for step in joined.steps] == [1 / 3, 2 / 3]
    assert [{g: len(c) for g, c in step.gone.items()} for step in joined.steps] == [
        {"a": 4, "b": 2, "c": 3}
    ] * 2
    assert joined.channels == 27 and joined.groups == ("a", "b", "c")
    assert [c for step in joined.steps for c in step.gone["a"]] == list(range(8))


def test_a_kept_layer_keeps_those_like_it():
    graph = zoo("llama_gqa__dynamo")
    coupling = pg.analyze(graph)
    mlp = next(group for group in coupling.groups if group.channels == 64)
    plan = pg.select(
        graph,
        coupling,
        budget=pg.Budget(ratio=0.5),
        round_to=1,
        same_width=True,
        keep=[mlp.layers[0]],
    )
    assert plan.remove and all(len(channels) != 32 for channels in plan.remove.values())


def test_a_selector_chooses_widths_itself():
    with pytest.raises(BudgetError, match="same-width"):
        pg.select(
            zoo("llama_gqa__dynamo"),
            budget=pg.Budget(macs=0.5),
            algorithm="exec:true",
            same_width=True,
        )


def test_the_command(tmp_path: Path):
    pg.save(zoo("llama_gqa__dynamo"), tmp_path / "model.onnx")
    words = "prune model.onnx -o small.onnx --macs 0.7 --allocation global --round-to 1 --same-width --save-plan p.json"
    done = cli(*words.split(), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    plan = pg.Plan.load(tmp_path / "p.json")
    assert plan.provenance["same_width"] is True
    coupling = pg.analyze(pg.load(tmp_path / "model.onnx"))
    assert all(len(each) == 1 for each in widths(coupling, plan))

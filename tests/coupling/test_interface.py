"""Inputs and outputs that may change: the heads of a key/value cache are pruned on both sides of the file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import prunegraph as pg
from fixtures.light_models import load
from prunegraph.errors import DataError, ExactnessError, PlanError, UnknownNameError
from prunegraph.graph.model import Graph
from prunegraph.measuring.latency import Stopwatch
from prunegraph.runtime.data import random_inputs
from prunegraph.runtime.session import run, session
from prunegraph.selection.plan import make_plan
from tests.builders import Builder
from tests.commands import cli
from tests.oracle import random_plan
from tests.paths import ROOT

STREAM = 12
CACHE = ("past*", "present*")


def cached(heads: int, repeats: int, dim: int, past: int | str = "past", layers: int = 2):
    """Layers of grouped-query attention, each with a cache of keys and values that goes in and comes out."""
    b = Builder(opset=18)
    ids = b.input("batch", "length", name="ids", kind=onnx.TensorProto.INT64)
    x = b.op("Gather", b.weight(16, STREAM), ids)
    presents = []
    for layer in range(layers):
        q = _heads(b, x, heads * repeats, dim)
        k, v = (
            _grown(b, _heads(b, x, heads, dim), f"past_{kind}_{layer}", heads, dim, past)
            for kind in "kv"
        )
        presents += [k, v]
        if repeats > 1:
            index = b.const(np.repeat(np.arange(heads), repeats))
            k, v = (b.op("Gather", each, index, axis=1) for each in (k, v))
        scores = b.op("MatMul", q, b.op("Transpose", k, perm=[0, 1, 3, 2]))
        mixed = b.op("MatMul", b.op("Softmax", scores, axis=-1), v)
        merged = b.op(
            "Reshape",
            b.op("Transpose", mixed, perm=[0, 2, 1, 3]),
            b.const([0, 0, heads * repeats * dim]),
        )
        x = b.op("Add", x, b.op("MatMul", merged, b.weight(heads * repeats * dim, STREAM)))
    logits = b.op("MatMul", x, b.weight(STREAM, 16))
    names = [f"present_{kind}_{layer}" for layer in range(layers) for kind in "kv"]
    for present, name in zip(presents, names, strict=True):
        b.nodes.append(onnx.helper.make_node("Identity", [present], [name], name=name))
    return pg.load(b.model(logits, *names))


def _heads(b: Builder, x: str, heads: int, dim: int) -> str:
    y = b.op("MatMul", x, b.weight(STREAM, heads * dim))
    return b.op(
        "Transpose", b.op("Reshape", y, b.const([0, 0, heads, dim])), perm=[0, 2, 1, 3]
    )


def _grown(b: Builder, new: str, name: str, heads: int, dim: int, past: int | str) -> str:
    return b.op("Concat", b.input("batch", heads, past, dim, name=name), new, axis=2)


def sizes(graph: Graph, name: str) -> list[int]:
    entries = (*graph.model.graph.input, *graph.model.graph.output)
    [entry] = [entry for entry in entries if entry.name == name]
    return [dim.dim_value for dim in entry.type.tensor_type.shape.dim]


@settings(max_examples=15, deadline=None)
@given(
    heads=st.integers(1, 4),
    repeats=st.integers(1, 3),
    dim=st.integers(1, 5),
    past=st.sampled_from(["past", 3, 4]),
    unit=st.sampled_from([None, "heads", "head_dim"]),
    seed=st.integers(0, 99),
)
def test_a_cache_is_pruned_with_its_heads(heads, repeats, dim, past, unit, seed):
    graph = cached(heads, repeats, dim, past)
    plan = random_plan(pg.analyze(graph, attention=unit, allow_io=CACHE), seed)
    pruned = pg.apply(graph, plan)
    pg.verify(graph, plan, pruned)
    for cut in plan.interface:
        if cut.name in graph.inputs:
            assert sizes(pruned, cut.name)[cut.axis] == len(cut.kept)


@pytest.mark.parametrize("how", ["dynamo", "ts"])
@pytest.mark.parametrize("unit", ["heads", "head_dim"])
def test_an_exported_llama(how, unit):
    graph = pg.load(load(ROOT / f"fixtures/zoo_transformers/hf__llama_kv__{how}.light.xz"))
    names = (*graph.inputs[1:], *graph.outputs[1:])
    coupling = pg.analyze(graph, attention=unit, allow_io=names)
    plan = random_plan(coupling, 1)
    pruned = pg.apply(graph, plan)
    pg.verify(graph, plan, pruned)
    axis = {"heads": 1, "head_dim": 3}[unit]
    for name in names:
        assert sizes(pruned, name)[axis] == sizes(graph, name)[axis] // 2


def test_by_default_inputs_and_outputs_stay():
    graph = cached(4, 1, 4)
    plan = random_plan(pg.analyze(graph))
    assert plan.interface == () and plan.to_json()["format"] == "prunegraph/plan@2"
    pruned = pg.apply(graph, plan)
    for name in (*graph.inputs, *graph.outputs):
        assert sizes(pruned, name) == sizes(graph, name)


def test_the_outputs_alone_do_not_free_a_cache():
    coupling = pg.analyze(cached(4, 1, 4), allow_io=["present*"])
    assert coupling.groups == () or all(
        not plan_touches(coupling, name) for name in coupling.graph.inputs
    )


def plan_touches(coupling, name: str) -> bool:
    return any(cut.name == name for cut in random_plan(coupling).interface)


def test_the_sliced_cache_gives_the_sliced_outputs():
    """Held against slices of the original's, with no help of the proof: heads that stay make what they made."""
    graph = cached(4, 1, 3, layers=1)
    coupling = pg.analyze(graph, attention="heads", allow_io=CACHE)
    [heads] = [group for group in coupling.groups if group.channels == 4]
    plan = make_plan(coupling, {heads.id: [0, 2]})
    [kept] = {cut.kept for cut in plan.interface}
    feed = random_inputs(graph, seed=5)
    small = {
        name: np.take(array, kept, 1) if name.startswith("past") else array
        for name, array in feed.items()
    }
    before = dict(zip(graph.outputs, run(session(graph), feed), strict=True))
    pruned = pg.apply(graph, plan)
    after = dict(zip(pruned.outputs, run(session(pruned), small), strict=True))
    for name in ("present_k_0", "present_v_0"):
        np.testing.assert_allclose(
            after[name], np.take(before[name], kept, 1), rtol=0, atol=1e-5
        )


def test_another_choice_of_heads_fails_the_proof():
    graph = cached(4, 1, 3)
    coupling = pg.analyze(graph, attention="heads", allow_io=CACHE)
    plans = [random_plan(coupling, seed) for seed in (0, 1)]
    assert plans[0].remove != plans[1].remove
    with pytest.raises(ExactnessError):
        pg.verify(graph, plans[0], pg.apply(graph, plans[1]))


def test_plans_say_what_is_left_of_inputs_and_outputs(tmp_path):
    graph = cached(2, 1, 4)
    plan = random_plan(pg.analyze(graph, allow_io=CACHE))
    plan.save(tmp_path / "plan.json")
    content = json.loads((tmp_path / "plan.json").read_text())
    assert content["format"] == "prunegraph/plan@3"
    assert {each["name"] for each in content["interface"]} == {
        name for name in (*graph.inputs, *graph.outputs) if "_" in name
    }
    loaded = pg.Plan.load(tmp_path / "plan.json")
    assert loaded == plan
    pg.verify(graph, loaded, pg.apply(graph, loaded))
    content["interface"][0]["kept"] = [0]
    with pytest.raises(PlanError, match="interface"):
        pg.apply(graph, pg.Plan.from_json(content))
    content["interface"] = [{"name": "past_k_0", "axis": "1", "kept": [0]}]
    with pytest.raises(PlanError, match="whole number"):
        pg.Plan.from_json(content)
    with pytest.raises(PlanError, match="past_k_0"):
        pg.apply(cached(2, 1, 4, layers=1), plan)


def test_a_name_that_is_no_input_or_output():
    with pytest.raises(UnknownNameError, match="paste"):
        pg.analyze(cached(2, 1, 4), allow_io=["paste*"])


def test_data_are_given_as_the_original_takes_them(tmp_path):
    """They are sliced where the pruned graph reads them: to refit it, to quantize it, to see it run, to time it."""
    graph = cached(4, 2, 4)
    rng = np.random.default_rng(0)
    data = {
        "ids": rng.integers(0, 16, (32, 5)),
        **{
            name: rng.standard_normal((32, 4, 3, 4)).astype(np.float32)
            for name in graph.inputs[1:]
        },
    }
    path = tmp_path / "pruned.onnx"
    result = pg.prune(
        graph,
        path,
        allow_io=CACHE,
        attention="heads",
        data=data,
        budget=pg.Budget(ratio=0.5),
        round_to=1,
        quantize="int8",
    )
    assert result.repair == "least-squares"
    assert sizes(pg.load(path), "past_k_0")[1] == 2
    sample = {name: array[:2] for name, array in data.items()}
    taken = result.model.intake.read(sample)
    assert taken["past_k_0"].shape == (2, 2, 3, 4)
    run(session(path), taken)
    with pytest.raises(DataError, match="past_k_0"):
        result.model.intake.read(taken)


def test_each_model_is_timed_on_its_own_inputs():
    graph = cached(4, 1, 8, past=3)
    plan = random_plan(pg.analyze(graph, attention="heads", allow_io=CACHE))
    latency = Stopwatch(graph).against(pg.apply(graph, plan))
    assert latency.second > 0


def test_the_command(tmp_path: Path):
    pg.save(cached(4, 1, 4), tmp_path / "model.onnx")
    words = (
        "prune model.onnx -o pruned.onnx --ratio 0.5 --round-to 1 --attention heads "
        "--allow-io past* --allow-io present* --save-plan plan.json"
    )
    done = cli(*words.split(), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "past_k_0 axis 1 keeps 2" in " ".join(done.stderr.split())
    pg.verify(
        pg.load(tmp_path / "model.onnx"),
        pg.Plan.load(tmp_path / "plan.json"),
        pg.load(tmp_path / "pruned.onnx"),
    )

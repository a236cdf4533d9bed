"""Rotation in a run: the plan carries it, `apply` repeats it, `verify` proves it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import prunegraph as pg
from prunegraph import api
from prunegraph.errors import ExactnessError, OptionError, PlanError
from prunegraph.graph.model import Graph
from prunegraph.pipeline import PruneResult
from prunegraph.rotation import rotate as rotating
from prunegraph.rotation.spaces import WeightPart
from prunegraph.selection.plan import Plan
from tests.rotation.networks import attention, outputs, random_inputs, stream, tokens

STEPS = ["normalised layer", "constant", "block", "pooling"]


def pruned(graph: Graph, ratio: float = 0.5, **options: object) -> PruneResult:
    return pg.prune(
        graph,
        data=random_inputs(graph, 0, 32),
        budget=pg.Budget(ratio=ratio),
        round_to=1,
        **options,
    )


def error(graph: Graph, result: PruneResult) -> float:
    """Error of the outputs on other inputs, relative to their spread."""
    inputs = random_inputs(graph, 9, 32)
    expected, found = outputs(graph, inputs), outputs(result.model, inputs)
    return float(
        np.linalg.norm(expected - found) / np.linalg.norm(expected - expected.mean(0))
    )


@pytest.mark.parametrize(
    "graph",
    [stream(6, STEPS, 2, 0), tokens(8, 2, "mean", 1)],
    ids=["convolutions", "tokens"],
)
def test_a_plan_carries_its_rotation_and_is_repeated_and_proved(
    graph: Graph, tmp_path: Path
) -> None:
    result = pruned(graph, rotate="always")
    assert result.rotated is not None and result.rotated.proof is not None
    assert result.rotated.rotation.turns and result.plan.rotation is not None
    path = tmp_path / "plan.json"
    result.plan.save(path)
    assert '"prunegraph/plan@3"' in path.read_text()
    plan = Plan.load(path)
    again = api.apply_plan(graph, plan, data=random_inputs(graph, 0, 32))
    assert again.model.model.SerializeToString() == result.model.model.SerializeToString()
    assert again.rotated is not None and again.plan.rotation is not None
    cut = api.apply(graph, plan)
    assert api.verify(graph, plan, cut).relative < 1e-4


def test_without_rotation_plans_are_as_before() -> None:
    graph = stream(6, STEPS, 2, 0)
    for result in (
        pruned(graph, rotate="never"),
        pg.prune(graph, budget=pg.Budget(ratio=0.5), round_to=1),
        pruned(graph, algorithm="l2"),
    ):
        assert result.rotated is None
        assert result.plan.to_json()["format"] == "prunegraph/plan@2"
        assert "rotation" not in result.plan.to_json()


def test_a_plan_with_a_rotation_is_for_its_model_alone() -> None:
    result = pruned(stream(6, STEPS, 2, 0))
    with pytest.raises(PlanError, match="for another model"):
        api.apply(stream(6, STEPS, 2, 1), result.plan)


def test_a_wrong_rotation_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = stream(6, STEPS, 2, 0)
    plan = pruned(graph).plan
    right = rotating._mixed
    cut = api.apply(graph, plan)

    def wrong(values: np.ndarray, part: WeightPart, matrix: np.ndarray) -> np.ndarray:
        return right(values, part, matrix.T if part.reads else matrix)

    monkeypatch.setattr(rotating, "_mixed", wrong)
    with pytest.raises(ExactnessError, match="rotated: "):
        api.verify(graph, plan, cut)
    with pytest.raises(ExactnessError, match="rotated: "):
        pruned(graph, rotate="always")
    # Unasked, the run goes on without.
    assert pruned(graph).rotated is None


def test_streams_lose_less_when_they_are_rotated() -> None:
    errors = [
        [
            error(graph, pruned(graph, ratio=0, ratio_for={"maker": 0.5}, rotate=when))
            for when in ("auto", "never")
        ]
        for graph in (stream(6, ["block", "block"], 3, seed) for seed in range(5))
    ]
    turned, plain = np.mean(errors, axis=0)
    assert turned < plain


def test_streams_between_rms_normalisations_lose_less_when_they_are_rotated() -> None:
    errors = [
        [error(graph, pruned(graph, 0.25, rotate=when)) for when in ("always", "never")]
        for graph in (tokens(12, 2, "mean", seed) for seed in range(4))
    ]
    turned, plain = np.mean(errors, axis=0)
    assert turned < plain


def test_scales_are_folded_for_a_stream_where_that_is_asked_for() -> None:
    assert pruned(tokens(8, 2, "mean", 1), 0.25).rotated is None


@pytest.mark.parametrize("seed", range(3))
def test_heads_lose_less_when_they_are_rotated(seed: int) -> None:
    graph = attention(4, 1, 8, packed=False, bias=True, seed=seed)
    turned, plain = (
        error(graph, pruned(graph, rotate=when, attention="head_dim", repair="none"))
        for when in ("auto", "never")
    )
    assert turned < plain


def test_what_cannot_be_rotated_is_told() -> None:
    graph = stream(6, STEPS, 2, 0)
    with pytest.raises(OptionError, match="rotate must be never, auto or always"):
        pruned(graph, rotate="sometimes")


def test_outputs_that_show_nothing_are_proved_by_values_that_are_the_same() -> None:
    """Behind a sigmoid that is saturated inner values are compared: those that are rotated differ on purpose."""
    graph = stream(6, ["layer", "block"], 2, 0)
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    output = model.graph.output[0].name
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32([1e6]), "far"))
    model.graph.node.append(onnx.helper.make_node("Abs", [output], ["abs"]))
    model.graph.node.append(onnx.helper.make_node("Add", ["abs", "far"], ["added"]))
    model.graph.node.append(onnx.helper.make_node("Sigmoid", ["added"], ["flat"]))
    model.graph.output[0].name = "flat"
    result = pruned(pg.load(model), rotate="always")
    assert result.rotated is not None and result.rotated.proof is not None
    names = [each.name for each in result.rotated.proof.differences]
    assert names != ["flat"] and result.rotated.proof.relative < 1e-4


def test_a_search_rotates_as_prune_does(tmp_path: Path) -> None:
    """The plan of a search carries the bases, is for the model as it was given, and is repeated and proved."""
    graph = stream(6, STEPS, 2, 0)
    file = tmp_path / "searched.onnx"
    options = {
        "data": random_inputs(graph, 0, 32),
        "tolerance": 0.5,
        "metric": "error",
        "jobs": 1,
        "round_to": 1,
        "repair": "none",
    }
    done = pg.search(graph, file, **options)
    plan = done.result.plan
    assert done.result.rotated is not None and plan.rotation is not None
    assert done.result.before == pruned(graph, rotate="never").before
    again = api.apply_plan(graph, plan, data=random_inputs(graph, 0, 32), repair="none")
    assert again.model.model.SerializeToString() == done.model.model.SerializeToString()
    assert api.verify(graph, plan, pg.load(file)).relative < 1e-4
    assert done.trace.to_json(graph.source)["model"]["sha256"] == graph.sha256
    never = pg.search(graph, rotate="never", **{**options, "repair": "least-squares"})
    assert never.result.rotated is None

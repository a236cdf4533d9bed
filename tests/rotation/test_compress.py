"""Rotation in `compress` and `sensitivity`."""

from __future__ import annotations

import pytest

import prunegraph as pg
from prunegraph import api
from prunegraph.errors import OptionError
from prunegraph.graph.model import Graph
from prunegraph.hybrid import mixes
from prunegraph.hybrid.compress import CompressResult
from prunegraph.measuring.deviation import deviation
from prunegraph.runtime.data import Data
from tests.rotation.networks import random_inputs, stream

STEPS = ["normalised layer", "constant", "block", "pooling"]


@pytest.fixture(scope="module")
def graph() -> Graph:
    return stream(6, STEPS, 2, 0)


def compressed(graph: Graph, method: str = "prune", **options: object) -> CompressResult:
    return pg.compress(
        graph,
        method=method,
        macs=0.6,
        round_to=1,
        data=random_inputs(graph, 0, 32),
        **options,
    )


def test_channels_go_in_other_bases_and_the_plan_repeats_and_proves_that(
    graph: Graph,
) -> None:
    result = compressed(graph)
    assert result.rotated is not None and result.rotated.proof is not None
    assert result.rotated.original is graph
    assert result.original is result.rotated.model
    assert result.plan.rotation is not None
    assert [layer.name for layer in result.layers] == [n.name for n in graph.layers]
    assert result.after.macs <= 0.6 * result.before.macs
    cut = api.apply(graph, result.plan)
    assert api.verify(graph, result.plan, cut).relative < 1e-4
    assert result.to_json()["rotated"] == len(result.plan.rotation.turns) > 0


def test_other_bases_leave_less_error(graph: Graph) -> None:
    others = Data.of(random_inputs(graph, 9, 32))
    errors = {
        when: deviation(graph, compressed(graph, rotate=when, repair="none").model, others)
        for when in ("never", "auto")
    }
    assert errors["auto"] < 0.9 * errors["never"]


@pytest.mark.parametrize("chosen", [0, 4])
def test_by_rank_alone_layers_stay_in_their_bases(
    graph: Graph, chosen: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mixes, "best", lambda tried: tried[chosen])
    result = compressed(graph, "hybrid")
    assert result.chosen is not None and result.chosen.pruned == chosen / 4
    assert (result.rotated is not None) == bool(chosen)
    assert (result.plan.rotation is not None) == bool(chosen)
    if not chosen:
        assert result.original is graph
        alone = compressed(graph, "decompose")
        assert alone.rotated is None
        assert alone.model.sha256 == result.model.sha256


def test_when_there_is_no_other_basis(graph: Graph) -> None:
    for result in (
        compressed(graph, rotate="never"),
        compressed(graph, algorithm="l2"),
        pg.compress(graph, method="prune", macs=0.6, round_to=1),
    ):
        assert result.rotated is None
        assert result.plan.rotation is None
        assert result.original is graph
    asked = pg.compress(graph, method="prune", macs=0.6, round_to=1, rotate="always")
    assert asked.rotated is not None
    with pytest.raises(OptionError, match="rotate must be never, auto or always"):
        compressed(graph, rotate="maybe")
    for method in ("decompose", "source-004"):
        with pytest.raises(OptionError, match=f"method '{method}' takes layers as they"):
            pg.compress(graph, method=method, macs=0.6, rotate="always")


def test_sensitivity_measures_what_prune_would_cut(graph: Graph) -> None:
    data = random_inputs(graph, 0, 32)
    results = {
        when: pg.sensitivity(graph, data=data, ratios=[0.5], rotate=when, jobs=1)
        for when in ("never", "auto")
    }
    assert results["never"].rotated == 0 < results["auto"].rotated
    assert {each.sha256 for each in results.values()} == {graph.sha256}
    errors = {
        when: sum(point.error for curve in each.curves for point in curve.points)
        for when, each in results.items()
    }
    assert errors["auto"] < 0.9 * errors["never"]
    seen = []
    pg.sensitivity(graph, data=data, ratios=[0.5], jobs=1, watch=seen.append)
    assert {each.sha256 for each in seen} == {graph.sha256}
    assert {each.rotated for each in seen} == {results["auto"].rotated}
    with pytest.raises(OptionError, match="rotate must be"):
        pg.sensitivity(graph, data=data, rotate="maybe")

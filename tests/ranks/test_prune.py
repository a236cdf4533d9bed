"""Layers of low rank beside channels: chosen, written, proved, and carried by plans."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import prunegraph as pg
from prunegraph.api import apply_plan
from prunegraph.coupling.survivors import Survivors
from prunegraph.errors import ExactnessError, PlanError
from prunegraph.graph.model import Graph
from prunegraph.graph.onnx_io import from_model
from prunegraph.pipeline import PruneResult
from prunegraph.proof.factors import multiplied, prove_factors
from prunegraph.ranks.options import find_ranked, full
from prunegraph.ranks.savings import Widths
from prunegraph.rewriting.decompose import decompose_to
from prunegraph.rewriting.factorize import Spatial
from prunegraph.rewriting.reweight import Revision
from prunegraph.runtime.session import run, session
from prunegraph.selection.plan import Plan, make_plan
from prunegraph.selection.ranks import LayerRanks
from prunegraph.selection.select import COMPETING
from prunegraph.selection.units import Removal
from tests.builders import Builder, residual_net


def network(seed: int = 0) -> Graph:
    """Three convolutions whose kernels are close to products of a column and a row, and a classifier."""
    b = Builder(seed)
    value, width = b.input("n", 3, 9, 9), 3
    for index in range(3):
        mix = b.rng.standard_normal((12, width))
        column, row = b.rng.standard_normal((2, 3))
        weight = np.einsum("oi,h,w->oihw", mix, column, row) / np.sqrt(9 * width)
        noise = 0.01 * b.rng.standard_normal(weight.shape)
        bias = b.const(0.1 * b.rng.standard_normal(12), np.float32)
        value = b.op(
            "Conv",
            value,
            b.const(weight + noise, np.float32),
            bias,
            name=f"conv{index}",
            pads=[1, 1, 1, 1],
        )
        value, width = b.op("Relu", value), 12
    pooled = b.op("Flatten", b.op("GlobalAveragePool", value))
    head = b.op(
        "Gemm",
        pooled,
        b.weight(5, 12),
        b.const(np.zeros(5), np.float32),
        name="head",
        transB=1,
    )
    return from_model(b.model(head))


def samples(count: int = 64) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(1).standard_normal((count, 3, 9, 9), np.float32)}


def pruned(graph: Graph, **options: object) -> PruneResult:
    return pg.prune(
        graph, data=samples(), budget=pg.Budget(macs=0.72), round_to=1, **options
    )


def test_low_rank_wins_where_kernels_have_it() -> None:
    graph = network()
    result = pruned(graph)
    assert result.plan.ranks
    names = {*COMPETING, "damage + ranks", "ranks"}
    assert names >= set(result.plan.provenance["repaired"])
    assert result.after.macs <= 0.72 * result.before.macs
    assert result.proof is not None and result.factors is not None
    assert [row.name for row in result.decomposed.layers] == [
        each.layer for each in result.plan.ranks
    ]
    narrow = pruned(graph, ranks="never")
    fresh = np.random.default_rng(5).standard_normal((64, 3, 9, 9), np.float32)
    expected, with_ranks, alone = (
        run(session(each), {"x": fresh})[0] for each in (graph, result.model, narrow.model)
    )
    assert np.square(with_ranks - expected).sum() < 0.9 * np.square(alone - expected).sum()


def test_never_leaves_plans_as_they_were() -> None:
    result = pruned(network(), ranks="never")
    content = result.plan.to_json()
    assert content["format"] == "prunegraph/plan@2"
    assert "ranks" not in content and "ranks" not in content["provenance"]
    assert result.decomposed is None and result.factors is None


def test_few_factorizations_are_held() -> None:
    """Those that were asked for last; others are made anew, and are the same."""
    ranked = find_ranked(pg.analyze(residual_net(width=32)), "macs", 1)
    known = ranked[0].known
    assert all(each.known is known for each in ranked) and known.most is not None
    pairs = [(each, choice) for each in ranked for choice in each.options]

    def made() -> list[np.ndarray]:
        return [
            factor
            for each, choice in pairs
            for factor in known.form(each.layer, choice.method).factors(choice.ranks)
        ]

    expected = made()
    assert len(known.forms) > 1, "small ones are all held"
    known.most = 0
    known.forms.clear()
    for one, other in zip(made(), expected, strict=True):
        np.testing.assert_array_equal(one, other)
    assert len(known.forms) == 1
    last = known.form(ranked[-1].layer, ranked[-1].options[-1].method)
    assert known.form(ranked[-1].layer, ranked[-1].options[-1].method) is last


def test_a_form_says_what_it_holds() -> None:
    """Also what a split has in it, and what is made when somebody asks."""
    form = Spatial(np.random.default_rng(0).standard_normal((8, 6, 3, 3)))
    before = form.nbytes
    assert before > 8 * 8 * 6 * 9
    form.factors((4,))
    assert form.nbytes == before + 8 * 18 * 18


def test_kept_layers_stay_whole() -> None:
    result = pruned(network(), keep=["conv1"])
    assert "conv1" not in [each.layer for each in result.plan.ranks]


def test_a_plan_with_ranks_makes_the_same_model(tmp_path: Path) -> None:
    graph = network()
    first = pruned(graph, save_plan=tmp_path / "plan.json")
    content = json.loads((tmp_path / "plan.json").read_text())
    assert content["format"] == "prunegraph/plan@3"
    plan = Plan.load(tmp_path / "plan.json")
    assert plan.ranks == first.plan.ranks
    again = apply_plan(graph, plan, data=samples())
    x = samples(8)
    for a, b in zip(
        run(session(first.model), x), run(session(again.model), x), strict=True
    ):
        assert np.array_equal(a, b)


def test_verify_proves_cut_and_factors() -> None:
    graph = network()
    plan = pruned(graph).plan
    small = pg.apply(graph, plan)
    proof = pg.verify(graph, plan, small)
    assert proof.relative <= 1e-4
    assert any("products differ" in note for note in proof.notes)
    revision = Revision(small)
    name = next(each for each in small.weights if each.endswith("last/weight"))
    revision.set(name, revision.value(name) * 1.5)
    # Other factors are another approximation: the graph computes what these multiply to.
    pg.verify(graph, plan, revision.apply())
    broken = Revision(small)
    name = small.node("head").inputs[1]
    broken.set(name, broken.value(name) + 1)
    with pytest.raises(ExactnessError):
        pg.verify(graph, plan, broken.apply())


METHODS = [("svd", (2,)), ("spatial", (2,)), ("tucker2", (3, 2))]


@pytest.mark.parametrize(("method", "ranks"), METHODS)
def test_products_of_factors_are_the_reference(method: str, ranks: tuple[int, ...]) -> None:
    graph = network()
    factored = decompose_to(graph, [LayerRanks("conv1", method, ranks)])
    proof = prove_factors(graph, factored.model, ["conv1"])
    assert proof.relative <= 1e-4
    reference = multiplied(graph, factored.model, ["conv1"])
    old, new = (
        each.weights[each.node("conv1").inputs[1]].read() for each in (graph, reference)
    )
    error = float(np.linalg.norm(new - old) / np.linalg.norm(old))
    assert np.isclose(error, factored.layers[0].error, atol=1e-6)


@pytest.mark.parametrize(("method", "ranks"), METHODS)
def test_the_reference_notices_a_chain_that_computes_something_else(
    method: str, ranks: tuple[int, ...]
) -> None:
    graph = network()
    model = decompose_to(graph, [LayerRanks("conv1", method, ranks)]).model.model
    for node in model.graph.node:
        # The first part with a border loses it on one side and gets it on the other.
        pads = next((a for a in node.attribute if a.name == "pads" and any(a.ints)), None)
        if node.name.startswith("conv1/") and pads is not None:
            half = len(pads.ints) // 2
            moved = [0 if i < half else 2 * n for i, n in enumerate(pads.ints)]
            del pads.ints[:]
            pads.ints.extend(moved)
            break
    with pytest.raises(ExactnessError, match="low rank"):
        prove_factors(graph, from_model(model), ["conv1"])


def test_mistaken_plans_are_told() -> None:
    graph = network()
    empty = make_plan(pg.analyze(graph), {})
    for ranks, told in (
        (LayerRanks("nothing", "svd", (2,)), "no such layer"),
        (LayerRanks("head", "spatial", (2,)), "does not fit"),
        (LayerRanks("conv1", "tucker2", (2,)), "2 ranks"),
    ):
        with pytest.raises(PlanError, match=told):
            pg.apply(graph, replace(empty, ranks=(ranks,)))
    content = replace(empty, ranks=(LayerRanks("conv1", "svd", (2,)),)).to_json()
    for wrong in ([0], [], [1.5], "2", [True]):
        content["ranks"][0]["ranks"] = wrong
        with pytest.raises(PlanError, match="ranks of layer"):
            Plan.from_json(content)


def test_savings_are_those_of_the_written_graph() -> None:
    """What a choice of channels and ranks is said to cost is what the cut and decomposed graph costs."""
    graph = network()
    coupling = pg.analyze(graph)
    layers = find_ranked(coupling, "macs", 1)
    assert [each.name for each in layers] == ["conv0", "conv1", "conv2"]
    widths = Widths(coupling, {}, layers)
    rng = np.random.default_rng(3)
    for _ in range(8):
        removal = {
            group.id: np.sort(
                rng.choice(group.channels, rng.integers(0, group.channels // 2), False)
            )
            for group in coupling.groups
        }
        options: dict[str, list[Removal]] = {
            id: [{}, {id: gone}] for id, gone in removal.items()
        }
        by_option = Widths(coupling, options, layers)
        for each in layers:
            shape = by_option.of(each, dict.fromkeys(options, 1))
            assert shape == widths.under(each, removal)
            assert by_option.of(each, dict.fromkeys(options, 0)) == each.layer.shape
        plan = make_plan(coupling, removal)
        narrow = pg.apply(graph, plan)
        chosen, saved = [], {"macs": 0, "params": 0}
        for each in layers:
            option = each.options[int(rng.integers(len(each.options)))]
            ranks = each.ranks(option, widths.under(each, removal))
            if ranks is not None:
                chosen.append(ranks)
                for kind in saved:
                    saved[kind] += each.saved(kind, ranks, widths.under(each, removal))
        result = decompose_to(narrow, chosen)
        assert not result.skipped
        assert result.before.macs - result.after.macs == saved["macs"]
        assert result.before.params - result.after.params == saved["params"]


def test_full_ranks_drop_nothing() -> None:
    shape = (7, 3, 3, 2)
    assert full("svd", shape) == (7,)
    assert full("tucker2", shape) == (7, 3)
    assert full("spatial", shape) == (9,)


def test_nothing_of_low_rank_where_all_layers_stay_alike() -> None:
    result = pruned(network(), same_width=True)
    assert not result.plan.ranks
    assert Survivors(result.coupling, result.plan.removal).has_all_channels is False

"""Multiples of widths, the table of layers and its cache."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import prunegraph as pg
from prunegraph.coupling.survivors import Survivors
from prunegraph.errors import BudgetError, ModelError
from prunegraph.latency import rounding
from prunegraph.latency.cache import Cache, folder, processor
from prunegraph.latency.layers import LayerTable
from prunegraph.measuring.latency import Stopwatch
from prunegraph.runtime.runtimes import OnnxRuntime
from prunegraph.selection.budget import Budget
from tests.builders import Builder, residual_net
from tests.latency.staircase import Staircase, chain, choose

# -- widths -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stair", "penalty", "chosen"),
    [(1, 1.0, 1), (16, 1.0, 16), (8, 1.3, 8), (1, 1.5, 4), (32, 1.0, 32)],
)
def test_auto_picks_the_step_of_the_staircase(
    stair: int, penalty: float, chosen: int
) -> None:
    graph = chain((128, 192, 256, 128))
    result = choose(
        graph, Staircase(graph, stair, penalty), budget=Budget(macs=0.5), round_to="auto"
    )
    assert result.rounding is not None
    assert result.rounding.chosen == chosen, str(result.rounding)
    assert result.plan.provenance["round_to"] == chosen
    pruned = pg.apply(graph, result.plan)
    assert all(pruned.node(f"conv{i}").channels.outputs % chosen == 0 for i in range(4))  # type: ignore[operator]
    assert f"round-to {chosen}: latency per MAC" in str(result.rounding)


def test_auto_measures_once_for_a_model() -> None:
    graph, cache = chain((128, 128)), Cache()
    first = Staircase(graph, 16)
    choose(graph, first, cache, budget=Budget(macs=0.5), round_to="auto")
    again = Staircase(graph, 16)
    choose(graph, again, cache, budget=Budget(params=0.3), round_to="auto")
    assert len(first.models) == 6
    assert not again.models
    other = chain((128, 96))
    timer = Staircase(other, 16)
    choose(other, timer, cache, budget=Budget(macs=0.5), round_to="auto")
    assert timer.models


def test_multiples_too_coarse_for_the_model_are_left_out() -> None:
    graph = chain((16, 24, 16))
    result = choose(graph, Staircase(graph), budget=Budget(macs=0.5), round_to="auto")
    assert result.rounding is not None
    assert list(result.rounding.per_mac) == [1, 2, 4, 8]


def test_widths_are_near_each_other_whatever_the_multiple() -> None:
    coupling = pg.analyze(chain((128, 192, 256)))
    sizes = {group.id: group.channels for group in coupling.groups}
    exact = rounding.widths(coupling, 1)
    assert exact.keys() == sizes.keys()
    for multiple in (2, 8, 32):
        for group, gone in rounding.widths(coupling, multiple).items():
            assert (sizes[group] - len(gone)) % multiple == 0
            assert abs(len(gone) - len(exact[group])) <= multiple / 2 + 1


def test_auto_on_a_model_without_groups() -> None:
    b = Builder()
    graph = b.graph(b.conv(b.input("n", 3, 8, 8), 3, 8))
    with pytest.raises(BudgetError, match="no channel can be removed"):
        choose(graph, Staircase(graph), budget=Budget(macs=0.5), round_to="auto")


def test_the_finest_of_about_equal_multiples() -> None:
    assert rounding.choose({1: 1.3, 2: 1.2, 4: 1.02, 8: 1.0, 16: 1.01}) == 4


# -- the table ----------------------------------------------------------------------------------


def test_layers_are_timed_at_the_widths_that_are_left() -> None:
    b = Builder()
    x = b.relu(b.conv(b.input("n", 3, 8, 8), 3, 64, name="a"))
    x = b.relu(b.conv(x, 64, 64, group=16, name="grouped"))
    graph = b.graph(b.head(x, 64))
    coupling = pg.analyze(graph)
    plan = pg.select(graph, coupling, budget=Budget(ratio=0.5), round_to=1)
    timer, cache = Staircase(graph), Cache()
    table = LayerTable(coupling, timer, cache)
    assert table.predict(Survivors(coupling, plan.remove)) == pytest.approx(
        timer.cost(pg.apply(graph, plan)) - 2 * table.idle
    )
    grouped = next(m for m in timer.timed if m.source == "grouped")
    assert grouped.nodes[0].attributes["group"] == 8
    assert [w.shape for w in grouped.weights.values()] == [(32, 4, 3, 3), (32,)]
    # Three layers, and a run with nothing to do.
    assert [len(m.nodes) for m in timer.timed] == [1, 1, 1, 1]
    assert len(cache.layers) == 4
    table.predict(Survivors(coupling, plan.remove))
    assert len(timer.timed) == 4


def test_what_every_run_takes_is_counted_once() -> None:
    graph = chain()

    class Slow(Staircase):
        """Whatever runs takes half a millisecond more than its layers."""

        def alone(self, model: pg.Graph) -> float:
            return super().alone(model) + 0.5

    coupling = pg.analyze(graph)
    plan = pg.select(graph, coupling, budget=Budget(ratio=0.5), round_to=1)
    timer, cache = Slow(graph), Cache()
    table = LayerTable(coupling, timer, cache)
    for survivors, model in (
        (Survivors(coupling, {}), graph),
        (Survivors(coupling, plan.remove), pg.apply(graph, plan)),
    ):
        expected = timer.cost(model) + 0.5
        assert table.predict(survivors) == pytest.approx(expected, rel=1e-4)
    known = LayerTable(coupling, None, cache).estimate(Survivors(coupling, plan.remove))
    assert known is not None
    before, after, guessed = known
    assert guessed == 0
    assert before == pytest.approx(timer.cost(graph) + 0.5, rel=1e-4)
    assert after == pytest.approx(timer.cost(pg.apply(graph, plan)) + 0.5, rel=1e-4)


def test_every_layer_of_a_zoo_of_operators_runs_alone() -> None:
    b = Builder()
    x = b.input("n", 16, 8, 8)
    y = b.op("ConvTranspose", x, b.weight(16, 8, 3, 3), b.weight(8), pads=[1, 1, 1, 1])
    y = b.op("Transpose", b.op("Reshape", y, b.const([0, 8, -1], np.int64)), perm=[0, 2, 1])
    y = b.op("MatMul", y, b.weight(8, 16), name="linear")
    y = b.op("MatMul", y, b.op("Transpose", b.weight(24, 16), perm=[1, 0]), name="behind")
    scores = b.op("MatMul", y, b.op("Transpose", y, perm=[0, 2, 1]), name="scores")
    t = b.op("Transpose", b.op("MatMul", scores, y), perm=[1, 0, 2])
    lstm = b.op(
        "LSTM", t, b.weight(1, 48, 24), b.weight(1, 48, 12), outputs=3, hidden_size=12
    )
    graph = b.graph(lstm)
    table = LayerTable(pg.analyze(graph), Stopwatch(graph), Cache())
    survivors = Survivors(pg.analyze(graph), {})
    assert len(table.layers) == 6
    assert all(table.time(node, survivors) > 0 for node in table.layers)


def test_a_layer_that_does_not_run_alone_counts_nothing(tmp_path: Path) -> None:
    graph = residual_net()
    timer = Staircase(graph)

    def fail(model: pg.Graph) -> float:
        raise ModelError("no")

    timer.alone = fail  # type: ignore[method-assign]
    cache = Cache({}, tmp_path)
    assert (
        LayerTable(pg.analyze(graph), timer, cache).predict(
            Survivors(pg.analyze(graph), {})
        )
        == 0
    )
    cache.save()
    assert not Cache({}, tmp_path).layers


# -- the cache ----------------------------------------------------------------------------------


def test_figures_are_kept_by_environment(tmp_path: Path) -> None:
    cache = Cache({"cpu": "a"}, tmp_path)
    cache.layers["x"], cache.rounding["m"] = 1.5, {"8": 1.0}
    other = Cache({"cpu": "a"}, tmp_path)
    other.layers["y"] = 2.5
    cache.save()
    other.save()
    assert Cache({"cpu": "a"}, tmp_path).layers == {"x": 1.5, "y": 2.5}
    assert Cache({"cpu": "a"}, tmp_path).rounding == {"m": {"8": 1.0}}
    assert not Cache({"cpu": "b"}, tmp_path).layers
    assert json.loads(next(tmp_path.iterdir()).read_text())["environment"] == {"cpu": "a"}


def test_a_damaged_or_unwritable_cache_is_no_error(tmp_path: Path) -> None:
    cache = Cache({}, tmp_path)
    cache.layers["x"] = 1.0
    cache.save()
    for text in ("{", "[]", '{"format": "other", "layers": {"x": 2}}'):
        next(tmp_path.iterdir()).write_text(text)
        assert not Cache({}, tmp_path).layers
    (tmp_path / "file").write_text("")
    Cache({}, tmp_path / "file" / "folder").save()


def test_where_the_cache_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PRUNEGRAPH_CACHE", str(tmp_path / "own"))
    assert folder() == tmp_path / "own"
    monkeypatch.delenv("PRUNEGRAPH_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert folder() == tmp_path / "prunegraph"
    assert processor()
    environment = Cache.here(OnnxRuntime(threads=2)).environment
    assert environment.keys() == {"cpu", "onnxruntime", "provider", "threads"}

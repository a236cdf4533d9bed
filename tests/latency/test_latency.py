"""Latency budgets, the table of layers, measured widths: the logic with a timer that computes, the clock for real."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import prunegraph as pg
from prunegraph import execution, pipeline
from prunegraph.coupling.survivors import Survivors
from prunegraph.errors import BudgetError, ExactnessError, ModelError, UnknownNameError
from prunegraph.graph.shapes import shape_info
from prunegraph.latency import rounding
from prunegraph.latency.bench import PAIRS
from prunegraph.latency.blends import blends
from prunegraph.latency.cache import Cache, folder, processor
from prunegraph.latency.layers import LayerTable
from prunegraph.latency.measured import Selected, select_by_measuring
from prunegraph.latency.search import TOLERANCE
from prunegraph.measuring import latency as timing
from prunegraph.measuring.latency import Latency, Stopwatch
from prunegraph.ops.cost import cost, node_macs
from prunegraph.runtime.data import Data, random_inputs
from prunegraph.runtime.session import provider_name, run, session
from prunegraph.selection.budget import Budget, parse_latency
from prunegraph.selection.options import SelectionOptions
from prunegraph.selection.plan import Plan
from tests.builders import Builder, residual_net
from tests.paths import FIXTURES

FASHION = FIXTURES / "fashion_resnet.onnx"


class Staircase:
    """A timer that computes: layers cost their MACs at widths rounded up to `stair`, odd input widths `penalty` times.

    `fixed` is what everything but the layers costs. Layers timed alone cost `bias` times what they cost in the model.
    """

    def __init__(
        self,
        graph: pg.Graph,
        stair: int = 1,
        penalty: float = 1.0,
        fixed: float = 0.0,
        bias: float = 1.0,
    ):
        self.graph, self.stair, self.penalty, self.fixed, self.bias = (
            graph,
            stair,
            penalty,
            fixed,
            bias,
        )
        self.timed: list[pg.Graph] = []
        self.models: list[pg.Graph] = []

    def cost(self, graph: pg.Graph) -> float:
        shapes = shape_info(graph).shapes
        total = 0.0
        for node in graph.nodes:
            macs, width = node_macs(node, shapes), node.channels.outputs
            if macs and width:
                odd = (node.channels.inputs or 0) % 4 and (node.channels.inputs or 0) > 4
                total += (
                    macs
                    / width
                    * -(-width // self.stair)
                    * self.stair
                    * (self.penalty if odd else 1.0)
                )
        return total / 1e6

    def against(self, pruned: pg.Graph, pairs: int = 1) -> Latency:
        if pairs == 1:
            self.models.append(pruned)
        a, b = self.original(), self.cost(pruned) + self.fixed
        return Latency(a, b, a / b, runs=1, threads=1)

    def alone(self, model: pg.Graph) -> float:
        self.timed.append(model)
        return self.cost(model) * self.bias

    def original(self) -> float:
        return self.cost(self.graph) + self.fixed


def chain(widths: tuple[int, ...] = (48, 64, 96, 64)) -> pg.Graph:
    b = Builder()
    x, c = b.input("n", 3, 16, 16), 3
    for i, width in enumerate(widths):
        x, c = b.relu(b.conv(x, c, width, name=f"conv{i}")), width
    return b.graph(b.head(x, c))


def choose(
    graph: pg.Graph, timer: Staircase, cache: Cache | None = None, **options: Any
) -> Selected:
    return select_by_measuring(
        pg.analyze(graph), SelectionOptions(**options), timer=timer, cache=cache or Cache()
    )


# -- the search ---------------------------------------------------------------------------------


@pytest.mark.parametrize("bound", [0.8, 0.5, 0.3])
@pytest.mark.parametrize("round_to", [1, 8])
@pytest.mark.parametrize("allocation", ["uniform", "global"])
def test_the_measured_latency_is_at_the_bound(
    bound: float, round_to: int, allocation: str
) -> None:
    graph = chain()
    timer = Staircase(graph, stair=8, penalty=1.3, fixed=0.5)
    options: dict[str, Any] = {"round_to": round_to, "allocation": allocation}
    result = choose(graph, timer, budget=Budget(latency=bound), **options)
    kept = timer.against(pg.apply(graph, result.plan)).kept
    assert bound * (1 - TOLERANCE) <= kept <= bound
    assert result.latency is not None
    assert result.latency.kept == kept
    assert result.plan.provenance["budget"] == {"latency": bound}
    assert result.plan.provenance["latency"]["share"] == kept


def test_a_time_is_a_bound_in_milliseconds() -> None:
    graph = chain()
    timer = Staircase(graph, fixed=0.5)
    bound = timer.original() * 0.6
    result = choose(graph, timer, budget=Budget(latency=f"{bound}ms"), round_to=1)
    assert result.latency is not None
    assert bound * (1 - TOLERANCE) <= result.latency.second <= bound
    assert result.latency.first == timer.original()


@pytest.mark.parametrize("latency", [1, "1s"])
def test_nothing_goes_where_the_original_meets_the_bound(latency: float | str) -> None:
    graph = chain()
    result = choose(graph, Staircase(graph), budget=Budget(latency=latency))
    assert not result.plan.remove
    assert result.latency is not None
    assert result.latency.kept == 1


@pytest.mark.parametrize("fixed", [0.0, 20.0])
def test_the_measurement_corrects_a_table_that_is_wrong(fixed: float) -> None:
    """Layers alone say nothing of what else a model costs; few whole models are measured all the same."""
    graph = chain()
    timer = Staircase(graph, stair=16, fixed=fixed, bias=3.0)
    bound = 0.9
    result = choose(graph, timer, budget=Budget(latency=bound), round_to=4)
    assert result.latency is not None
    assert bound * (1 - TOLERANCE) <= result.latency.kept <= bound
    assert len(timer.models) <= 5


def test_the_result_is_measured_in_several_sessions() -> None:
    """One pair of sessions is off by some percent; what is returned and promised comes from several."""
    graph = chain()

    class Shaky(Staircase):
        def against(self, pruned: pg.Graph, pairs: int = 1) -> Latency:
            result = super().against(pruned, pairs)
            off = 1.03 if len(self.models) % 2 else 0.97
            return result if pairs > 1 else replace(result, ratio=result.ratio * off)

    timer = Shaky(graph, stair=4)
    for bound in (0.8, 0.6, 0.4):
        result = choose(graph, timer, budget=Budget(latency=bound), round_to=4)
        assert result.latency is not None
        assert (
            result.latency.kept == timer.against(pg.apply(graph, result.plan), PAIRS).kept
        )
        assert bound * (1 - TOLERANCE) <= result.latency.kept <= bound


def test_several_pairs_make_one_figure() -> None:
    parts = [
        Latency(4.0, 2.0, 2.0, runs=9, threads=1, error=0.1),
        Latency(9.0, 2.0, 4.5, runs=3, threads=1),
    ]
    result = timing.combined(parts)
    assert (result.first, result.second, result.ratio, result.runs) == (
        6.5,
        2.0,
        pytest.approx(3.0),
        12,
    )
    assert result.error == pytest.approx(np.log(4.5 / 2) / 2)
    assert timing.combined(parts[:1]) is parts[0]


def test_a_bound_below_what_must_stay_says_what_is_possible() -> None:
    graph = chain()
    timer = Staircase(graph, fixed=30.0)
    with pytest.raises(
        BudgetError,
        match=r"latency cannot fall to 0.1 of the original: .* 0\.\d+ of the original",
    ):
        choose(graph, timer, budget=Budget(latency=0.1))
    with pytest.raises(
        BudgetError,
        match=r"latency cannot fall to 2 ms \(0\.\d+ of the original's \d+\.\d+ ms\)",
    ):
        choose(graph, timer, budget=Budget(latency="2ms"))


def test_a_bound_that_every_step_jumps_over_is_an_error() -> None:
    graph = chain((64, 64))

    class Cliff(Staircase):
        """Half the time as soon as anything is removed, and nothing more."""

        def cost(self, graph: pg.Graph) -> float:
            return 1.0 if cost(graph).macs == cost(self.graph).macs else 0.5

    with pytest.raises(
        BudgetError,
        match=r"no choice of channels .* within 5% below 0.7 of.* measured 0.500",
    ):
        choose(graph, Cliff(graph), budget=Budget(latency=0.7), round_to=8)


def test_steps_are_reordered_where_the_next_one_jumps_over_the_bound() -> None:
    """The wide group's step is a third of the model; without the narrow group's steps before it there is no way."""
    b = Builder()
    wide = b.relu(b.conv(b.input("n", 3, 8, 8), 3, 256, k=1, name="wide"))
    narrow = b.relu(b.conv(wide, 256, 64, name="narrow"))
    graph = b.graph(b.head(narrow, 64))

    class Blocks(Staircase):
        """Milliseconds are the widths in blocks: of 64 in the wide group, of 8 in the narrow one."""

        def cost(self, graph: pg.Graph) -> float:
            widths = {
                n.name: n.channels.outputs or 0 for n in graph.nodes if n.op == "Conv"
            }
            return 4.0 * -(-widths.get("wide", 0) // 64) + -(-widths.get("narrow", 0) // 8)

    timer = Blocks(graph)
    assert timer.original() == 24
    for bound in (23 / 24, 20.5 / 24, 17 / 24, 15 / 24):
        result = choose(graph, timer, budget=Budget(latency=bound), round_to=8)
        assert result.latency is not None
        assert bound * (1 - TOLERANCE) <= result.latency.kept <= bound


def test_mixes_take_groups_from_other_plans() -> None:
    start = Plan("", {"a": (0,), "b": (1, 2)})
    others = [
        Plan("", {"a": (0, 3), "b": (1, 2)}),
        Plan("", {"a": (0, 3), "b": (1, 2, 4)}),
        Plan("", {"c": (5,)}),
    ]
    assert list(blends(start, others)) == [
        {"a": (0, 3), "b": (1, 2)},
        {"a": (), "b": (1, 2)},
        {"a": (0,), "b": (1, 2, 4)},
        {"a": (0,), "b": ()},
        {"a": (0,), "b": (1, 2), "c": (5,)},
        {"a": (0, 3), "b": (1, 2, 4)},
        {"a": (0, 3), "b": (1, 2), "c": (5,)},
        {"a": (0,), "b": (1, 2, 4), "c": (5,)},
    ]


def test_limits_hold_under_a_latency_budget() -> None:
    graph = chain()
    timer = Staircase(graph)
    result = choose(
        graph,
        timer,
        budget=Budget(latency=0.5),
        keep=["conv1"],
        ratio_for={"conv0": 0.5},
        round_to=8,
    )
    pruned = pg.apply(graph, result.plan)
    assert [pruned.node(f"conv{i}").channels.outputs for i in range(2)] == [24, 64]
    assert all(pruned.node(f"conv{i}").channels.outputs % 8 == 0 for i in (2, 3))  # type: ignore[operator]


def test_a_model_without_layers_has_no_latency_budget() -> None:
    b = Builder()
    graph = b.graph(b.relu(b.input("n", 3, 8, 8)))
    with pytest.raises(BudgetError, match="no layer that ONNX Runtime can time"):
        choose(graph, Staircase(graph, fixed=1.0), budget=Budget(latency=0.5))


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
        timer.cost(pg.apply(graph, plan))
    )
    grouped = next(m for m in timer.timed if m.source == "grouped")
    assert grouped.nodes[0].attributes["group"] == 8
    assert [w.shape for w in grouped.weights.values()] == [(32, 4, 3, 3), (32,)]
    assert [len(m.nodes) for m in timer.timed] == [1, 1, 1]
    assert len(cache.layers) == 3
    table.predict(Survivors(coupling, plan.remove))
    assert len(timer.timed) == 3


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
    environment = Cache.here("CPUExecutionProvider", 2).environment
    assert environment.keys() == {"cpu", "onnxruntime", "provider", "threads"}


# -- budgets, providers and clocks --------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        (0.5, (0.5, True)),
        ("0.25", (0.25, True)),
        (1, (1.0, True)),
        ("12ms", (12.0, False)),
        ("0.5 ms", (0.5, False)),
        ("300us", (0.3, False)),
        ("1.5S", (1500.0, False)),
    ],
)
def test_latencies(text: str | float, amount: tuple[float, bool]) -> None:
    assert parse_latency(text) == pytest.approx(amount)
    assert Budget(latency=text).kind == "latency"


@pytest.mark.parametrize(
    "text", [12, "12", "0ms", 0, -0.5, "x", "12m", "ms", "12MB", "1.2.3ms"]
)
def test_malformed_latencies(text: str | float) -> None:
    with pytest.raises(
        BudgetError, match=r"latency must be a fraction up to 1 such as 0\.5, or a time"
    ):
        Budget(latency=text)


@pytest.mark.parametrize(
    "options", [{"round_to": 0}, {"round_to": "aut"}, {"round_to": 2.5}, {"threads": -1}]
)
def test_malformed_choices(options: dict[str, Any]) -> None:
    with pytest.raises(BudgetError, match=next(iter(options))):
        SelectionOptions(Budget(macs=0.5), **options)


def test_selection_alone_measures_nothing() -> None:
    from prunegraph.selection.select import select as pure

    coupling = pg.analyze(residual_net())
    with pytest.raises(BudgetError, match="met by measuring"):
        pure(coupling, SelectionOptions(Budget(latency=0.5)))
    with pytest.raises(BudgetError, match="'auto' is measured"):
        pure(coupling, SelectionOptions(Budget(macs=0.5), round_to="auto"))


def test_providers_by_name() -> None:
    for name in (None, "cpu", "CPU", "CPUExecutionProvider"):
        assert provider_name(name) == "CPUExecutionProvider"
    with pytest.raises(
        UnknownNameError,
        match=r"execution provider 'abacus'.*Known: .*CPUExecutionProvider",
    ):
        provider_name("abacus")
    with pytest.raises(UnknownNameError):
        pg.prune(residual_net(), budget=Budget(ratio=0.5), provider="abacus")


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_provider_that_does_not_start_is_an_error() -> None:
    with pytest.raises(ModelError, match="AbacusExecutionProvider does not start"):
        session(residual_net(), provider="AbacusExecutionProvider")


def test_rounds_are_paired_and_their_error_is_known() -> None:
    graph = residual_net()
    pair = [session(graph, threads=1), session(graph, threads=1)]
    result = timing.measure_pair(pair, random_inputs(graph), runs=5, threads=1)
    assert (result.runs, result.threads, result.provider) == (5, 1, "CPUExecutionProvider")
    assert min(result.first, result.second, result.ratio) > 0
    assert result.kept == 1 / result.ratio
    assert timing._median_error(np.full(9, 2.0)) == 0
    assert timing._median_error(np.asarray([1.0, 2.0, 3.0])) == pytest.approx(
        1.253 * 1 / 1.349 / np.sqrt(3) / 2
    )


def test_a_measurement_ends_when_it_is_known_well_enough_or_takes_too_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = iter(np.arange(0.0, 1e3, 0.1))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(now))
    assert len(timing._settled(iter([(2.0, 1.0)] * 500))) == timing.ROUNDS
    shaky = iter([(1.0 + turn % 2, 1.0) for turn in range(500)])
    assert len(timing._settled(shaky)) == pytest.approx(timing.SECONDS[1] / 0.1, abs=2)


def test_one_thread_of_the_cpu_is_timed_by_its_own_clock() -> None:
    import time

    assert timing.clock("CPUExecutionProvider", 2) is time.perf_counter
    assert timing.clock("CUDAExecutionProvider", 1) is time.perf_counter
    assert timing.clock("CPUExecutionProvider", 1) in (time.thread_time, time.perf_counter)


def test_what_a_failed_proof_leaves_is_measured_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    graph = residual_net()
    plan = pg.select(graph, budget=Budget(ratio=0.5), round_to=1)
    before = Latency(2.0, 1.0, 2.0, runs=0, threads=1)
    monkeypatch.setattr(
        pipeline, "select_by_measuring", lambda *args, **options: Selected(plan, before)
    )
    proved = execution.verify

    def verify(model: pg.Graph, plan: Plan, pruned: pg.Graph, **options: Any) -> Any:
        if "g0" in plan.remove:
            raise ExactnessError("no")
        return proved(model, plan, pruned, **options)

    monkeypatch.setattr(execution, "verify", verify)
    result = pg.prune(graph, budget=Budget(latency=0.5))
    assert result.left_out == ("g0",)
    assert result.latency is not None
    assert result.latency.runs >= timing.ROUNDS


# -- for real -----------------------------------------------------------------------------------


def count_instead_of_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions run for real, but take a millisecond for every million MACs: no figure depends on the machine's load."""
    now, costs, opened = [0.0], {}, Stopwatch._open

    def remember(self: Stopwatch, graph: pg.Graph) -> Any:
        created = opened(self, graph)
        costs[created] = cost(graph).macs / 1e9
        return created

    def spend(session: Any, inputs: Any, outputs: Any = None) -> Any:
        now[0] += costs[session]
        return run(session, inputs, outputs)

    monkeypatch.setattr(Stopwatch, "_open", remember)
    monkeypatch.setattr(timing, "run", spend)
    monkeypatch.setattr(timing, "clock", lambda provider, threads: lambda: now[0])


def test_a_real_budget(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    count_instead_of_time(monkeypatch)
    monkeypatch.setenv("PRUNEGRAPH_CACHE", str(tmp_path))
    stages: list[str] = []
    data = Data.of(
        {
            "image": np.random.default_rng(0)
            .standard_normal((2, 1, 28, 28))
            .astype(np.float32)
        }
    )
    result = pg.prune(
        FASHION,
        budget=Budget(latency=0.5),
        round_to=4,
        algorithm="l2",
        data=data,
        repair="none",
        progress=stages.append,
    )
    assert result.latency is not None
    assert 0.5 * (1 - TOLERANCE) <= result.latency.kept <= 0.5
    assert result.proof is not None
    assert result.after.macs < result.before.macs
    assert any("of the original measured" in stage for stage in stages)
    kept = json.loads(next(tmp_path.iterdir()).read_text())
    assert kept["environment"]["provider"] == "CPUExecutionProvider"
    assert all(ms > 0 for ms in kept["layers"].values())


def test_a_real_choice_of_widths(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PRUNEGRAPH_CACHE", str(tmp_path))
    monkeypatch.setattr(timing, "SECONDS", (0.0, 0.1))
    result = pg.prune(
        FASHION, budget=Budget(macs=0.5), round_to="auto", verify=False, threads=2
    )
    assert result.rounding is not None
    assert result.rounding.chosen in result.rounding.per_mac
    assert result.latency is None
    assert {1, 2, 4, 8} <= result.rounding.per_mac.keys()

"""Bounds, providers and clocks, and measurements for real."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import prunegraph as pg
from prunegraph import execution, pipeline
from prunegraph.errors import BudgetError, ExactnessError, ModelError, UnknownNameError
from prunegraph.latency.measured import Selected
from prunegraph.latency.search import TOLERANCE
from prunegraph.measuring import latency as timing
from prunegraph.measuring.latency import Latency, Stopwatch
from prunegraph.ops.cost import cost
from prunegraph.runtime.data import Data, random_inputs
from prunegraph.runtime.engine import clock
from prunegraph.runtime.runtimes import OnnxRuntime
from prunegraph.runtime.session import provider_name, session
from prunegraph.selection.budget import Budget, parse_latency
from prunegraph.selection.options import SelectionOptions
from prunegraph.selection.plan import Plan
from tests.builders import residual_net
from tests.latency.counting import count_instead_of_time
from tests.paths import FIXTURES

FASHION = FIXTURES / "fashion_resnet.onnx"


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


def test_a_layer_is_timed_by_what_a_reference_takes_beside_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A machine on which everything takes three times as long for a while gives the same figure."""
    now, speeds = [0.0], [1.0]

    class Disturbed:
        def __init__(self, graph: pg.Graph):
            self.seconds = cost(graph).macs / 1e9

        def run(self, inputs: Any) -> None:
            now[0] += self.seconds * speeds[0]

    monkeypatch.setattr(Stopwatch, "_open", lambda self, graph: Disturbed(graph))
    monkeypatch.setattr(timing, "clock", lambda runtime: lambda: now[0])
    graph = residual_net()
    watch = Stopwatch(graph)
    expected = cost(graph).macs / 1e6
    for speeds[0] in (1.0, 3.0, 1.5, 1.0):
        assert watch.alone(graph) == pytest.approx(expected, rel=1e-6)


def test_rounds_are_paired_and_their_error_is_known() -> None:
    graph = residual_net()
    runtime = OnnxRuntime()
    pair = [runtime.open(graph), runtime.open(graph)]
    result = timing.measure_pair(pair, random_inputs(graph), runs=5, runtime=runtime)
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

    runtime = OnnxRuntime()
    assert clock(runtime) in (time.thread_time, time.perf_counter)
    assert clock(OnnxRuntime(threads=2)) is time.perf_counter
    runtime.provider = "CUDAExecutionProvider"
    assert clock(runtime) is time.perf_counter


def test_a_clock_that_stood_still_during_a_run_gives_no_time_of_zero(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Every other reading is the one before it: half of the runs take no time by this clock.
    readings = iter(np.repeat(np.arange(1.0, 5000.0), 3))
    monkeypatch.setattr(timing, "clock", lambda runtime: lambda: next(readings))
    graph, runtime = residual_net(), OnnxRuntime()
    pair = [runtime.open(graph), runtime.open(graph)]
    result = timing.measure_pair(pair, random_inputs(graph), runs=6, runtime=runtime)
    assert min(result.first, result.second, result.ratio) > 0
    assert np.isfinite(result.error)
    assert timing.Stopwatch(graph).alone(graph) > 0


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

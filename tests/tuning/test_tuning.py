"""Sensitivity and search on networks."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

import prunegraph as pg
from prunegraph.errors import (
    BudgetError,
    DataError,
    ModelError,
    PluginError,
    UnknownNameError,
)
from prunegraph.measuring.metrics import METRICS
from prunegraph.ops.cost import cost
from prunegraph.runtime.data import Data, read_data
from prunegraph.runtime.session import run, session
from prunegraph.selection.budget import Meter
from prunegraph.selection.options import SelectionOptions
from prunegraph.selection.select import Ranking, rank
from prunegraph.tuning import stages
from prunegraph.tuning.evaluation import STUDY, Evaluator, Study, Trials, _write
from prunegraph.tuning.search import Goal, SearchTrace, find
from tests.builders import Builder, residual_net
from tests.paths import FIXTURES

MODEL = FIXTURES / "fashion_resnet.onnx"

Array = np.ndarray


def batches(count: int = 3, samples: int = 16, seed: int = 0) -> list[dict[str, Array]]:
    rng = np.random.default_rng(seed)
    return [
        {"x": rng.standard_normal((samples, 3, 8, 8)).astype(np.float32)}
        for _ in range(count)
    ]


def dead_and_vital() -> pg.Graph:
    """A trunk, and a branch whose last layer adds nothing: its hidden channels are dead."""
    b = Builder()
    x = b.relu(b.conv(b.input("n", 3, 8, 8), 3, 16, name="vital"))
    y = b.relu(b.conv(x, 16, 24, name="dead"))
    zeros = b.const(np.zeros((16, 24, 3, 3)), np.float32)
    y = b.op("Conv", y, zeros, name="nothing", pads=[1, 1, 1, 1])
    return b.graph(b.head(b.op("Add", x, y), 16))


def by_layer(result: pg.Sensitivity, layer: str) -> list[float]:
    [curve] = [curve for curve in result.curves if curve.layers[0] == layer]
    return [point.error for point in curve.points]


# -- sensitivity ----------------------------------------------------------------------------


def test_a_dead_group_costs_nothing_and_a_vital_one_much() -> None:
    graph = dead_and_vital()
    result = pg.sensitivity(graph, data=batches(), algorithm="l2", jobs=1)
    # Not quite 0: kernels for other widths add up in another order.
    assert max(by_layer(result, "dead")) < 1e-9
    vital = by_layer(result, "vital")
    assert vital[0] > 1e-6 and vital[-1] > 0.01
    assert result.original == 0


def test_points_say_what_was_removed_and_what_is_left() -> None:
    graph = residual_net(width=16)
    coupling = pg.analyze(graph)
    result = pg.sensitivity(
        graph, data=batches(1), ratios=[0.05, 0.5], algorithm="l2", jobs=1
    )
    assert [curve.id for curve in result.curves] == [group.id for group in coupling.groups]
    for curve, group in zip(result.curves, coupling.groups, strict=True):
        assert [point.removed for point in curve.points] == [
            math.floor(0.05 * group.channels),
            group.channels // 2,
        ]
        plan = pg.select(
            graph, coupling, algorithm="l2", budget=pg.Budget(ratio=0.5), round_to=1
        )
        alone = pg.Plan(graph.sha256, {group.id: plan.remove[group.id]})
        remaining = cost(pg.apply(graph, alone))
        assert (curve.points[1].macs, curve.points[1].params) == (
            remaining.macs,
            remaining.params,
        )
        if not curve.points[0].removed:
            assert curve.points[0].error == 0


def test_error_is_what_cutting_really_does() -> None:
    graph = residual_net(width=16)
    data = batches(2)
    result = pg.sensitivity(graph, data=data, ratios=[0.5], algorithm="l2", jobs=1)
    coupling = pg.analyze(graph)
    plan = pg.select(
        graph, coupling, algorithm="l2", budget=pg.Budget(ratio=0.5), round_to=1
    )
    for curve in result.curves:
        pruned = pg.apply(graph, pg.Plan(graph.sha256, {curve.id: plan.remove[curve.id]}))
        expected, got = (
            np.concatenate([run(opened, batch)[0] for batch in data]).astype(np.float64)
            for opened in (session(graph), session(pruned))
        )
        by_hand = (
            np.square(got - expected).sum()
            / np.square(expected - expected.mean(axis=0)).sum()
        )
        assert curve.points[0].error == pytest.approx(by_hand, rel=1e-3)


def test_repair_lowers_the_error() -> None:
    graph = residual_net(width=16)
    plain, repaired = (
        pg.sensitivity(
            graph,
            data=batches(6, 32),
            evaluation=batches(1, 64, seed=1),
            ratios=[0.5],
            repair=repair,
            jobs=1,
        )
        for repair in ("none", "least-squares")
    )
    for before, after in zip(plain.curves, repaired.curves, strict=True):
        assert after.points[0].error < before.points[0].error
    assert repaired.repair == "least-squares"


def test_the_file() -> None:
    graph = residual_net(width=16)
    result = pg.sensitivity(
        graph, data=batches(1), metric="agreement", ratios=[0.5], algorithm="l1", jobs=1
    )
    content = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert content["format"] == "prunegraph/sensitivity@1"
    assert content["model"] == {"name": "model", "sha256": graph.sha256}
    assert (content["metric"], content["original"], content["algorithm"]) == (
        "agreement",
        100.0,
        "l1",
    )
    assert content["groups"][0].keys() == {"id", "layers", "channels", "points"}
    assert content["groups"][0]["points"][0].keys() == {
        "ratio",
        "removed",
        "macs",
        "params",
        "error",
    }


def test_metrics_of_ones_own_and_processes() -> None:
    graph = residual_net(width=16)

    def brightness(
        outputs: Sequence[Mapping[str, Array]], inputs: Sequence[Mapping[str, Array]]
    ) -> float:
        assert [batch["x"].shape[0] for batch in inputs] == [
            len(next(iter(o.values()))) for o in outputs
        ]
        return -sum(float(np.square(next(iter(each.values()))).sum()) for each in outputs)

    here, there = (
        pg.sensitivity(
            graph,
            data=batches(1),
            metric=brightness,
            ratios=[0.5],
            algorithm="l2",
            jobs=jobs,
        ).to_json()
        for jobs in (1, 2)
    )
    assert here == there
    assert here["metric"] == "brightness"
    assert here["original"] < 0


def test_outputs_that_are_no_numbers_are_a_finite_error() -> None:
    b = Builder()
    x = b.relu(b.conv(b.input("n", 3, 8, 8), 3, 16, name="a"))
    pooled = b.op("Flatten", b.op("GlobalAveragePool", x))
    # Without the channels it is 0 / 0.
    total = b.op("ReduceSum", pooled, b.const([1], np.int64), keepdims=1)
    graph = b.graph(b.linear(b.op("Div", total, total), 1, 5))
    weight = graph.weights[graph.node("a").inputs[1]].read().copy()
    weight[8:] = 0
    for tensor in graph.model.graph.initializer:
        if tensor.name == graph.node("a").inputs[1]:
            tensor.raw_data = weight.tobytes()
        if tensor.name == graph.node("a").inputs[2]:
            tensor.raw_data = np.r_[np.ones(8), -np.ones(8)].astype(np.float32).tobytes()

    @pg.criterion("test_first_last")
    def first_last(group: object, context: object) -> Array:
        return np.arange(group.channels, dtype=float)  # type: ignore[attr-defined]

    result = pg.sensitivity(
        pg.load(graph.model),
        data=batches(1),
        algorithm="test_first_last",
        ratios=[0.25, 0.5],
        jobs=1,
    )
    first, last = by_layer(result, "a")
    assert first < 1e-9
    assert last > 1e30 and math.isfinite(last)


# -- search ---------------------------------------------------------------------------------


class Network:
    """Stands for workers: the metric falls off a cliff when too many MACs go."""

    width = 2

    def __init__(self, coupling: pg.Coupling, cliff: float):
        self.meter, self.cliff = Meter(coupling), cliff
        self.measured = 0

    def map(self, items: Sequence[tuple[tuple[str, tuple[int, ...]], ...]]) -> list[float]:
        self.measured += len(items)
        kept = [
            self.meter.measure(dict(item)).macs / self.meter.original.macs for item in items
        ]
        return [93.0 if share >= 1 - self.cliff - 1e-9 else 40.0 for share in kept]


def synthetic(
    cliff: float, min_channels: int = 1, **goal: object
) -> tuple[SearchTrace, Network, Ranking]:
    coupling = pg.analyze(residual_net(width=64))
    network = Network(coupling, cliff)
    ranking = rank(
        coupling,
        SelectionOptions(
            budget=pg.Budget(ratio=0.5),
            round_to=1,
            algorithm="l2",
            min_channels=min_channels,
        ),
    )
    trials = Trials(network, METRICS["top1"], 93.0)  # type: ignore[arg-type]
    return find(trials, ranking, Goal(0.5, **goal), lambda text: None), network, ranking  # type: ignore[arg-type]


@pytest.mark.parametrize("cliff", [0.04, 0.33, 0.5, 0.72])
def test_grid_and_bisection_stop_before_the_cliff(cliff: float) -> None:
    grid, _, ranking = synthetic(cliff)
    bisected, network, _ = synthetic(cliff, method="bisection")

    def kept(strength: int) -> float:
        return (
            network.meter.measure(ranking.plan(Goal(0.5).budget(strength)).remove).macs
            / network.meter.original.macs
        )

    # A bound may be undershot: the last strength whose plan does not go over the cliff.
    last = max(strength for strength in range(1, 100) if kept(strength) >= 1 - cliff)
    assert grid.best.strength == bisected.best.strength == last
    assert bisected.best == grid.best
    assert bisected.plan.remove == grid.plan.remove
    assert len(bisected.candidates) <= 8
    assert network.measured >= len(bisected.candidates) - 1
    assert grid.plan.provenance["search"]["strength"] == last / 100
    assert grid.plan.provenance["budget"] == {"macs": (100 - last) / 100}


def test_stages_go_further_where_there_is_room() -> None:
    plain, _, _ = synthetic(0.335, by="ratio")
    staged, _, _ = synthetic(0.335, by="ratio", stages=True)
    assert staged.best.accepted
    assert staged.best.offsets
    assert staged.best.cost.macs < plain.best.cost.macs
    # The candidates of the second grid fall in savings, and the first that is accepted ends it.
    second = [each for each in staged.candidates if each.offsets]
    assert [each.accepted for each in second] == [False] * (len(second) - 1) + [True]
    assert [each.cost.macs for each in second] == sorted(each.cost.macs for each in second)


def test_stages_are_told_apart_by_spatial_size() -> None:
    coupling = pg.analyze(pg.load(MODEL))
    parts = stages.stages(coupling)
    assert [len(part) for part in parts] == [3, 3, 3]
    assert [part[0].layers[0].split(".")[0] for part in parts] == [
        "/stem/stem",
        "/stages/stages",
        "/stages/stages",
    ]
    assert sorted(g.id for part in parts for g in part) == sorted(
        g.id for g in coupling.groups
    )
    b = Builder()
    x = b.input("n", 8)
    for i in range(6):
        x = b.relu(b.linear(x, 8 if not i else 16, 16, name=f"fc{i}"))
    parts = stages.stages(pg.analyze(b.graph(b.linear(x, 16, 4))))
    assert [[group.layers[0] for group in part] for part in parts] == [
        ["fc0", "fc1"],
        ["fc2", "fc3"],
        ["fc4", "fc5"],
    ]


def test_many_sizes_become_at_most_four_stages() -> None:
    b = Builder()
    x, c = b.input("n", 3, 64, 64), 3
    for i in range(6):
        x, c = b.relu(b.conv(x, c, 8, name=f"conv{i}", strides=[2, 2] if i else [1, 1])), 8
    parts = stages.stages(pg.analyze(b.graph(b.head(x, 8))))
    assert len(parts) == stages.MOST
    assert [group.layers[0] for part in parts for group in part] == [
        f"conv{i}" for i in range(6)
    ]


def test_nothing_within_the_tolerance_is_an_error() -> None:
    with pytest.raises(
        BudgetError,
        match=r"no cut stays within the tolerance of 0.5: top1 is worse by 53 at strength",
    ):
        synthetic(0.0)


def test_strengths_out_of_reach_are_no_candidates() -> None:
    match, _, _ = synthetic(1.0, min_channels=16)
    unmet = [each for each in match.candidates if each.cost is None]
    assert unmet
    assert not any(each.accepted for each in unmet)
    assert match.best.strength == max(
        each.strength for each in match.candidates if each.cost is not None
    )


def test_search_prunes_proves_and_writes(tmp_path: Path) -> None:
    graph = residual_net(width=16)
    done = pg.search(
        graph,
        tmp_path / "small.onnx",
        data=batches(4, 32),
        evaluation=batches(1, 64, seed=1),
        metric="error",
        tolerance=0.05,
        round_to=1,
        save_plan=tmp_path / "plan.json",
        jobs=1,
    )
    assert done.result.proof is not None
    assert done.trace.best.loss <= 0.05
    kept = cost(pg.load(tmp_path / "small.onnx")).macs / done.result.before.macs
    assert kept <= 1 - done.trace.best.strength / 100
    assert pg.Plan.load(tmp_path / "plan.json") == done.result.plan
    content = json.loads(json.dumps(done.trace.to_json("model.onnx"), allow_nan=False))
    assert content["format"] == "prunegraph/search@1"
    assert content["best"]["accepted"] and content["tolerance"] == 0.05
    # What was written is what was measured.
    [again] = [each for each in done.trace.candidates if each == done.trace.best]
    x = batches(1, 64, seed=1)[0]
    expected, got = (
        run(session(each), x)[0].astype(np.float64) for each in (graph, done.result.model)
    )
    assert again.value == pytest.approx(
        np.square(got - expected).sum() / np.square(expected - expected.mean(axis=0)).sum(),
        rel=0.05,
    )


def test_processes_find_what_one_process_finds() -> None:
    graph = residual_net(width=16)
    options = {
        "data": batches(),
        "metric": "error",
        "tolerance": 0.3,
        "round_to": 1,
        "repair": "none",
        "stages": True,
    }
    alone, together = (pg.search(graph, jobs=jobs, **options) for jobs in (1, 2))
    assert alone.trace == together.trace


def test_fashion_network_is_searched_and_keeps_its_accuracy() -> None:
    """Bisection by top-1 on 1,000 labelled images; the repair sees 64 unlabelled ones."""
    images = np.load(FIXTURES / "fashion_calibration.npz")["image"]
    done = pg.search(
        MODEL,
        data=[{"image": images[:64]}],
        evaluation=read_data(str(FIXTURES / "fashion_eval.npz")),
        tolerance=1.0,
        method="bisection",
        round_to=1,
        algorithm="l2",
    )
    assert done.trace.metric == "top1"
    assert done.trace.original == 94.6
    assert done.trace.best.value >= 93.6
    assert len(done.trace.candidates) <= 8
    assert done.result.proof is not None
    assert done.result.after.macs < 0.6 * done.result.before.macs
    result = pg.compare(
        done.result.original,
        done.result.model,
        data=read_data(str(FIXTURES / "fashion_eval.npz")),
        runs=1,
    )
    assert result.accuracy is not None
    assert 100 * result.accuracy[1] == pytest.approx(done.trace.best.value, abs=0.25)


# -- allocation -----------------------------------------------------------------------------


def test_the_allocation_by_sensitivity_spares_what_is_vital() -> None:
    graph = dead_and_vital()
    plan = pg.select(
        graph,
        data=batches(),
        algorithm="l2",
        allocation="sensitivity",
        budget=pg.Budget(macs=0.5),
        round_to=1,
    )
    pruned = pg.apply(graph, plan)
    assert cost(pruned).macs <= 0.5 * cost(graph).macs
    assert pruned.node("vital").channels.outputs == 16
    assert pruned.node("dead").channels.outputs < 12
    assert plan.provenance["allocation"] == "sensitivity"
    with pytest.raises(DataError, match="allocation 'sensitivity' needs data"):
        pg.select(graph, allocation="sensitivity", budget=pg.Budget(macs=0.5))


# -- bad requests ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        (
            {"tolerance": -1.0},
            BudgetError,
            "tolerance must be a number of at least 0, got -1",
        ),
        (
            {"tolerance": math.nan},
            BudgetError,
            "tolerance must be a number of at least 0, got nan",
        ),
        ({"metric": "accuracy"}, UnknownNameError, "unknown metric 'accuracy'"),
        ({"metric": "top1"}, DataError, "metric 'top1' needs labels"),
        ({"metric": "none.py:f"}, PluginError, "none.py:f"),
        (
            {"metric": lambda outputs, batches: math.nan},
            DataError,
            "metric '<lambda>' of the original is nan",
        ),
        ({"method": "binary"}, UnknownNameError, "unknown search method 'binary'"),
        ({"by": "latency!"}, UnknownNameError, "unknown measure of strength"),
        ({"repair": "magic"}, UnknownNameError, "unknown repair"),
        ({"algorithm": "l3"}, UnknownNameError, "unknown algorithm 'l3'"),
        ({"keep": ["nowhere"]}, UnknownNameError, "unknown layer 'nowhere'"),
        (
            {"data": [{"y": np.zeros((2, 3), np.float32)}]},
            DataError,
            "no array for model input 'x'",
        ),
        ({"out": "missing/out.onnx"}, ModelError, "does not exist"),
    ],
)
def test_bad_searches(
    options: dict[str, object], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        pg.search(
            residual_net(), **{"data": batches(1), "tolerance": 1.0, "jobs": 1, **options}
        )  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "ratios", [[], [0.5, 0.25], [0.0, 0.5], [0.5, 1.0], [0.5, 0.5], [math.nan]]
)
def test_bad_ratios(ratios: list[float]) -> None:
    with pytest.raises(BudgetError, match="ratios must rise"):
        pg.sensitivity(residual_net(), data=batches(1), ratios=ratios, jobs=1)


def test_a_worker_that_sees_other_groups_refuses(tmp_path: Path) -> None:
    """Rules registered in one process only would make group ids mean something else in another."""
    data = Data.of(batches(1))
    _write(Study(pg.analyze(residual_net()), data, data, "error"), tmp_path)
    content = pickle.loads((tmp_path / STUDY).read_bytes())
    assert Evaluator(tmp_path)(()) == 0
    (tmp_path / STUDY).write_bytes(pickle.dumps({**content, "groups": "others"}))
    with pytest.raises(ModelError, match="a worker finds other groups"):
        Evaluator(tmp_path)


def test_a_fixed_batch_size_and_labels_that_are_left_over() -> None:
    b = Builder()
    x = b.relu(b.conv(b.input(4, 3, 8, 8), 3, 16, name="a"))
    graph = b.graph(b.head(x, 16))
    data = {"x": batches(1, 10)[0]["x"], "labels": np.zeros(10, np.int64)}
    result = pg.sensitivity(graph, data=data, metric="top1", ratios=[0.5], jobs=1)
    assert result.original % 12.5 == 0
    with pytest.raises(DataError, match="fewer samples than the model's batch size"):
        pg.sensitivity(graph, data={"x": data["x"][:3]}, algorithm="l2", jobs=1)

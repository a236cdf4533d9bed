"""Where models run: any runtime that is registered is measured in, compared in, and opens what is written."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from click.testing import CliRunner

import prunegraph as pg
from prunegraph import studies
from prunegraph.cli import main
from prunegraph.errors import MissingExtraError, ModelError, UnknownNameError
from prunegraph.runtime import openvino_runtime
from prunegraph.runtime.engine import RUNTIMES, Inputs, OpenModel
from prunegraph.runtime.runtimes import OnnxRuntime, find
from prunegraph.runtime.session import default_threads
from prunegraph.selection.budget import Budget
from tests.builders import residual_net
from tests.latency.counting import count_instead_of_time
from tests.runtime.budgets import pruned_in


class Abacus:
    """ONNX Runtime by another name, which notes what it is asked for, and can be told to fail."""

    name: ClassVar[str] = "abacus"
    title: ClassVar[str] = "Abacus"
    opened: ClassVar[list[str]] = []
    fault: ClassVar[str] = ""

    def __init__(self, provider: str | None = None, threads: int = 1):
        self.provider, self.threads = provider or "wood", threads
        self._real = OnnxRuntime(threads=threads)

    def open(self, model: pg.Graph | Path, name: str = "model") -> OpenModel:
        self.opened.append(name)
        if self.fault == "open":
            raise ModelError(f"{name}: Abacus cannot load it")
        return Beads(self._real.open(model, name), self.fault)

    def environment(self) -> dict[str, str]:
        return {"abacus": "1", "threads": str(self.threads)}

    @property
    def is_one_thread(self) -> bool:
        return False


class Beads:
    def __init__(self, model: OpenModel, fault: str):
        self.model, self.fault = model, fault

    def run(self, inputs: Inputs) -> list[np.ndarray]:
        if self.fault == "run":
            raise ModelError("Abacus cannot run the model")
        return [
            array * 2 if self.fault == "values" else array
            for array in self.model.run(inputs)
        ]


@pytest.fixture
def abacus(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Abacus]]:
    monkeypatch.setattr(Abacus, "opened", [])
    RUNTIMES.register("abacus")(Abacus)
    yield Abacus
    del RUNTIMES._entries["abacus"]


def fail(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    monkeypatch.setattr(Abacus, "fault", fault)


def test_runtimes_by_name() -> None:
    assert find().name == "onnxruntime"
    assert (find(threads=3).threads, find().provider) == (3, "CPUExecutionProvider")
    with pytest.raises(
        UnknownNameError, match="runtime 'openvin', did you mean 'openvino'"
    ):
        find("openvin")


def test_figures_of_onnx_runtime_are_kept_as_before() -> None:
    """A cache of layer times goes on to be found."""
    import onnxruntime

    assert OnnxRuntime(threads=2).environment() == {
        "onnxruntime": onnxruntime.__version__,
        "provider": "CPUExecutionProvider",
        "threads": "2",
    }


def test_a_latency_budget_is_met_in_the_runtime_that_is_asked_for(
    abacus: type[Abacus], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = tmp_path / "small.onnx"
    result = pruned_in("abacus", out, monkeypatch)
    assert result.latency.provider == "wood"
    assert result.plan.provenance["runtime"] == "abacus"
    assert result.plan.provenance["latency"]["runtime"] == "abacus"
    assert str(out) in abacus.opened  # and the written file
    cached = json.loads(next((tmp_path / "cache").iterdir()).read_text())
    assert cached["environment"]["abacus"] == "1"


def test_plans_of_onnx_runtime_are_written_as_before(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    count_instead_of_time(monkeypatch)
    monkeypatch.setenv("PRUNEGRAPH_CACHE", str(tmp_path / "cache"))
    budget = Budget(latency=0.6)
    plan = pg.prune(residual_net(width=32), budget=budget, round_to=1).plan
    assert "runtime" not in plan.provenance
    assert "runtime" not in plan.provenance["latency"]


def test_models_are_compared_in_the_runtime(abacus: type[Abacus]) -> None:
    graph = residual_net()
    result = pg.compare(graph, graph, runtime="abacus", runs=1)
    assert result.latency.runtime == "abacus"
    assert len(abacus.opened) == 2
    assert all(far == (0, 0) for far in result.differences.values())


def test_candidates_run_in_the_runtime(
    abacus: type[Abacus], monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = residual_net()
    data = np.random.default_rng(0).standard_normal((4, *input_shape(graph)))
    batch = {graph.inputs[0]: data.astype(np.float32)}
    given: dict[str, Any] = {"data": batch, "ratios": [0.5], "jobs": 1}
    plain = studies.sensitivity(graph, **given)
    assert not abacus.opened
    same = studies.sensitivity(graph, **given, runtime="abacus")
    assert same.to_json() == plain.to_json()
    # The original, once for the metric to be held against it, and a candidate for each group.
    assert len(abacus.opened) == 2 + len(pg.analyze(graph).groups)


def test_what_another_runtime_measured_is_not_resumed(
    abacus: type[Abacus], tmp_path: Path
) -> None:
    graph, file = residual_net(), tmp_path / "measured.jsonl"
    data = np.random.default_rng(0).standard_normal((4, *input_shape(graph)))
    given: dict[str, Any] = {
        "data": {graph.inputs[0]: data.astype(np.float32)},
        "ratios": [0.5],
        "jobs": 1,
        "resume": file,
    }
    studies.sensitivity(graph, **given)
    groups = len(pg.analyze(graph).groups)
    for opened in (2 + groups, 2):  # then its own figures are there
        abacus.opened.clear()
        studies.sensitivity(graph, **given, runtime="abacus")
        assert len(abacus.opened) == opened


def input_shape(graph: pg.Graph) -> tuple[int, ...]:
    declared = graph.model.graph.input[0].type.tensor_type.shape.dim
    return tuple(each.dim_value for each in declared[1:])


@pytest.mark.parametrize("fault", ["open", "run"])
def test_a_file_that_the_runtime_does_not_run_is_not_written(
    abacus: type[Abacus], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fault: str
) -> None:
    fail(monkeypatch, fault)
    out = tmp_path / "small.onnx"
    with pytest.raises(ModelError, match=r"Abacus cannot .*nothing was written"):
        pg.prune(residual_net(), out, budget=Budget(ratio=0.5), runtime="abacus")
    assert not list(tmp_path.iterdir())
    pg.prune(residual_net(), out, budget=Budget(ratio=0.5))
    assert out.exists()


def test_outputs_that_are_far_away_in_the_runtime_are_told(
    abacus: type[Abacus],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    fail(monkeypatch, "values")
    with caplog.at_level(logging.WARNING):
        pg.save(
            pg.apply(*halved()),
            tmp_path / "small.onnx",
            runtime="abacus",
        )
    assert "Abacus computes something else than ONNX Runtime" in caplog.text
    assert "differs by 1 of its largest value" in caplog.text


def halved() -> tuple[pg.Graph, pg.Plan]:
    graph = residual_net()
    return graph, pg.select(graph, budget=Budget(ratio=0.5))


def test_a_runtime_that_is_not_installed_is_said_before_the_work(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    openvino_runtime._core.cache_clear()
    with pytest.raises(MissingExtraError, match=r"pip install 'prunegraph\[openvino\]'"):
        find("openvino")
    model = tmp_path / "model.onnx"
    pg.save(residual_net(), model)
    for words in (
        f"prune {model} -o {tmp_path}/out.onnx --macs 0.5 --runtime openvino",
        f"compare {model} {model} --runtime openvino",
        f"quantize {model} -o {tmp_path}/out.onnx --activations none --runtime openvino",
        f"decompose {model} -o {tmp_path}/out.onnx --runtime openvino",
    ):
        done = CliRunner().invoke(main, words.split())
        assert done.exit_code == 2, words
        assert done.stderr.strip().splitlines() == [
            "error: runtime 'openvino' needs the package openvino: pip install 'prunegraph[openvino]'"
        ]
    assert [each.name for each in tmp_path.iterdir()] == ["model.onnx"]


def test_threads_of_work_side_by_side_hold_for_every_runtime() -> None:
    from prunegraph.runtime.session import asked_threads

    with default_threads(1):
        assert (asked_threads(0), asked_threads(3)) == (1, 3)
    assert asked_threads(0) == 0

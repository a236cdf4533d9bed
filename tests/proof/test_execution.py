"""One pipeline: what breaks a proof stays whole wherever channels are cut."""

from __future__ import annotations

import numpy as np
import pytest

import prunegraph as pg
from prunegraph import execution
from prunegraph.errors import ExactnessError
from prunegraph.execution import PROOF_SAMPLES, ExecutionOptions, execute
from prunegraph.graph.model import Graph
from prunegraph.proof.result import Proof
from prunegraph.recovery import repairs
from prunegraph.runtime.data import Data
from prunegraph.selection.plan import Plan
from tests.builders import residual_net


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A proof that fails with the group g0; the samples that every proof saw."""
    right, seen = execution.verify, []

    def verify(model: Graph, plan: Plan, pruned: Graph, **options: object) -> Proof:
        seen.append(sum(len(batch["x"]) for batch in options["data"]))
        if "g0" in plan.remove:
            raise ExactnessError("no")
        return right(model, plan, pruned, **options)

    monkeypatch.setattr(execution, "verify", verify)
    return seen


def images(count: int = 40) -> Data:
    x = np.random.default_rng(0).standard_normal((count, 3, 8, 8)).astype(np.float32)
    return Data.of({"x": x})


def options(
    graph: Graph, data: Data | None, name: str, **other: object
) -> ExecutionOptions:
    return ExecutionOptions(repairs.find(name, data, graph), **other)  # type: ignore[arg-type]


def test_what_breaks_the_proof_stays_whole(broken: list[int]) -> None:
    graph = residual_net()
    plan = pg.select(graph, budget=pg.Budget(ratio=0.5), round_to=1)
    data = images()
    done = execute(pg.analyze(graph), plan, data, options(graph, data, "least-squares"))
    assert done.left_out == ("g0",) and "g0" not in done.plan.remove
    assert done.survivors.coupling.graph is graph
    assert done.model is not done.pruned
    assert broken and set(broken) == {PROOF_SAMPLES}


def test_a_plan_that_is_wanted_whole_raises(broken: list[int]) -> None:
    graph = residual_net()
    plan = pg.select(graph, budget=pg.Budget(ratio=0.5), round_to=1)
    with pytest.raises(ExactnessError, match=r"^no$"):
        execute(pg.analyze(graph), plan, None, options(graph, None, "none", whole=True))
    assert len(broken) == 1


def test_without_a_proof_nothing_is_proved(broken: list[int]) -> None:
    graph = residual_net()
    plan = pg.select(graph, budget=pg.Budget(ratio=0.5), round_to=1)
    how = options(graph, None, "none", verify=False)
    done = execute(pg.analyze(graph), plan, None, how)
    assert done.proof is None and "g0" in done.plan.remove and not broken


@pytest.mark.parametrize(
    ("repair", "order"),
    [("least-squares", ["decomposed", "repaired"]), ("bn", ["repaired", "decomposed"])],
)
def test_a_repair_that_refits_goes_last(repair: str, order: list[str]) -> None:
    graph, seen = residual_net(), []
    plan = pg.select(graph, budget=pg.Budget(ratio=0.5), round_to=1)

    def repaired(survivors: object, pruned: Graph, *others: object) -> Graph:
        seen.append("repaired")
        return pruned

    def decomposed(pruned: Graph, data: Data | None) -> pg.DecomposeResult:
        seen.append("decomposed")
        return pg.decompose(pruned, rank="ratio:0.5", round_to=1)

    how = ExecutionOptions(repairs.BoundRepair(repair, repaired))
    done = execute(pg.analyze(graph), plan, None, how, decomposed)
    assert seen == order and done.decomposed is not None


def test_training_leaves_out_what_breaks_the_proof(broken: list[int]) -> None:
    pytest.importorskip("torch", reason="the extra [torch] is not installed")
    from prunegraph.training.compression import Compression
    from prunegraph.training.prune_stage import Pruning

    graph, data = residual_net(), images()
    said: list[str] = []
    how = Compression(data, "l2", "uniform", round_to=1, progress=said.append)
    done = how.to_budget(graph, pg.Budget(ratio=0.5))
    assert done.left_out == ("g0",) and "g0" not in done.plan.remove
    assert said[-1].endswith("removed; the proof failed with g0: left whole")
    pruning = Pruning("l2", "uniform", round_to=1)
    result = pruning(graph, pg.Budget(ratio=0.5), data, None, 0)
    assert result.left_out == ("g0",)


def test_a_stage_of_training_says_what_was_left_out(broken: list[int]) -> None:
    pytest.importorskip("torch", reason="the extra [torch] is not installed")
    from prunegraph.training import TrainingConfig, train
    from tests.training.test_joint import setting

    how = setting(budget=pg.Budget(ratio=0.5), recipe=TrainingConfig(epochs=1, lr=0.01))
    done = train(residual_net(width=16), how, "cycles:steps=1,round_to=1")
    [record] = [each for each in done.history if each["stage"] == "prune"]
    assert record["left_out"] == ["g0"]
    assert "the proof failed with g0: left whole" in done.notes

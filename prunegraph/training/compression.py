"""Fast compression without fine-tuning: a trained graph cut to a budget, or as far as a tolerance allows.

The grid search is that of `prunegraph.tuning` (source 001, ALGORITHMS 2.5); candidates are measured by a training's
own `evaluate`, in this process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from prunegraph.coupling.analysis import analyze
from prunegraph.coupling.coupling import Coupling
from prunegraph.coupling.survivors import Survivors
from prunegraph.execution import ExecutionOptions, execute
from prunegraph.graph.model import Graph
from prunegraph.measuring.metrics import Metric
from prunegraph.recovery import repairs
from prunegraph.recovery.repairs import BoundRepair
from prunegraph.rewriting.cut import cut
from prunegraph.runtime.data import Data
from prunegraph.runtime.statistics import Statistics
from prunegraph.selection.budget import Budget
from prunegraph.selection.options import SelectionOptions
from prunegraph.selection.plan import Plan
from prunegraph.selection.select import Ranking, rank
from prunegraph.training.fit import Evaluate
from prunegraph.training.module import GraphModule
from prunegraph.training.slack import without_slack
from prunegraph.tuning.evaluation import Trials
from prunegraph.tuning.resume import Key
from prunegraph.tuning.search import Goal, SearchTrace, find

Progress = Callable[[str], None]


@dataclass(frozen=True)
class CompressionResult:
    """A pruned graph, its plan, channels of all groups before and after, and how the search went, if there was one."""

    model: Graph
    plan: Plan
    channels: tuple[int, int]
    search: SearchTrace | None = None
    left_out: tuple[str, ...] = ()

    def __str__(self) -> str:
        before, after = self.channels
        text = f"{before - after} of {before} channels in groups removed"
        broken = ", ".join(self.left_out)
        return f"{text}; the proof failed with {broken}: left whole" if broken else text


@dataclass(frozen=True)
class Compression:
    """How graphs are compressed.

    Args:
        data: unlabelled inputs, for proof, repair, and criteria that need them.
        algorithm: ranks channels; with options, as in "gfr:p=1,q=0".
        allocation: shares the budget among groups.
        round_to: kept channels are a multiple of this, where a group is wide enough.
        repair: of every candidate and of the result.
        needs_data: whether the algorithm looks at data.
        seed: of what is random.
        progress: told what is being done.
    """

    data: Data
    algorithm: str
    allocation: str = "global:mean"
    round_to: int = 8
    repair: str = "bn"
    needs_data: bool = False
    seed: int = 0
    progress: Progress = lambda stage: None

    def to_budget(self, graph: Graph, budget: Budget) -> CompressionResult:
        """The graph within a budget.

        Raises:
            BudgetError: the budget cannot be met, or the algorithm does not apply.
            ExactnessError: no part of the cut holds in the proof.
            PrunegraphError: a name, an option or the data do not fit.
        """
        ranked = self._ranked(graph, budget)
        return self._finished(ranked.coupling, without_slack(ranked, budget))

    def to_tolerance(
        self,
        graph: Graph,
        tolerance: float,
        evaluate: Evaluate,
        *,
        method: str = "grid",
        by: str = "ratio",
        stages: bool = False,
        device: str | None = None,
    ) -> CompressionResult:
        """The largest cut whose metric is at most `tolerance` below the graph's own.

        Args:
            graph: what is cut.
            tolerance: in the metric's unit.
            evaluate: the metric, larger is better.
            method: "grid" or "bisection"; see `prunegraph.tuning.strength`.
            by: what a strength is the share of that goes: "ratio" for channels of all groups together, "macs",
                "params" or "bytes".
            stages: whether parts of the network are then pruned a little more or less.
            device: where candidates are measured.

        Raises:
            BudgetError: no cut stays within the tolerance.
            PrunegraphError: what `to_budget` raises.
        """
        goal = Goal(tolerance, method, by, stages)
        ranked = self._ranked(graph, goal.budget(1))
        measured = _Measured(ranked.coupling, self, evaluate, device)
        metric = Metric("evaluation", lambda seen: 0.0, True)
        trials = Trials(measured, metric, measured.value(graph))
        match = find(trials, ranked, goal, self.progress)
        return self._finished(ranked.coupling, match.plan, match)

    def bound_repair(self, graph: Graph) -> BoundRepair:
        """The repair of what is cut from a graph."""
        return repairs.find(self.repair, self.data, graph)

    def _ranked(self, graph: Graph, budget: Budget) -> Ranking:
        choice = SelectionOptions(
            budget, self.algorithm, self.allocation, self.round_to, seed=self.seed
        )
        return rank(
            analyze(graph),
            choice,
            Statistics(graph, self.data) if self.needs_data else None,
        )

    def _finished(
        self, coupling: Coupling, plan: Plan, search: SearchTrace | None = None
    ) -> CompressionResult:
        """Cut, prove, repair."""
        how = ExecutionOptions(self.bound_repair(coupling.graph))
        done = execute(coupling, plan, self.data, how)
        total = sum(group.channels for group in coupling.groups)
        gone = sum(len(channels) for channels in done.plan.remove.values())
        created = CompressionResult(
            done.model, done.plan, (total, total - gone), search, done.left_out
        )
        self.progress(str(created))
        return created


class _Measured:
    """Measures candidates one at a time; a pool of one worker to `Trials`."""

    width = 1

    def __init__(
        self, coupling: Coupling, how: Compression, evaluate: Evaluate, device: str | None
    ):
        self.coupling, self.data = coupling, how.data
        self.repair = how.bound_repair(coupling.graph)
        self.evaluate, self.device = evaluate, device

    def map(self, items: Sequence[Key]) -> Iterator[Any]:
        for key in items:
            survivors = Survivors(self.coupling, dict(key))
            pruned = cut(survivors)
            yield self.value(self.repair(survivors, pruned, self.data, lambda stage: None))

    def value(self, graph: Graph) -> float:
        """The metric of a graph."""
        module = GraphModule(graph).eval()
        with torch.no_grad():
            return float(self.evaluate(module.to(self.device) if self.device else module))

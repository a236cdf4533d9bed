"""Pruning as a stage of training: select, cut, prove and repair, and rounds of that with training in between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from prunegraph.coupling.analysis import analyze
from prunegraph.errors import BudgetError, OptionError
from prunegraph.execution import ExecutionOptions, ExecutionResult, execute
from prunegraph.graph.model import Graph
from prunegraph.ops.cost import Cost, cost
from prunegraph.options import base_name, bound
from prunegraph.recovery import repairs
from prunegraph.runtime.data import Data
from prunegraph.runtime.statistics import Statistics
from prunegraph.selection.allocation import ALLOCATIONS
from prunegraph.selection.budget import Budget
from prunegraph.selection.criteria.base import CRITERIA, Gradients
from prunegraph.selection.options import SelectionOptions
from prunegraph.selection.select import select
from prunegraph.selection.selectors import SELECTORS
from prunegraph.selection.units import Limits
from prunegraph.training.fit import TrainingConfig
from prunegraph.training.gradients import TaskGradients
from prunegraph.training.methods import TrainingOptions, TrainResult
from prunegraph.training.module import GraphModule


@dataclass(frozen=True)
class Pruning:
    """How channels are chosen and what is left is repaired; see `SelectionOptions` and `prunegraph.recovery.repairs`.

    `samples` are those on which statistics and gradients are taken; an empty `allocation` is the criterion's default.
    """

    algorithm: str
    allocation: str = ""
    repair: str = "least-squares"
    round_to: int = 8
    min_channels: int = 1
    samples: int = 512

    def check(self, graph: Graph, data: Data) -> None:
        """Raise before the work what can be known then: UnknownNameError, OptionError, BudgetError, DataError."""
        repairs.find(self.repair, data, graph)
        if base_name(self.algorithm) in SELECTORS:
            bound(SELECTORS, self.algorithm)
        else:
            bound(CRITERIA, self.algorithm)
        if self.allocation:
            bound(ALLOCATIONS, self.allocation)
        Limits(self.round_to, self.min_channels)

    def __call__(
        self,
        graph: Graph,
        budget: Budget,
        data: Data,
        gradients: Gradients | None,
        seed: int,
    ) -> ExecutionResult:
        """Select, cut, prove and repair. Raises what `prunegraph.prune` raises."""
        choice = SelectionOptions(
            budget=budget,
            algorithm=self.algorithm,
            allocation=self.allocation or None,
            round_to=self.round_to,
            min_channels=self.min_channels,
            seed=seed,
        )
        how = ExecutionOptions(repairs.find(self.repair, data, graph), seed=seed)
        coupling = analyze(graph)
        plan = select(coupling, choice, Statistics(graph, data), gradients)
        return execute(coupling, plan, data, how)


def budgets(
    setting: TrainingOptions, *, macs: float = 0.0, params: float = 0.0
) -> tuple[Budget, ...]:
    """The setting's budget and further bounds (0: none), all of which have to be met.

    Raises:
        BudgetError: there is none, one is out of range, or the setting's budget is a latency or "auto".
    """
    given = [setting.budget] if setting.budget is not None else []
    given += [
        Budget(**{kind: amount})
        for kind, amount in (("macs", macs), ("params", params))
        if amount
    ]
    if not given:
        raise BudgetError(
            "there is no budget to prune to: give --macs, --params or --ratio"
        )
    for budget in given:
        if budget.latency is not None or budget.ratio == "auto":
            raise BudgetError(
                "a method that trains prunes to a bound on macs or params, or by a ratio: "
                f"it cannot prune to {budget.kind} {getattr(budget, budget.kind)}"
            )
    return tuple(given)


def check_counts(rounds: int, **epochs: int) -> None:
    """Raise OptionError before the work for a number of rounds or epochs that cannot be."""
    if rounds < 1:
        raise OptionError(f"rounds must be at least 1, got {rounds}")
    for name, count in epochs.items():
        if count < 0:
            raise OptionError(f"{name} must be at least 0, got {count}")


def rounds_of(
    done: TrainResult,
    setting: TrainingOptions,
    bounds: Sequence[Budget],
    pruning: Pruning,
    recipe: TrainingConfig,
    rounds: int,
) -> TrainResult:
    """Prune and train in turns; what is left falls by the same factor every time, to the budgets at the last.

    Args:
        done: what came before.
        setting: data, loss and metric.
        bounds: budgets, relative to the graph as it is now.
        pruning: how to choose.
        recipe: of the training after each round.
        rounds: how many.

    Raises:
        BudgetError: a budget cannot be met.
    """
    original, data = (
        cost(done.model),
        sampled(setting.data, pruning.samples, setting.recipe.seed),
    )
    for turn in range(1, rounds + 1):
        number = str(turn) if rounds > 1 else ""
        setting.progress(f"prune{number}")
        left_out: list[str] = []
        for budget in bounds:
            target = _part(budget, original, turn, rounds)
            if not _is_met(target, done.model):
                gradients = task_gradients(done.model, data, setting)
                result = pruning(done.model, target, data, gradients, setting.recipe.seed)
                left_out += result.left_out
                done = replace(done, model=result.model)
        record = pruned(f"prune{number}", done.model, setting)
        if left_out:
            record["left_out"] = left_out
            done = done.with_note(_left_out(left_out))
        done = tuned(done.with_record(record), setting, recipe, f"tune{number}")
    if cost(done.model) == original and any(budget.ratio for budget in bounds):
        return done.with_note(
            f"nothing was removed: kept channels are a multiple of {pruning.round_to} (round_to), and no round removes "
            "as many"
        )
    return done


def tuned(
    done: TrainResult, setting: TrainingOptions, recipe: TrainingConfig, stage: str
) -> TrainResult:
    """Train what was pruned, as a stage of its own. Raises what `fit` raises."""
    module = GraphModule(done.model)
    run = setting.fit(module, stage, recipe=recipe)
    trained = module.cpu().write_back(done.model)
    return replace(done, model=trained).after(stage, run)


def task_gradients(graph: Graph, data: Data, setting: TrainingOptions) -> TaskGradients:
    """Gradients of the setting's loss; nothing is computed before they are asked for."""
    module = GraphModule(graph)
    return TaskGradients(
        module.to(setting.device) if setting.device else module,
        data,
        setting.loss,
        batch=setting.batch,
    )


def pruned(stage: str, graph: Graph, setting: TrainingOptions) -> dict[str, Any]:
    """The record of a stage that prunes."""
    now = cost(graph)
    return {
        "stage": stage,
        "macs": now.macs,
        "params": now.params,
        **measured(graph, setting),
    }


def measured(graph: Graph, setting: TrainingOptions) -> dict[str, float]:
    """The setting's metric of a graph, if it has one."""
    if setting.evaluate is None:
        return {}
    module = GraphModule(graph).to(setting.device).eval()
    return {"metric": float(setting.evaluate(module))}


def sampled(data: Data, count: int, seed: int) -> Data:
    """Some of the samples, drawn without replacement, in their order."""
    return data.draw(count, seed)


def _left_out(groups: Sequence[str]) -> str:
    """Say what a user should know of groups that broke a proof."""
    return f"the proof failed with {', '.join(groups)}: left whole"


def _part(budget: Budget, original: Cost, turn: int, rounds: int) -> Budget:
    """The budget after some of the rounds: the same share of what is left goes in each."""
    if budget.ratio is not None:
        return Budget(ratio=1 - (1 - float(budget.ratio)) ** (1 / rounds))
    whole = float(getattr(original, budget.kind))
    return Budget(
        **{budget.kind: whole * (budget.bound(original) / whole) ** (turn / rounds)}
    )


def _is_met(budget: Budget, graph: Graph) -> bool:
    """Tell whether a graph is within an absolute bound; channels that a ratio removes always have to go."""
    return budget.ratio is None and float(
        getattr(cost(graph), budget.kind)
    ) <= budget.bound(cost(graph))

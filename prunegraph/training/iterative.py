"""The method `cycles`: prune a little, train, and again, by any criterion.

In each of k rounds the same share of what is left goes, so that after round i a bound of B on an original cost of C is
`C * (B / C)^(i / k)`. Criteria that need gradients of the task's loss (`taylor`, `fisher`) get them anew in each round.
Source: Molchanov et al. 2017 (iterative pruning with fine-tuning in between).
"""

from __future__ import annotations

from dataclasses import replace

from prunegraph.graph.model import Graph
from prunegraph.training.methods import METHODS, TrainingOptions, TrainResult
from prunegraph.training.prune_stage import Pruning, budgets, check_counts, rounds_of


@METHODS.register("cycles")
def cycles(
    graph: Graph,
    setting: TrainingOptions,
    *,
    algorithm: str = "l2",
    steps: int = 4,
    epochs: int = 0,
    allocation: str = "",
    repair: str = "least-squares",
    round_to: int = 8,
    min_channels: int = 1,
    samples: int = 512,
    macs: float = 0.0,
    params: float = 0.0,
) -> TrainResult:
    """Prune and train in turns, by any criterion, to the budget.

    Args:
        graph: the model.
        setting: with a budget, or give `macs` or `params`.
        algorithm: a criterion or selector.
        steps: rounds of pruning and training.
        epochs: of training after each; 0 is the recipe's.
        allocation: how the budget is shared among groups; by default the criterion's.
        repair: after each cut.
        round_to: kept channels are a multiple of this.
        min_channels: stay in every group.
        samples: on which statistics and gradients are taken.
        macs: a further bound, a fraction or an amount; 0 is none.
        params: a further bound, likewise.

    Raises:
        PrunegraphError: what `prunegraph.prune` and `fit` raise.
    """
    check_counts(steps, epochs=epochs)
    bounds = budgets(setting, macs=macs, params=params)
    pruning = Pruning(algorithm, allocation, repair, round_to, min_channels, samples)
    pruning.check(graph, setting.data)
    recipe = replace(setting.recipe, epochs=epochs or setting.recipe.epochs)
    return rounds_of(TrainResult(graph), setting, bounds, pruning, recipe, steps)

"""Global feature relationship: sparse training with gates, then fast compression (source 001, ALGORITHMS 2).

Gates behind BatchNormalization learn how much of every channel the network needs while scales shrink
(`Sparsify`). In the last tenth of the training the gates are frozen to their moving averages, the factors; these are
folded into scales and shifts exactly, and kept in the model's metadata. `|scale| * factor` ranks the channels of
the whole network in one list (criterion `gfr`). The graph is cut, and what is left is repaired without gradients. The
source stops there; here a network that was cut to a budget is trained on (`tune`), since shrinking scales on few
samples costs more than the cut by other rules does.

The light form trains the gates alone: the network stays as it is, a penalty `strength * mean of the gates` closes
those that the loss does not miss, and what comes out only ranks channels: nothing is folded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from prunegraph.coupling.analysis import analyze
from prunegraph.errors import BudgetError, OptionError
from prunegraph.graph.model import Graph
from prunegraph.recovery import repairs
from prunegraph.runtime.data import Data
from prunegraph.selection.criteria.factors import Factors, check_exponents, with_factors
from prunegraph.training.compression import Compression
from prunegraph.training.evaluate import measure
from prunegraph.training.fit import Callback, Run
from prunegraph.training.gates import GatedModule, Mode
from prunegraph.training.losses import Batch, Loss, inner_of
from prunegraph.training.methods import METHODS, TrainingOptions, TrainResult
from prunegraph.training.operators.table import Tensor
from prunegraph.training.prune_stage import pruned, tuned
from prunegraph.training.sparse import Sparsify, penalty
from prunegraph.training.unfold import unfold

#: Share of the training after which gates are frozen.
LIVE = 0.9

#: Strength of the light form's penalty where none is given.
LIGHT = 1e-4

#: Samples on which statistics are counted anew.
CALIBRATION = 1024


class FreezeGates(Callback):
    """Freezes the gates of a module after a share of the steps, so that training ends with the network that is kept."""

    def __init__(self, module: GatedModule, steps: int, *, after: float = LIVE):
        self.module, self.last = module, math.ceil(after * steps)

    def after_step(self, run: Run) -> None:
        if run.step + 1 >= self.last and not self.module.frozen:
            self.module.freeze()

    def identity(self) -> object:
        return self.last

    def state_dict(self) -> dict[str, Any]:
        return {"frozen": self.module.frozen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["frozen"]:
            self.module.freeze()


@METHODS.register("gfr")
def gfr(
    graph: Graph,
    setting: TrainingOptions,
    *,
    strength: str | float = "auto",
    light: bool = False,
    mode: Mode = "sample",
    reduction: int = 16,
    momentum: float = 0.9,
    closing: float = 0.0,
    neutral: bool = False,
    p: float = 1.0,
    q: float = 1.0,
    tolerance: float = 0.0,
    repair: str = "least-squares",
    round_to: int = 8,
    allocation: str = "global:mean",
    tune: bool = True,
    tune_epochs: int = 0,
) -> TrainResult:
    """Train gates on channels while scales shrink, fold them, cut to the budget or tolerance, and train on.

    Args:
        graph: what is trained.
        setting: with a budget, the graph is cut to it.
        strength: of the penalty: on scales (see `Sparsify`; "auto" is its relative one), or in the light form on the
            mean of the gates ("auto" is 1e-4).
        light: train the gates alone, and let them only rank channels.
        mode: whether every sample has gates of its own, or the batch's mean counts.
        reduction: channels for one hidden unit of a gate; there are at least 8.
        momentum: of the moving average of the gates.
        closing: strength of a penalty on the gates, beside that on scales; every layer's mean counts the same.
        neutral: gates start at 1 instead of 0.88.
        p: exponent of the scale in the ranking.
        q: exponent of the factor in the ranking.
        tolerance: instead of a budget, how much worse `setting.evaluate` may become: the largest cut on a grid that
            keeps to it; 0 is off. Without `evaluate` the training data are measured.
        repair: after the cut (`prunegraph.recovery`), without gradients or labels: "least-squares", "bn" (statistics of
            BatchNormalization are counted anew, as published) or "absorb".
        round_to: kept channels are a multiple of this.
        allocation: shares the budget among groups; "global:none" compares the scores of all channels as they are.
        tune: train what was cut to a budget; without it there is no fine-tuning, as published. What was cut within a
            tolerance stays as it was measured.
        tune_epochs: of that; 0 is the recipe's.

    Raises:
        OptionError: an option is out of range, or there are a budget and a tolerance.
        UnknownNameError: no such repair.
        BudgetError: the budget cannot be met, or no cut stays within the tolerance.
        DataError: no removable channel has a BatchNormalization, or the data do not fit.
        TrainingError: the loss is not finite, or the checkpoint is of another run.
        ExactnessError: the proof of the cut failed.
    """
    chosen = penalty(strength, "gfr")
    _check(setting, tolerance, closing, p, q)
    repairs.find(repair, setting.data, graph)
    if light and closing:
        raise OptionError(
            "training method 'gfr' with light=true closes gates by 'strength': leave 'closing' out"
        )
    unfolded = unfold(graph, setting.data, seed=setting.recipe.seed)
    module = GatedModule(
        unfolded.graph,
        light=light,
        reduction=reduction,
        momentum=momentum,
        mode=mode,
        neutral=neutral,
        seed=setting.recipe.seed,
    )
    run = (
        _train_gates(module, setting, LIGHT if chosen is None else chosen)
        if light
        else _train_sparse(module, setting, chosen, closing)
    )
    module.cpu()
    trained = with_factors(
        unfolded.graph if light else module.folded(),
        Factors(module.factors(), folded=not light),
    )
    done = TrainResult(trained).after("gfr", run).with_note(unfolded.note)
    if setting.budget is None and not tolerance:
        return done
    how = Compression(
        calibration(setting.data, setting.recipe.seed),
        f"gfr:p={p!r},q={q!r}",
        allocation,
        round_to,
        repair=repair,
        seed=setting.recipe.seed,
        progress=setting.progress,
    )
    if setting.budget is None:
        evaluate = setting.evaluate or measure(setting.data, graph)
        created = how.to_tolerance(trained, tolerance, evaluate, device=setting.device)
        return replace(done, model=unfolded.folded(with_factors(created.model, None)))
    created = how.to_budget(trained, setting.budget)
    done = replace(done, model=with_factors(created.model, None))
    done = done.with_record(pruned("prune", done.model, setting))
    if tune:
        recipe = replace(setting.recipe, epochs=tune_epochs or setting.recipe.epochs)
        done = tuned(done, setting, recipe, "tune")
    return replace(done, model=unfolded.folded(done.model))


def _check(
    setting: TrainingOptions, tolerance: float, closing: float, p: float, q: float
) -> None:
    """Raise for what could only fail after the training."""
    check_exponents("gfr", p, q)
    for name, value in (("tolerance", tolerance), ("closing", closing)):
        if not (math.isfinite(value) and value >= 0):
            raise OptionError(
                f"option {name!r} of training method 'gfr' must be a number of at least 0, got {value:g}"
            )
    if setting.budget is not None and tolerance:
        raise OptionError(
            "training method 'gfr' cuts to a budget or as far as a tolerance allows: give one of them"
        )
    if setting.budget is not None and setting.budget.latency is not None:
        raise BudgetError(
            "training method 'gfr' does not measure latency: give --macs, --params or --ratio"
        )


def _train_sparse(
    module: GatedModule, setting: TrainingOptions, strength: float | None, closing: float
) -> Run:
    sparsify = Sparsify(module, strength, coupling=analyze(module.base))
    if closing:
        setting = replace(setting, loss=_by_layer(module, setting.loss, closing))
    return setting.fit(
        module, "gfr", callbacks=[sparsify, FreezeGates(module, setting.steps)]
    )


def _train_gates(module: GatedModule, setting: TrainingOptions, strength: float) -> Run:
    return replace(setting, loss=_closing(module, setting.loss, strength)).fit(
        module, "gfr"
    )


def _closing(module: GatedModule, loss: Loss, strength: float) -> Loss:
    """A loss with a penalty on open gates: the mean over all channels of the network."""
    return _penalised(loss, lambda: strength * torch.cat(module.means).mean())


def _by_layer(module: GatedModule, loss: Loss, strength: float) -> Loss:
    """A loss with a penalty on open gates: the sum over layers of the mean over their channels."""
    return _penalised(
        loss, lambda: strength * torch.stack([each.mean() for each in module.means]).sum()
    )


def _penalised(loss: Loss, term: Callable[[], Tensor]) -> Loss:
    def penalised(outputs: Sequence[Tensor], batch: Batch) -> Tensor:
        return loss(outputs, batch) + term()

    penalised.inner = inner_of(loss)  # type: ignore[attr-defined]
    return penalised


def calibration(data: Data, seed: int, count: int = CALIBRATION) -> Data:
    """Some of the samples, drawn at random: files may be sorted by class."""
    return data.draw(count, seed).without_labels()

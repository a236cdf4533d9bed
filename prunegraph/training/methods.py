"""Training methods by name: `prunegraph train --method NAME:option=value`.

A method is a function `(graph, setting, *, option=default, ...) -> Trained`. `setting` holds what all
methods need; what only one needs is an option of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from prunegraph.errors import BudgetError, TrainingError
from prunegraph.graph.model import Graph
from prunegraph.operators import is_batch_normalization
from prunegraph.options import bound, options
from prunegraph.registry import Registry
from prunegraph.runtime.data import Data, fixed_batch
from prunegraph.selection.budget import Budget
from prunegraph.training.batches import Augment, Batches
from prunegraph.training.batching import Batching, batching, feeds_of, rows_of
from prunegraph.training.fit import Callback, Evaluate, Run, TrainingConfig, fit
from prunegraph.training.identity import digest_of
from prunegraph.training.journal import EpochRecords, Journal
from prunegraph.training.labels import check as check_labels
from prunegraph.training.losses import Loss
from prunegraph.training.module import GraphModule
from prunegraph.training.normalising import keep_statistics
from prunegraph.training.sparse import Sparsify, penalty
from prunegraph.training.unfold import unfold

Progress = Callable[[str], None]


@dataclass(frozen=True)
class TrainingOptions:
    """What a method trains with.

    Args:
        data: training samples, for statistics and calibration too.
        batch: samples in a batch.
        loss: of outputs and batch; see `prunegraph.training.losses`.
        recipe: the numbers of one training; methods with several stages derive theirs from it.
        evaluate: measured after every epoch, larger is better.
        budget: what is left of a model that the method prunes; methods that do not prune refuse it.
        augment: changes every batch with random numbers (flips, crops).
        checkpoint: a file; every stage has one of its own beside it.
        device: where to train.
        progress: told which stage begins.
        feeds: samples of a graph without a batch axis, as whole feeds [feeds, *shape of the input]; `data` are then its
            rows, as the graph takes them.
        identity: what tells this run from others, for checkpoints; `train` sets it.
        journal: told the records of all epochs as they end, with their stage.
    """

    data: Data
    batch: int
    loss: Loss
    recipe: TrainingConfig
    evaluate: Evaluate | None = None
    budget: Budget | None = None
    augment: Augment | None = None
    checkpoint: Path | None = None
    device: str | None = None
    progress: Progress = lambda stage: None
    feeds: Data | None = None
    identity: str = ""
    journal: Journal | None = None

    @property
    def steps(self) -> int:
        """Steps of one training: batches in the data, times epochs."""
        samples = self.data if self.feeds is None else self.feeds
        return self.recipe.epochs * self.recipe.steps(samples.samples // self.batch)

    def batches(self, seed: int | None = None) -> Batches:
        """Batches of the data, of the recipe's seed if no other is given."""
        samples = self.data if self.feeds is None else self.feeds
        seed = self.recipe.seed if seed is None else seed
        return Batches(samples, self.batch, seed=seed, augment=self.augment)

    def fit(
        self,
        module: GraphModule,
        stage: str,
        *,
        recipe: TrainingConfig | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> Run:
        """Train a module in place, as one stage of a method. Raises what `fit` raises."""
        self.progress(stage)
        recipe = recipe or self.recipe
        own = (
            None
            if self.checkpoint is None
            else self.checkpoint.with_name(f"{self.checkpoint.name}.{stage}")
        )
        return fit(
            module,
            self.batches(recipe.seed),
            recipe,
            loss=self.loss,
            callbacks=callbacks,
            watchers=[EpochRecords(stage, self.journal)] if self.journal else [],
            evaluate=self.evaluate,
            checkpoint=own,
            device=self.device,
            identity=(stage, self.identity),
        )


@dataclass(frozen=True)
class TrainResult:
    """What a method made: a graph, and records by stage.

    Every epoch has one (`stage`, `epoch`, `loss`, `metric` if measured), and so has what else changes a graph:
    pruning (`macs`, `params`, `metric` if measured) and quantization (`metric` if measured). `notes` are what a user
    should know of how it was trained.
    """

    model: Graph
    history: tuple[dict[str, Any], ...] = ()
    notes: tuple[str, ...] = ()

    def after(self, stage: str, run: Run) -> TrainResult:
        """With the records of one more run."""
        done = replace(
            self,
            history=(
                *self.history,
                *({"stage": stage, **record} for record in run.history),
            ),
        )
        return done.with_note(_unreached(stage, run)) if run.unreached else done

    def with_note(self, note: str) -> TrainResult:
        """With one more note; none is there twice."""
        return (
            replace(self, notes=tuple(dict.fromkeys((*self.notes, note)))) if note else self
        )

    def with_record(self, record: dict[str, Any]) -> TrainResult:
        """With one more record."""
        return replace(self, history=(*self.history, record))


Method = Callable[..., TrainResult]

METHODS: Registry[Method] = Registry(
    "training method", "prunegraph.methods", parameters=("graph", "setting")
)


def train(model: Graph, setting: TrainingOptions, method: str = "plain") -> TrainResult:
    """Train a model by a method, spelt as on the command line: `sparse:strength=1e-4`.

    A batch axis that is fixed is freed while the model is trained, where that gives the same values; the result has
    the batch of `model` again. Notes of the result say what was done.

    Raises:
        UnknownNameError: no such method or option.
        OptionError: an option cannot have that value.
        DataError: the data do not fit, labels are no class numbers, or it has nothing to train.
        TrainingError: the loss is not finite, the result has weights that are not, or the checkpoint is of another run.
    """
    chosen = bound(METHODS, method)
    check_labels(setting.data)
    how = batching(model, setting.data)
    fed = replace(
        setting,
        batch=_batch(how, setting),
        data=rows_of(setting.data, model).fit(how.graph),
        feeds=feeds_of(setting.data, model) if how.kind == "none" else None,
        identity=_identity(chosen, setting),
    )
    done = chosen(how.graph, fed)
    _check_finite(model, done.model)
    notes = tuple(
        note
        for note in (how.note, _single(how.graph, fed), *getattr(setting.loss, "notes", ()))
        if note
    )
    return replace(done, model=how.restored(done.model), notes=(*notes, *done.notes))


def _batch(how: Batching, setting: TrainingOptions) -> int:
    """Samples in a batch; where the model's own batch is fixed, no more than there are."""
    wanted = how.batch(setting.batch)
    if not fixed_batch(how.original):
        return wanted
    there = feeds_of(setting.data, how.original) if how.kind == "none" else setting.data
    own = how.batch(1)
    return max(min(wanted, there.samples // own * own), own)


def _identity(method: Method, setting: TrainingOptions) -> str:
    """Say what tells a run by a method from others, besides what each of its trainings knows itself."""
    function = getattr(method, "func", method)
    given = {
        **{name: values[0] for name, values in options(function).items()},
        **getattr(method, "keywords", {}),
    }
    plain = {name: _number(value) for name, value in given.items()}
    return digest_of(function.__qualname__, plain, setting.budget, setting.data)


def _number(value: object) -> object:
    """A number for a text that spells one: 1e-4 and 0.0001 are the same option."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _single(graph: Graph, setting: TrainingOptions) -> str:
    """Say what to say of batches of one sample, where the batch is free."""
    normalised = any(is_batch_normalization(node) for node in graph.nodes)
    if setting.batch > 1 or fixed_batch(graph) or not normalised:
        return ""
    return "batches hold one sample: statistics of BatchNormalization stay as they are"


def _check_finite(graph: Graph, result: Graph) -> None:
    """Raise TrainingError where a weight is infinite or not a number, unless it was so before."""
    for name, weight in result.weights.items():
        if weight.is_float and not np.isfinite(weight.read().astype(np.float32)).all():
            before = graph.weights.get(name)
            if before is None or np.isfinite(before.read().astype(np.float32)).all():
                raise TrainingError(
                    f"weight {name!r} is infinite or not a number at the end: lower the learning rate"
                )


def _unreached(stage: str, run: Run) -> str:
    """Names of the parameters that had no gradient in a run."""
    keys = list(run.unreached or ())
    if isinstance(run.module, GraphModule):
        names = {run.module.key(name): name for name in run.module.weights()}
        keys = [names.get(key, key) for key in keys]
    count = sum(run.module.get_parameter(key).numel() for key in run.unreached or ())
    return (
        f"{stage}: no gradient reached {len(keys)} weights ({count:,} parameters), which stay as they are: "
        f"{', '.join(keys)}"
    )


def _check_no_budget(setting: TrainingOptions, method: str) -> None:
    if setting.budget is not None:
        given = " and ".join(setting.budget.kinds or ("ratio",))
        raise BudgetError(
            f"training method {method!r} removes nothing: leave {given} out, or choose joint, cycles or gfr"
        )


@METHODS.register("plain")
def plain(
    graph: Graph, setting: TrainingOptions, *, learn_scales: bool = False
) -> TrainResult:
    """Train the weights; `learn_scales` trains scales of QuantizeLinear as well (LSQ).

    Raises:
        BudgetError: there is a budget.
    """
    _check_no_budget(setting, "plain")
    module = GraphModule(graph, learn_scales=learn_scales)
    note = keep_statistics(module.to(setting.device), setting.batches(), setting.loss)
    run = setting.fit(module, "plain")
    done = TrainResult(module.cpu().write_back(graph)).after("plain", run)
    return done.with_note(note)


@METHODS.register("sparse")
def sparse(
    graph: Graph, setting: TrainingOptions, *, strength: str | float = "auto"
) -> TrainResult:
    """Train while scales of BatchNormalization shrink (network slimming), so that `bn_scale` finds what can go.

    BatchNormalization that was folded into the weights is put back, and stays for `bn_scale`; see
    `prunegraph.training.unfold`. `strength` is that of `Sparsify`, "auto" its relative penalty.

    Raises:
        OptionError: `strength` is neither "auto" nor a number of at least 0.
        DataError: no removable channel has a BatchNormalization, or a layer that can have one.
        BudgetError: there is a budget.
    """
    _check_no_budget(setting, "sparse")
    chosen = penalty(strength, "sparse")
    unfolded = unfold(graph, setting.data, seed=setting.recipe.seed)
    module = GraphModule(unfolded.graph)
    run = setting.fit(module, "sparse", callbacks=[Sparsify(module, chosen)])
    done = TrainResult(module.cpu().write_back(unfolded.graph)).after("sparse", run)
    return done.with_note(unfolded.note)

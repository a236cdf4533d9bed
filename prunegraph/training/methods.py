"""Training methods by name: `prunegraph train --method NAME:option=value`.

A method is a function `(graph, setting, *, option=default, ...) -> Trained`. `setting` holds what all
methods need; what only one needs is an option of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prunegraph.graph.model import Graph
from prunegraph.options import bound
from prunegraph.registry import Registry
from prunegraph.runtime.data import Data
from prunegraph.selection.budget import Budget
from prunegraph.training.batches import Augment, Batches
from prunegraph.training.fit import Callback, Evaluate, Recipe, Run, fit
from prunegraph.training.losses import Loss
from prunegraph.training.module import GraphModule
from prunegraph.training.sparse import Sparsify

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Setting:
    """What a method trains with.

    Args:
        data: training samples, for statistics and calibration too.
        batch: samples in a batch.
        loss: of outputs and batch; see `prunegraph.training.losses`.
        recipe: the numbers of one training; methods with several stages derive theirs from it.
        evaluate: measured after every epoch, larger is better.
        budget: what is left of a model that the method prunes; methods that do not prune have no use for it.
        augment: changes every batch with random numbers (flips, crops).
        checkpoint: a file; every stage has one of its own beside it.
        device: where to train.
        progress: told which stage begins.
    """

    data: Data
    batch: int
    loss: Loss
    recipe: Recipe
    evaluate: Evaluate | None = None
    budget: Budget | None = None
    augment: Augment | None = None
    checkpoint: Path | None = None
    device: str | None = None
    progress: Progress = lambda stage: None

    def fit(
        self, module: GraphModule, stage: str, *, recipe: Recipe | None = None, callbacks: Sequence[Callback] = ()
    ) -> Run:
        """Train a module in place, as one stage of a method. Raises what `fit` raises."""
        self.progress(stage)
        recipe = recipe or self.recipe
        own = None if self.checkpoint is None else self.checkpoint.with_name(f"{self.checkpoint.name}.{stage}")
        return fit(
            module, Batches(self.data, self.batch, seed=recipe.seed, augment=self.augment), recipe, loss=self.loss,
            callbacks=callbacks, evaluate=self.evaluate, checkpoint=own, device=self.device,
        )  # fmt: skip


@dataclass(frozen=True)
class Trained:
    """What a method made: a graph, and records by stage.

    Every epoch has one (`stage`, `epoch`, `loss`, `metric` if measured), and so has what else changes a graph:
    pruning (`macs`, `params`, `metric` if measured) and quantization (`metric` if measured).
    """

    graph: Graph
    history: tuple[dict[str, Any], ...] = ()

    def after(self, stage: str, run: Run) -> Trained:
        """With the records of one more run."""
        return replace(self, history=(*self.history, *({"stage": stage, **record} for record in run.history)))

    def with_record(self, record: dict[str, Any]) -> Trained:
        """With one more record."""
        return replace(self, history=(*self.history, record))


Method = Callable[..., Trained]

METHODS: Registry[Method] = Registry("training method", "prunegraph.methods", parameters=("graph", "setting"))


def train(graph: Graph, setting: Setting, method: str = "plain") -> Trained:
    """Train a graph by a method, spelt as on the command line: `sparse:strength=1e-4`.

    Raises:
        UnknownNameError: no such method or option.
        OptionError: an option cannot have that value.
        DataError: the data do not fit, or the model has nothing to train.
        TrainingError: the loss is not finite, or the checkpoint is of another run.
    """
    return bound(METHODS, method)(graph, replace(setting, data=setting.data.fit(graph)))


@METHODS.register("plain")
def plain(graph: Graph, setting: Setting, *, learn_scales: bool = False) -> Trained:
    """Train the weights; `learn_scales` trains scales of QuantizeLinear as well (LSQ)."""
    module = GraphModule(graph, learn_scales=learn_scales)
    run = setting.fit(module, "plain")
    return Trained(module.cpu().write_back(graph)).after("plain", run)


@METHODS.register("sparse")
def sparse(graph: Graph, setting: Setting, *, strength: float = 1e-4) -> Trained:
    """Train while scales of BatchNormalization shrink (network slimming), so that `bn_scale` finds what can go."""
    module = GraphModule(graph)
    run = setting.fit(module, "sparse", callbacks=[Sparsify(module, strength)])
    return Trained(module.cpu().write_back(graph)).after("sparse", run)

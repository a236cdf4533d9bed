"""What a training is: its numbers, its state, and hooks into it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch

from prunegraph.errors import DataError, OptionError
from prunegraph.training.operators.table import Tensor


@dataclass(frozen=True)
class TrainingConfig:
    """The numbers of a run.

    Args:
        epochs: passes over the batches.
        lr: highest learning rate; it falls along a cosine to 0.
        momentum: of SGD, with Nesterov's step; the first beta of AdamW.
        weight_decay: of parameters with more than one axis; biases and normalisations have none.
        warmup: share of the run in which the learning rate rises from 0.
        clip: largest norm of all gradients together; None leaves them.
        mixup: the parameter of the Beta distribution that blends samples; 0 is off.
        patience: epochs without a better metric after which the run ends, with the best weights.
        seed: of all that is random in the loop.
        bf16: compute in bfloat16 where PyTorch's autocast thinks it safe.
        optimizer: "sgd", "adamw" or one of `prunegraph.training.optimizers.OPTIMIZERS`.
        ema: decay of the moving average of the weights that counts in the place of the last ones; 0 is off.
        accumulate: batches whose mean gradient makes one step.

    Raises OptionError for a number out of range.
    """

    epochs: int
    lr: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup: float = 0.0
    clip: float | None = None
    mixup: float = 0.0
    patience: int | None = None
    seed: int = 0
    bf16: bool = False
    optimizer: str = "sgd"
    ema: float = 0.0
    accumulate: int = 1

    def __post_init__(self) -> None:
        """Check what would train in another way than it says."""
        for name, value, fits, what in (
            ("epochs", self.epochs, self.epochs >= 0, "at least 0"),
            ("lr", self.lr, self.lr > 0, "above 0"),
            ("momentum", self.momentum, 0 <= self.momentum < 1, "at least 0 and below 1"),
            ("weight_decay", self.weight_decay, self.weight_decay >= 0, "at least 0"),
            ("warmup", self.warmup, 0 <= self.warmup < 1, "at least 0 and below 1"),
            ("clip", self.clip, self.clip is None or self.clip > 0, "above 0"),
            ("mixup", self.mixup, self.mixup >= 0, "at least 0"),
            ("ema", self.ema, 0 <= self.ema < 1, "at least 0 and below 1"),
            ("accumulate", self.accumulate, self.accumulate >= 1, "at least 1"),
        ):
            if not fits:
                raise OptionError(f"{name} must be {what}, got {value:g}")

    def steps(self, batches: int) -> int:
        """Steps that so many batches make."""
        return -(-batches // self.accumulate)

    def factor(self, done: float) -> float:
        """Say what the learning rate is multiplied with when a share of the run is done."""
        if done < self.warmup:
            return done / self.warmup
        return 0.5 * (
            1 + math.cos(math.pi * (done - self.warmup) / max(1 - self.warmup, 1e-9))
        )


@dataclass
class Run:
    """What callbacks see of a run, and may change.

    `loss` is the mean of the epoch so far, `metric` the last measured one; `stop` ends the run after the epoch.
    `history` has a record of every epoch. `unreached` are keys of parameters to which no loss has given a gradient
    so far (None before the first): the optimizer leaves them as they are, and so does sparse training. `length` is the
    number of steps in an epoch, 0 where batches do not tell.
    """

    module: torch.nn.Module
    optimizer: torch.optim.Optimizer
    recipe: TrainingConfig
    epoch: int = 0
    step: int = 0
    loss: float = math.nan
    metric: float | None = None
    best: float = -math.inf
    waited: int = 0
    stop: bool = False
    history: list[dict[str, float]] = field(default_factory=list)
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    unreached: list[str] | None = None
    length: int = 0

    def done(self) -> float:
        """Part of the whole run's steps that were taken before the present one.

        Raises DataError where batches do not tell how many they are.
        """
        if not self.length:
            raise DataError(
                "how long the run is has to be known: give batches with a length, or a strength of the penalty"
            )
        return min(self.step / (self.recipe.epochs * self.length), 1.0)

    def waiting(self) -> set[int]:
        """Ids of parameters that have had no gradient, once there was a backward pass."""
        return {id(self.module.get_parameter(name)) for name in self.unreached or ()}

    def note_gradients(self) -> None:
        """Look, after a backward pass, which parameters have had a gradient by now."""
        if self.unreached is None:
            self.unreached = [
                name for name, p in self.module.named_parameters() if p.requires_grad
            ]
        waiting = []
        for name in self.unreached:
            parameter = self.module.get_parameter(name)
            if parameter.grad is None or not bool(parameter.grad.any()):
                # Weight decay would shrink what the loss does not know.
                parameter.grad = None
                waiting.append(name)
        self.unreached = waiting


class Callback:
    """Hooks into a run; override what is needed.

    A callback with a state of its own gives it in `state_dict` and takes it back in `load_state_dict`, so that a run
    that is resumed goes on exactly.
    """

    def before_step(self, run: Run) -> None:
        """Gradients are there; the optimizer has not used them yet."""

    def after_step(self, run: Run) -> None:
        """The optimizer has changed the weights."""

    def on_epoch(self, run: Run) -> None:
        """An epoch has ended, its metric is measured."""

    def identity(self) -> object:
        """Say what of it decides how a run ends; a checkpoint of a run with another one is refused."""
        return None

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""

"""One small training loop. Modules are plain PyTorch: any other loop does as well."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from prunegraph.errors import DataError, TrainingError
from prunegraph.runtime.data import LABELS
from prunegraph.training.batches import mixed
from prunegraph.training.identity import digest_of
from prunegraph.training.losses import Loss, cross_entropy, inner_of, outputs_with
from prunegraph.training.operators.table import Tensor

#: Measures a module, larger is better.
Evaluate = Callable[[torch.nn.Module], float]


@dataclass(frozen=True)
class TrainingConfig:
    """The numbers of a run.

    Args:
        epochs: passes over the batches.
        lr: highest learning rate of SGD with Nesterov momentum; it falls along a cosine to 0.
        momentum: of SGD.
        weight_decay: of parameters with more than one axis; biases and normalisations have none.
        warmup: share of the run in which the learning rate rises from 0.
        clip: largest norm of all gradients together; None leaves them.
        mixup: the parameter of the Beta distribution that blends samples; 0 is off.
        patience: epochs without a better metric after which the run ends, with the best weights.
        seed: of all that is random in the loop.
        bf16: compute in bfloat16 where PyTorch's autocast thinks it safe.
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


def fit(
    module: torch.nn.Module,
    batches: Iterable[Mapping[str, Tensor]],
    recipe: TrainingConfig,
    *,
    loss: Loss | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    evaluate: Evaluate | None = None,
    callbacks: Sequence[Callback] = (),
    checkpoint: str | Path | None = None,
    device: str | torch.device | None = None,
    progress: bool | None = None,
    identity: object = None,
) -> Run:
    """Train a module in place.

    Args:
        module: a `GraphModule`, or any other.
        batches: dicts of inputs by name and `labels`, iterated once an epoch; `Batches`, or a DataLoader of dicts.
            If it has `set_epoch`, that is called.
        recipe: the numbers.
        loss: cross entropy with `labels` by default; see `prunegraph.training.losses`.
        optimizer: instead of SGD; its learning rates follow the recipe's schedule.
        evaluate: measured after every epoch in eval mode; `recipe.patience` needs it.
        callbacks: called in order.
        checkpoint: a file that is written after every epoch. If it is there, the run goes on from it, and ends
            with the same weights as one that was never interrupted (bit by bit on the CPU). A file of a run with
            another model, recipe, loss or other data is refused; see `prunegraph.training.identity`.
        device: where to train; by default where the module is.
        progress: show a bar with loss, metric and time left; by default on a terminal.
        identity: what else tells this run from others, for the checkpoint: the method and its options.

    Raises:
        DataError: no batches, no parameters, or what the loss says of them.
        TrainingError: the loss is not finite, or the checkpoint is of another run.
    """
    if recipe.patience is not None and evaluate is None:
        raise DataError("patience needs a metric: give `evaluate=`")
    if device is not None:
        module.to(device)
    run = Run(module, optimizer or sgd(module, recipe), recipe)
    for group in run.optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])
    saved = None
    if checkpoint is not None:
        parts = [
            batches,
            loss,
            getattr(evaluate, "identity", None),
            type(run.optimizer),
            identity,
        ]
        saved = Checkpoint(Path(checkpoint), run, callbacks, parts)
        saved.resume()
    where = next(module.parameters()).device
    with (
        _bar(run, batches, progress) as advance,
        torch.random.fork_rng([where] if where.type == "cuda" else []),
    ):
        while run.epoch < recipe.epochs and not run.stop:
            _epoch(run, batches, loss or cross_entropy(), callbacks, advance)
            _measure(run, evaluate, callbacks)
            if saved is not None:
                saved.write()
    if run.best_weights:
        module.load_state_dict(run.best_weights)
    return run


def sgd(module: torch.nn.Module, recipe: TrainingConfig) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum; vectors do not decay. Raises DataError without parameters."""
    able = [p for p in module.parameters() if p.requires_grad]
    if not able:
        raise DataError("the module has no parameters to train")
    groups = [
        {"params": [p for p in able if p.dim() > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in able if p.dim() <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.SGD(groups, recipe.lr, recipe.momentum, nesterov=recipe.momentum > 0)


def _epoch(
    run: Run,
    batches: Iterable[Mapping[str, Tensor]],
    loss: Loss,
    callbacks: Sequence[Callback],
    advance: Callable[[], None],
) -> None:
    """One pass over the batches. All that is random in it follows from seed and epoch."""
    recipe, total, steps = run.recipe, 0.0, 0
    torch.manual_seed(recipe.seed * 1_000_003 + run.epoch)
    rng = np.random.default_rng([recipe.seed, run.epoch])
    if hasattr(batches, "set_epoch"):
        batches.set_epoch(run.epoch)
    length = run.length = len(batches) if isinstance(batches, Sized) else 0
    device = next(run.module.parameters()).device
    run.module.train()
    for batch in batches:
        share = min(steps / length, 1.0) if length else 0.0
        for group in run.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * recipe.factor(
                (run.epoch + share) / recipe.epochs
            )
        value = _step(
            run,
            {name: tensor.to(device) for name, tensor in batch.items()},
            loss,
            rng,
            callbacks,
        )
        steps += 1
        run.step += 1
        total += value
        run.loss = total / steps
        advance()
    if not steps:
        raise DataError(
            "there are no batches to train on; an iterator can be read only once: give a list"
        )
    run.epoch += 1


def _step(
    run: Run,
    batch: dict[str, Tensor],
    loss: Loss,
    rng: np.random.Generator,
    callbacks: Sequence[Callback],
) -> float:
    """Forward, backward, update; the loss."""
    device = next(iter(batch.values())).device
    run.optimizer.zero_grad()
    with torch.autocast(device.type, torch.bfloat16) if run.recipe.bf16 else nullcontext():
        value = _loss(run, batch, loss, rng)
    if not value.requires_grad:
        raise TrainingError(
            "nothing that is trained reaches the loss (layers in integers have no gradient): train the float model"
        )
    if not bool(torch.isfinite(value)):
        raise TrainingError(
            f"the loss is {value.item()} in epoch {run.epoch + 1}, step {run.step + 1}: lower the learning rate"
        )
    value.backward()
    run.note_gradients()
    for callback in callbacks:
        callback.before_step(run)
    if run.recipe.clip is not None:
        torch.nn.utils.clip_grad_norm_(run.module.parameters(), run.recipe.clip)
    run.optimizer.step()
    for callback in callbacks:
        callback.after_step(run)
    return float(value.item())


def _loss(
    run: Run, batch: dict[str, Tensor], loss: Loss, rng: np.random.Generator
) -> Tensor:
    if not run.recipe.mixup:
        return loss(_outputs(run.module, batch, loss), batch)
    batch, others, share = mixed(batch, run.recipe.mixup, rng)
    outputs = _outputs(run.module, batch, loss)
    if LABELS not in batch:
        return loss(outputs, batch)
    turned = {**batch, LABELS: batch[LABELS][others.to(batch[LABELS].device)]}
    return share * loss(outputs, batch) + (1 - share) * loss(outputs, turned)


def _outputs(
    module: torch.nn.Module, batch: Mapping[str, Tensor], loss: Loss
) -> tuple[Tensor, ...]:
    """What a loss looks at, in single precision at least, where losses are computed."""
    inputs = {name: value for name, value in batch.items() if name != LABELS}
    created = outputs_with(module, inputs, inner_of(loss))
    return tuple(
        y.float() if y.dtype in (torch.bfloat16, torch.float16) else y for y in created
    )


def _measure(run: Run, evaluate: Evaluate | None, callbacks: Sequence[Callback]) -> None:
    """The epoch's record, and whether it was the last one."""
    record = {"epoch": run.epoch, "loss": run.loss}
    if evaluate is not None:
        run.module.eval()
        with torch.no_grad():
            run.metric = float(evaluate(run.module))
        record["metric"] = run.metric
        run.waited = 0 if run.metric > run.best else run.waited + 1
        if run.waited == 0:
            run.best = run.metric
            if run.recipe.patience is not None:
                run.best_weights = {
                    name: tensor.clone() for name, tensor in run.module.state_dict().items()
                }
        run.stop = run.stop or (
            run.recipe.patience is not None and run.waited >= run.recipe.patience
        )
    run.history.append(record)
    for callback in callbacks:
        callback.on_epoch(run)


class Checkpoint:
    """The state of a run in a file, whole or not at all."""

    def __init__(
        self,
        path: Path,
        run: Run,
        callbacks: Sequence[Callback],
        parts: Sequence[object] = (),
    ):
        self.path, self.run, self.callbacks = path, run, callbacks
        own = [callback.identity() for callback in callbacks]
        self.origin = digest_of(run.recipe, run.module, own, *parts)

    def write(self) -> None:
        """Write beside the file, then rename."""
        run = self.run
        state = {
            "origin": self.origin,
            "module": run.module.state_dict(),
            "optimizer": run.optimizer.state_dict(),
            "callbacks": [callback.state_dict() for callback in self.callbacks],
            "best_weights": run.best_weights,
            "run": {name: getattr(run, name) for name in RESUMED},
        }
        beside = self.path.with_name(self.path.name + ".part")
        torch.save(state, beside)
        os.replace(beside, self.path)

    def resume(self) -> None:
        """Go on where the file says, if there is one. Raises TrainingError if it is of another run."""
        if not self.path.exists():
            return
        device = next(self.run.module.parameters()).device
        try:
            state = torch.load(self.path, map_location=device, weights_only=True)
        except Exception as error:
            raise TrainingError(
                f"{self.path}: not a checkpoint, or damaged: delete it ({error})"
            ) from error
        try:
            self._take(state)
        except TrainingError:
            raise
        except Exception as error:
            raise TrainingError(
                f"{self.path}: not a checkpoint, or damaged: delete it ({error!r})"
            ) from error

    def _take(self, state: Any) -> None:
        """Go on from a checkpoint's content. Raises TrainingError if it is of another run."""
        if state.get("origin") != self.origin or len(state["callbacks"]) != len(
            self.callbacks
        ):
            raise TrainingError(
                f"{self.path}: belongs to another run: one with another recipe, other callbacks, other data, another "
                "loss, another method or other weights to start from; delete it, or name another file"
            )
        resumed = dict(state["run"])
        wrong = resumed.keys() ^ RESUMED.keys()
        wrong = wrong or {
            n for n, kinds in RESUMED.items() if not isinstance(resumed[n], kinds)
        }
        if wrong:
            raise ValueError(f"its run has a wrong {', '.join(sorted(wrong))}")
        self.run.module.load_state_dict(state["module"])
        self.run.optimizer.load_state_dict(state["optimizer"])
        self.run.best_weights = state["best_weights"]
        for callback, own in zip(self.callbacks, state["callbacks"], strict=True):
            callback.load_state_dict(own)
        for name, value in resumed.items():
            setattr(self.run, name, value)


#: Fields of a run that a checkpoint holds, and what they may be.
RESUMED: dict[str, tuple[type, ...]] = {
    "epoch": (int,),
    "step": (int,),
    "loss": (float,),
    "metric": (float, type(None)),
    "best": (float, type(None)),
    "waited": (int,),
    "stop": (bool,),
    "history": (list,),
    "unreached": (list, type(None)),
}


@contextmanager
def _bar(run: Run, batches: object, wanted: bool | None) -> Iterator[Callable[[], None]]:
    """A progress bar on stderr; gives the function that moves it."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    shown = console.is_terminal if wanted is None else wanted
    with Progress(*columns, console=console, disable=not shown) as bar:
        length = len(batches) if isinstance(batches, Sized) else None
        total = None if length is None else length * run.recipe.epochs
        task = bar.add_task("training", total=total, completed=run.step)

        def advance() -> None:
            metric = "" if run.metric is None else f"  metric {run.metric:.4f}"
            text = f"epoch {run.epoch + 1}/{run.recipe.epochs}  loss {run.loss:.4f}{metric}"
            bar.update(task, advance=1, description=text)

        yield advance

"""One small training loop. Modules are plain PyTorch: any other loop does as well."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import torch

from prunegraph.errors import DataError, TrainingError
from prunegraph.runtime.data import LABELS
from prunegraph.training.batches import blended, mixed
from prunegraph.training.checkpoint import Checkpoint
from prunegraph.training.device import find_device
from prunegraph.training.losses import Loss, cross_entropy, inner_of, outputs_with
from prunegraph.training.module import GraphModule
from prunegraph.training.operators.table import Tensor
from prunegraph.training.optimizers import Averaging, optimizer_of
from prunegraph.training.run import Callback, Run, TrainingConfig

__all__ = ["Callback", "Evaluate", "Run", "TrainingConfig", "fit"]

#: Measures a module, larger is better.
Evaluate = Callable[[torch.nn.Module], float]


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
    watchers: Sequence[Callback] = (),
) -> Run:
    """Train a module in place.

    Args:
        module: a `GraphModule`, or any other.
        batches: dicts of inputs by name and `labels`, iterated once an epoch; `Batches`, or a DataLoader of dicts.
            If it has `set_epoch`, that is called.
        recipe: the numbers.
        loss: cross entropy with `labels` by default; see `prunegraph.training.losses`.
        optimizer: instead of the recipe's; its learning rates follow the recipe's schedule.
        evaluate: measured after every epoch in eval mode; `recipe.patience` needs it.
        callbacks: called in order.
        checkpoint: a file that is written after every epoch. If it is there, the run goes on from it, and ends
            with the same weights as one that was never interrupted (bit by bit on the CPU). A file of a run with
            another model, recipe, loss or other data is refused; see `prunegraph.training.identity`.
        device: where to train; by default where the module is.
        progress: show a bar with loss, metric and time left; by default on a terminal.
        identity: what else tells this run from others, for the checkpoint: the method and its options.
        watchers: callbacks that see every epoch and change nothing; a checkpoint does not depend on them.

    Raises:
        DataError: no batches, no parameters, or what the loss says of them.
        OptionError: there is no such device.
        TrainingError: the loss is not finite, or the checkpoint is of another run.
    """
    if recipe.patience is not None and evaluate is None:
        raise DataError("patience needs a metric: give `evaluate=`")
    if device is not None:
        module.to(find_device(device))
    run = Run(module, optimizer or optimizer_of(module, recipe), recipe)
    average = Averaging(module, recipe.ema) if recipe.ema else None
    callbacks = callbacks if average is None else (*callbacks, average)
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
            with average.instead() if average is not None else nullcontext():
                _measure(run, evaluate)
            for callback in (*callbacks, *watchers):
                callback.on_epoch(run)
            if saved is not None:
                saved.write()
    if run.best_weights:
        module.load_state_dict(run.best_weights)
    elif average is not None:
        module.load_state_dict(average.average)
    return run


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
    count = len(batches) if isinstance(batches, Sized) else 0
    run.length = recipe.steps(count)
    device = next(run.module.parameters()).device
    run.module.train()
    for parts in _parts(batches, recipe.accumulate):
        share = min(steps / run.length, 1.0) if run.length else 0.0
        for group in run.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * recipe.factor(
                (run.epoch + share) / recipe.epochs
            )
        moved = [_moved(batch, run.module, device) for batch in parts]
        value = _step(run, moved, loss, rng, callbacks)
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


def _moved(
    batch: Mapping[str, Tensor], module: torch.nn.Module, device: torch.device
) -> dict[str, Tensor]:
    """A batch where it is trained. Images go with channels last on a CPU, where convolutions are faster so.

    Only for graphs, all of whose operators take any strides: modules that call `view` would not run.
    """
    last = device.type == "cpu" and isinstance(module, GraphModule)
    return {
        name: t.to(device, memory_format=torch.channels_last)
        if last and t.dim() == 4 and name != LABELS
        else t.to(device)
        for name, t in batch.items()
    }


def _parts(
    batches: Iterable[Mapping[str, Tensor]], size: int
) -> Iterator[tuple[Mapping[str, Tensor], ...]]:
    """Batches whose gradients are added up before a step, `size` of them; what is left at the end is a step too."""
    walk = iter(batches)
    while parts := tuple(itertools.islice(walk, size)):
        yield parts


def _step(
    run: Run,
    parts: Sequence[dict[str, Tensor]],
    loss: Loss,
    rng: np.random.Generator,
    callbacks: Sequence[Callback],
) -> float:
    """Forward, backward, update; the mean loss of the parts."""
    run.optimizer.zero_grad()
    total = 0.0
    for batch in parts:
        value = _checked_loss(run, batch, loss, rng) / len(parts)
        value.backward()
        total += float(value.item())
    run.note_gradients()
    for callback in callbacks:
        callback.before_step(run)
    if run.recipe.clip is not None:
        torch.nn.utils.clip_grad_norm_(run.module.parameters(), run.recipe.clip)
    run.optimizer.step()
    for callback in callbacks:
        callback.after_step(run)
    return total


def _checked_loss(
    run: Run, batch: dict[str, Tensor], loss: Loss, rng: np.random.Generator
) -> Tensor:
    """The loss of a batch. Raises TrainingError where it has no gradient, or is not finite."""
    device = next(iter(batch.values())).device
    with torch.autocast(device.type, torch.bfloat16) if run.recipe.bf16 else nullcontext():
        value = _loss(run, batch, loss, rng)
    if not value.requires_grad:
        raise TrainingError(
            "nothing that is trained reaches the loss (layers in integers have no gradient): train the float model"
        )
    if not bool(torch.isfinite(value)):
        raise TrainingError(
            f"the loss is {value.item()} in epoch {run.epoch + 1}, step {run.step + 1}: {_remedy(batch)}"
        )
    return value


def _remedy(batch: Mapping[str, Tensor]) -> str:
    """What to do about a loss that is not finite."""
    for name, values in batch.items():
        if not bool(torch.isfinite(values).all()):
            return f"{name!r} has values in that batch that are infinite or not numbers; clean the data"
    return "lower the learning rate"


def _loss(
    run: Run, batch: dict[str, Tensor], loss: Loss, rng: np.random.Generator
) -> Tensor:
    if not run.recipe.mixup:
        return loss(_outputs(run.module, batch, loss), batch)
    if LABELS not in batch:
        batch = blended(batch, run.recipe.mixup, rng)
        return loss(_outputs(run.module, batch, loss), batch)
    batch, others, share = mixed(batch, run.recipe.mixup, rng)
    outputs = _outputs(run.module, batch, loss)
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


def _measure(run: Run, evaluate: Evaluate | None) -> None:
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


@contextmanager
def _bar(run: Run, batches: object, wanted: bool | None) -> Iterator[Callable[[], None]]:
    """A progress bar on stderr; gives the function that moves it."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    shown = console.is_terminal if wanted is None else wanted
    with Progress(*columns, console=console, disable=not shown) as bar:
        count = len(batches) if isinstance(batches, Sized) else None
        total = None if count is None else run.recipe.steps(count) * run.recipe.epochs
        task = bar.add_task("training", total=total, completed=run.step)

        def advance() -> None:
            metric = "" if run.metric is None else f"  metric {run.metric:.4f}"
            text = f"epoch {run.epoch + 1}/{run.recipe.epochs}  loss {run.loss:.4f}{metric}"
            bar.update(task, advance=1, description=text)

        yield advance

"""Losses: functions `(outputs, batch) -> the batch's mean loss`; a batch holds inputs and labels by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as nnf

from prunegraph.errors import DataError
from prunegraph.runtime.data import LABELS
from prunegraph.training.module import GraphModule
from prunegraph.training.table import Tensor

Batch = Mapping[str, Tensor]

#: Takes all outputs in the graph's order, and the batch with its labels; a mean over samples.
Loss = Callable[[Sequence[Tensor], Batch], Tensor]


def _logits(output: Tensor, probabilities: bool) -> Tensor:
    """Logarithms of probabilities up to a constant. Raises DataError where they are probabilities already."""
    if probabilities:
        return output.clamp(min=torch.finfo(output.dtype).tiny).log()
    with torch.no_grad():
        sums = output.sum(1)
        if bool((output >= 0).all()) and bool(((sums - 1).abs() < 1e-3).all()):
            raise DataError(
                "the model's first output holds probabilities (a Softmax at its end): say so with probabilities=True"
            )
    return output


def cross_entropy(*, probabilities: bool = False, smoothing: float = 0.0) -> Loss:
    """Cross entropy of the first output [samples, classes, ...] with `labels`: class numbers [samples, ...].

    Args:
        probabilities: the model ends in a Softmax; by default its output is taken for logits.
        smoothing: share of the target that is spread over all classes.

    The loss raises DataError for batches without labels, and for probabilities that were not announced.
    """

    def loss(outputs: Sequence[Tensor], batch: Batch) -> Tensor:
        if LABELS not in batch:
            raise DataError("cross entropy needs `labels` in the data; without any use `own_labels` or `distillation`")
        return nnf.cross_entropy(_logits(outputs[0], probabilities), batch[LABELS].long(), label_smoothing=smoothing)

    return loss


def own_labels(*, probabilities: bool = False, seed: int = 0) -> Loss:
    """Cross entropy with labels drawn from the model's own distribution: Fisher information without labels.

    A loss against the model's own outputs as they are has no gradient; against labels drawn from them its
    mean squared gradient is the Fisher information. Source: Kunstner, Balles, Hennig 2019, section 2.
    """
    generator = torch.Generator().manual_seed(seed)

    def loss(outputs: Sequence[Tensor], batch: Batch) -> Tensor:
        logits = _logits(outputs[0], probabilities)
        chances = logits.detach().movedim(1, -1).softmax(-1)
        rows = chances.reshape(-1, chances.shape[-1]).float().cpu()
        drawn = torch.multinomial(rows, 1, generator=generator).reshape(chances.shape[:-1])
        return nnf.cross_entropy(logits, drawn.to(logits.device))

    return loss


def distillation(
    original: torch.nn.Module,
    *,
    temperature: float = 4.0,
    labels: float = 0.0,
    task: Loss | None = None,
    probabilities: bool = False,
) -> Loss:
    """How far the first output is from the original's: KL divergence at a temperature, times its square.

    Args:
        original: the teacher; it is called with the batch's inputs, in eval mode, without gradients.
        temperature: divides logits of both.
        labels: share of the task's loss in the sum; the rest is distillation.
        task: that loss; cross entropy with `labels` by default.
        probabilities: the models end in a Softmax.

    Source: Hinton, Vinyals, Dean 2015.
    """
    original.eval()
    by_labels = task or cross_entropy(probabilities=probabilities)

    def loss(outputs: Sequence[Tensor], batch: Batch) -> Tensor:
        inputs = {name: value for name, value in batch.items() if name != LABELS}
        with torch.no_grad():
            teacher = _logits(outputs_of(original, inputs)[0], probabilities)
        student = _logits(outputs[0], probabilities)
        own_log, wanted = (torch.log_softmax(y / temperature, 1) for y in (student, teacher))
        cells = student.numel() // student.shape[1]
        far = nnf.kl_div(own_log, wanted, reduction="sum", log_target=True) / cells * temperature**2
        return far if labels == 0 else (1 - labels) * far + labels * by_labels(outputs, batch)

    return loss


def mean_squared(original: torch.nn.Module) -> Loss:
    """Mean squared difference of all outputs from the original's, for models that do not classify."""
    original.eval()

    def loss(outputs: Sequence[Tensor], batch: Batch) -> Tensor:
        with torch.no_grad():
            wanted = outputs_of(original, {name: value for name, value in batch.items() if name != LABELS})
        pairs = [(y, t) for y, t in zip(outputs, wanted, strict=True) if y.is_floating_point()]
        return torch.stack([nnf.mse_loss(y, t) for y, t in pairs]).mean()

    return loss


def outputs_of(module: torch.nn.Module, inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    """All outputs of a module: a graph's takes inputs by name, others in the order in which they are given."""
    made: Any = module(inputs) if isinstance(module, GraphModule) else module(*inputs.values())
    if isinstance(made, Mapping):
        return tuple(made.values())
    return tuple(made) if isinstance(made, (tuple, list)) else (made,)

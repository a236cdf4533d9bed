"""Losses by name, as `--loss` takes them: `cross_entropy`, `0.5*distill:temperature=2`, `file.py:function`.

Each is made from what is known of the run (`LossContext`). A loss that looks at values inside the network names them in
its attribute `inner`: whoever computes it (`outputs_with`) hands them on behind the outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.nn.functional as nnf

from prunegraph import plugins
from prunegraph.errors import DataError, OptionError, PluginError, UnknownNameError
from prunegraph.graph.model import Graph
from prunegraph.options import bound
from prunegraph.registry import Registry
from prunegraph.runtime.data import LABELS
from prunegraph.training.kinds import Kind
from prunegraph.training.labels import IGNORED, as_labels, class_numbers
from prunegraph.training.losses import (
    Batch,
    Loss,
    class_axis,
    cross_entropy,
    distillation,
    inner_of,
)
from prunegraph.training.matching import features as matched_features
from prunegraph.training.module import GraphModule
from prunegraph.training.operators.table import Tensor


@dataclass(frozen=True)
class LossContext:
    """What a loss is made from.

    Args:
        graph: what is trained, with the batch that it is trained with.
        original: the network whose outputs are learnt, or None.
        probabilities: the first output holds probabilities.
        kinds: what outputs of the original are learnt as, by name.
        match: inner values that `features` learns; empty for those at the ends of stages.
    """

    graph: Graph
    original: GraphModule | None = None
    probabilities: bool = False
    kinds: Mapping[str, Kind] = field(default_factory=dict)
    match: Sequence[str] = ()

    def teacher(self, loss: str) -> GraphModule:
        """The original. Raises DataError where there is none."""
        if self.original is None:
            raise DataError(f"loss {loss!r} learns from a model: give --original")
        return self.original

    def place(self, output: str) -> int:
        """The number of an output; "" is the first. Raises UnknownNameError."""
        if output and output not in self.graph.outputs:
            raise UnknownNameError("output", output, self.graph.outputs)
        return list(self.graph.outputs).index(output) if output else 0


LOSSES: Registry[Callable[..., Loss]] = Registry(
    "loss", "prunegraph.losses", parameters=("context",)
)


def loss_of(spellings: Sequence[str], context: LossContext) -> Loss:
    """The sum of losses that are spelt `NAME`, `NAME:option=value`, `WEIGHT*NAME` or `file.py:function`.

    Raises:
        UnknownNameError: no such loss, option, output or value.
        OptionError: a weight is no number above 0, or an option cannot have that value.
        DataError: it learns from an original, and there is none.
        PluginError: the file cannot be read, or has no such function.
    """
    parts = [_weighted(spelling, context) for spelling in spellings]
    if len(parts) == 1 and parts[0][0] == 1:
        return parts[0][1]
    return Sum(parts)


class Sum:
    """A sum of weighted losses; inner values of each are handed to it alone."""

    def __init__(self, parts: Sequence[tuple[float, Loss]]):
        self.parts = tuple(parts)
        every = [name for _, loss in self.parts for name in inner_of(loss)]
        self.inner = tuple(dict.fromkeys(every))
        self.notes = tuple(
            note for _, loss in self.parts for note in getattr(loss, "notes", ())
        )

    def __call__(self, outputs: Sequence[Tensor], batch: Batch) -> Tensor:
        count = len(outputs) - len(self.inner)
        inner = dict(zip(self.inner, outputs[count:], strict=True))
        values = [
            weight
            * loss([*outputs[:count], *(inner[name] for name in inner_of(loss))], batch)
            for weight, loss in self.parts
        ]
        return torch.stack([value.reshape(()) for value in values]).sum()

    def identity(self) -> object:
        return self.parts


def _weighted(spelling: str, context: LossContext) -> tuple[float, Loss]:
    weight, star, name = spelling.rpartition("*")
    if not star:
        return 1.0, _single(name, context)
    try:
        number = float(weight)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise OptionError(
            f"loss {spelling!r}: the weight before * has to be a number above 0"
        )
    return number, _single(name.strip(), context)


def _single(spelling: str, context: LossContext) -> Loss:
    path = spelling.rpartition(":")[0]
    if path.endswith(".py"):
        return _own(spelling, plugins.function(spelling))
    return bound(LOSSES, spelling)(context)


def _own(spelling: str, function: Callable[..., object]) -> Loss:
    """A function of the user's as a loss. What goes wrong in it is a PluginError."""

    def loss(outputs: Sequence[Tensor], batch: Batch) -> Tensor:
        try:
            value = function(outputs, batch)
        except Exception as error:
            raise PluginError(
                f"loss {spelling}: {type(error).__name__}: {plugins.reported(error)}"
            ) from error
        if not isinstance(value, torch.Tensor) or value.numel() != 1:
            what = list(value.shape) if isinstance(value, torch.Tensor) else type(value)
            raise PluginError(
                f"loss {spelling}: has to give one number as a tensor, not {what}"
            )
        return value.reshape(())

    return loss


# -- losses with labels -------------------------------------------------------------------


def _labelled(batch: Batch, name: str) -> Tensor:
    if LABELS not in batch:
        raise DataError(f"loss {name!r} needs `labels` in the data")
    return as_labels(batch[LABELS])


def _alike(output: Tensor, batch: Batch, name: str) -> tuple[Tensor, Tensor]:
    """An output and labels of its shape, up to axes of size 1. Raises DataError."""
    wanted = _labelled(batch, name)
    if [s for s in wanted.shape if s != 1] != [s for s in output.shape if s != 1]:
        raise DataError(
            f"`labels` have shape {list(wanted.shape)}, the output {list(output.shape)}: loss {name!r} needs them alike"
        )
    return output, wanted.reshape(output.shape).to(output.dtype)


@LOSSES.register("cross_entropy")
def _cross_entropy(context: LossContext, *, smoothing: float = 0.0) -> Loss:
    """Cross entropy with class numbers."""
    return cross_entropy(
        probabilities=context.probabilities, smoothing=smoothing, graph=context.graph
    )


@LOSSES.register("bce")
def _bce(context: LossContext, *, output: str = "") -> Loss:
    """Binary cross entropy of logits (or probabilities) with labels from 0 to 1 of the output's shape."""
    place = context.place(output)

    def loss(outputs: Sequence[Tensor], batch: Batch) -> Tensor:
        values, wanted = _alike(outputs[place], batch, "bce")
        if not bool(((wanted >= 0) & (wanted <= 1)).all()):
            raise DataError("loss 'bce' needs `labels` from 0 to 1")
        if context.probabilities and place == 0:
            return nnf.binary_cross_entropy(values.clamp(0, 1), wanted)
        return nnf.binary_cross_entropy_with_logits(values, wanted)

    return loss


def _regression(
    context: LossContext,
    name: str,
    measure: Callable[[Tensor, Tensor], Tensor],
    output: str,
) -> Loss:
    place = context.place(output)

    def loss(outputs: Sequence[Tensor], batch: Batch) -> Tensor:
        return measure(*_alike(outputs[place], batch, name))

    return loss


@LOSSES.register("mse")
def _mse(context: LossContext, *, output: str = "") -> Loss:
    """Mean squared difference from labels of the output's shape."""
    return _regression(context, "mse", nnf.mse_loss, output)


@LOSSES.register("l1")
def _l1(context: LossContext, *, output: str = "") -> Loss:
    """Mean absolute difference from labels of the output's shape."""
    return _regression(context, "l1", nnf.l1_loss, output)


@LOSSES.register("dice")
def _dice(context: LossContext, *, output: str = "") -> Loss:
    """One minus the overlap of predicted and labelled regions, the mean over classes (Milletari et al. 2016)."""
    return partial(_dice_loss, place=context.place(output), known=context.probabilities)


def _dice_loss(
    outputs: Sequence[Tensor], batch: Batch, *, place: int, known: bool
) -> Tensor:
    values, labels = outputs[place], _labelled(batch, "dice")
    if values.dim() < 3 or values.shape[1] < 2:
        values, wanted = _alike(values, batch, "dice")
        shares = values if known else values.sigmoid()
        return _overlap(shares.flatten()[None], wanted.flatten()[None])
    axis = class_axis(values.dim()) if values.dim() == 3 else 1
    rows = values.movedim(axis, -1)
    if labels.shape != rows.shape[:-1]:
        raise DataError(
            f"`labels` have shape {list(labels.shape)}, the output {list(values.shape)}: loss 'dice' needs class "
            "numbers of its shape without the axis of the classes"
        )
    rows, labels = rows.reshape(-1, rows.shape[-1]), labels.reshape(-1)
    counted = labels != IGNORED
    rows, numbers = rows[counted], class_numbers(labels[counted], rows.shape[-1])
    shares = rows if known else rows.softmax(-1)
    return _overlap(shares.T, nnf.one_hot(numbers, rows.shape[-1]).T.to(rows.dtype))


def _overlap(shares: Tensor, wanted: Tensor) -> Tensor:
    """One minus the soft Dice coefficient [classes, cells], the mean over classes that are in labels or prediction."""
    common = 2 * (shares * wanted).sum(1) + 1
    return (1 - common / (shares.sum(1) + wanted.sum(1) + 1)).mean()


# -- losses with an original ---------------------------------------------------------------


@LOSSES.register("distill")
def _distill(
    context: LossContext, *, temperature: float = 4.0, by_size: bool = False
) -> Loss:
    """All outputs of the original, each by its kind; `by_size` weighs them by their elements, else all are alike."""
    if not temperature > 0:
        raise OptionError(
            f"loss 'distill': temperature must be above 0, got {temperature:g}"
        )
    return distillation(
        context.teacher("distill"),
        temperature=temperature,
        probabilities=context.probabilities,
        kinds=context.kinds,
        by_size=by_size,
    )


@LOSSES.register("features")
def _features(context: LossContext) -> Loss:
    """Inner values of the original: those of --match, or those at the ends of stages."""
    return matched_features(context.graph, context.teacher("features"), context.match)

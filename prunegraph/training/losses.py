"""Losses: functions `(outputs, batch) -> the batch's mean loss`; a batch holds inputs and labels by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as nnf

from prunegraph.errors import DataError, OptionError, UnknownNameError
from prunegraph.graph.model import Graph
from prunegraph.runtime.data import LABELS
from prunegraph.training.kinds import Kind, Output, outputs_of_graph
from prunegraph.training.labels import as_labels, class_numbers, misfit
from prunegraph.training.module import GraphModule
from prunegraph.training.operators.table import Tensor

Batch = Mapping[str, Tensor]

#: A variance below this share of the mean square is rounding.
VARIES = 1e-6

#: Takes all outputs in the graph's order, and the batch with its labels; a mean over samples.
Loss = Callable[[Sequence[Tensor], Batch], Tensor]


def _logits(output: Tensor, probabilities: bool, axis: int = 1) -> Tensor:
    """Logarithms of probabilities up to a constant. Raises DataError where they are probabilities already."""
    if probabilities:
        return output.clamp(min=torch.finfo(output.dtype).tiny).log()
    with torch.no_grad():
        sums = output.sum(axis)
        if bool((output >= 0).all()) and bool(((sums - 1).abs() < 1e-3).all()):
            raise DataError(
                "the model's first output holds probabilities (a Softmax at its end): say so with probabilities=True"
            )
    return output


def class_axis(rank: int) -> int:
    """The axis of the classes where nothing else is known: [n, positions, classes], else [n, classes, ...]."""
    return 2 if rank == 3 else 1


def _with_labels(output: Tensor, labels: Tensor, axis: int | None) -> tuple[Tensor, Tensor]:
    """Scores [cells, classes] and class numbers [cells]. Raises DataError where labels do not fit the scores."""
    usual = class_axis(output.dim()) if axis is None else axis
    for each in (usual, 1, output.dim() - 1):
        if 0 < each < output.dim() and labels.shape == (
            *output.shape[:each],
            *output.shape[each + 1 :],
        ):
            rows = output.movedim(each, -1)
            return rows.reshape(-1, rows.shape[-1]), class_numbers(
                labels, rows.shape[-1]
            ).reshape(-1)
    raise DataError(misfit(labels.shape, output.shape))


def cross_entropy(
    *, probabilities: bool = False, smoothing: float = 0.0, graph: Graph | None = None
) -> Loss:
    """Cross entropy of the first output with `labels`: class numbers, of its shape without the axis of the classes.

    Args:
        probabilities: the model ends in a Softmax; by default its output is taken for logits.
        smoothing: share of the target that is spread over all classes, from 0 to 1.
        graph: says on which axis the classes are, if labels fit several.

    Raises:
        OptionError: `smoothing` is out of range.

    The loss raises DataError for batches without labels, for labels that are no class numbers of the output, and for
    probabilities that were not announced.
    """
    if not 0 <= smoothing <= 1:
        raise OptionError(f"smoothing must be from 0 to 1, got {smoothing:g}")
    known = outputs_of_graph(graph)[0] if graph is not None else None

    def loss(outputs: Sequence[Tensor], batch: Batch) -> Tensor:
        if LABELS not in batch:
            raise DataError(
                "cross entropy needs `labels` in the data; without any use `own_labels` or `distillation`"
            )
        output = outputs[0]
        axis = (
            known.class_axis(output.dim())
            if known is not None and known.kind == "scores"
            else None
        )
        rows, wanted = _with_labels(output, as_labels(batch[LABELS]), axis)
        return nnf.cross_entropy(
            _logits(rows, probabilities), wanted, label_smoothing=smoothing
        )

    return loss


def own_labels(*, probabilities: bool = False, seed: int = 0) -> Loss:
    """Cross entropy with labels drawn from the model's own distribution: Fisher information without labels.

    A loss against the model's own outputs as they are has no gradient; against labels drawn from them its
    mean squared gradient is the Fisher information. Source: Kunstner, Balles, Hennig 2019, section 2.
    """
    generator = torch.Generator().manual_seed(seed)

    def loss(outputs: Sequence[Tensor], batch: Batch) -> Tensor:
        axis = class_axis(outputs[0].dim())
        logits = _logits(outputs[0], probabilities, axis).movedim(axis, -1)
        rows = logits.reshape(-1, logits.shape[-1])
        drawn = torch.multinomial(
            rows.detach().softmax(-1).float().cpu(), 1, generator=generator
        )[:, 0]
        return nnf.cross_entropy(rows, drawn.to(rows.device))

    return loss


def distillation(
    original: torch.nn.Module,
    *,
    temperature: float = 4.0,
    labels: float = 0.0,
    task: Loss | None = None,
    probabilities: bool = False,
    kinds: Mapping[str, Kind] | None = None,
    by_size: bool = False,
) -> Loss:
    """How far outputs are from the original's: the mean over all of them, each by its kind.

    Scores of classes: KL divergence of the distributions over the classes at a temperature, times its square. Values
    (boxes, maps, embeddings): squared difference by the variance of the original's. Outputs that are whole numbers
    are left out, since they have no gradient.

    Args:
        original: the teacher; it is called with the batch's inputs, in eval mode, without gradients. A `GraphModule`
            tells the kinds of its outputs; of another module the first output holds scores, others values.
        temperature: divides logits of both.
        labels: share of the task's loss in the sum; the rest is distillation.
        task: that loss; cross entropy with `labels` by default.
        probabilities: the first output of the models ends in a Softmax.
        kinds: of outputs by name where they are not what `prunegraph.training.kinds` takes them for: "scores", "values"
            or "left out".
        by_size: outputs are weighted by how many elements they have: maps of one detector at several sizes. By default
            all count the same.

    Raises UnknownNameError for an output that is not there; the loss raises DataError where outputs do not fit.

    Source: Hinton, Vinyals, Dean 2015.
    """
    original.eval()
    graph = original.graph if isinstance(original, GraphModule) else None
    known = _kinds(graph, kinds or {}) if graph is not None else ()
    by_labels = task or cross_entropy(probabilities=probabilities, graph=graph)

    def loss(outputs: Sequence[Tensor], batch: Batch) -> Tensor:
        with torch.no_grad():
            wanted = outputs_of(
                original, {name: value for name, value in batch.items() if name != LABELS}
            )
        pairs = _paired(outputs, wanted)
        parts, sizes = [], []
        for index, (student, teacher) in enumerate(pairs):
            kind = known[index] if known else _by_rank(index, teacher)
            if (
                kind.kind == "left out"
                or not teacher.is_floating_point()
                or not teacher.numel()
            ):
                continue
            sizes.append(teacher.numel() if by_size else 1)
            if kind.kind == "values":
                parts.append(squared_error(student, teacher))
            else:
                chances = kind.probabilities or (probabilities and index == 0)
                parts.append(
                    _divergence(
                        student,
                        teacher,
                        kind.class_axis(teacher.dim()),
                        temperature,
                        chances,
                    )
                )
        if not parts:
            raise DataError(
                "no output of the original is a floating-point number: there is nothing to learn from it"
            )
        shares = torch.tensor(sizes, dtype=torch.float64)
        shares = (shares / shares.sum()).to(parts[0])
        far = (torch.stack(parts) * shares).sum() if by_size else torch.stack(parts).mean()
        return (
            far if labels == 0 else (1 - labels) * far + labels * by_labels(outputs, batch)
        )

    loss.notes = _notes(known)  # type: ignore[attr-defined]
    return loss


def _notes(known: Sequence[Output]) -> tuple[str, ...]:
    """Say what is learnt of which outputs, where it is not one output's scores alone."""
    if [each.kind for each in known] in ([], ["scores"]):
        return ()
    kinds: dict[str, list[str]] = {}
    for each in known:
        kinds.setdefault(each.kind, []).append(each.name)
    what = {
        "scores": "scores of classes",
        "values": "values",
        "left out": "left out (no gradient)",
    }
    return (
        "outputs of the original: "
        + "; ".join(f"{what[kind]}: {', '.join(names)}" for kind, names in kinds.items()),
    )


def _kinds(graph: Graph, given: Mapping[str, Kind]) -> tuple[Output, ...]:
    """Kinds of a graph's outputs, those that are given in the place of what is read off the graph."""
    for name in given:
        if name not in graph.outputs:
            raise UnknownNameError("output", name, graph.outputs)
    return tuple(
        each.of_kind(given[each.name]) if each.name in given else each
        for each in outputs_of_graph(graph)
    )


def _by_rank(index: int, output: Tensor) -> Output:
    """Say what an output of a module is that has no graph to ask."""
    if index or output.dim() < 2 or output.shape[class_axis(output.dim())] < 2:
        return Output(str(index), "values", output.dim())
    return Output(str(index), "scores", output.dim(), class_axis(output.dim()))


def _paired(
    outputs: Sequence[Tensor], wanted: Sequence[Tensor]
) -> list[tuple[Tensor, Tensor]]:
    """Outputs beside the original's, in single precision at least. Raises DataError where they do not match."""
    if len(outputs) != len(wanted):
        raise DataError(
            f"the model has {len(outputs)} outputs, the original {len(wanted)}: they have to be the same"
        )
    for index, (mine, theirs) in enumerate(zip(outputs, wanted, strict=True)):
        if not (isinstance(mine, torch.Tensor) and isinstance(theirs, torch.Tensor)):
            raise DataError(
                f"output {index} is a sequence, which cannot be compared with the original's"
            )
        if mine.shape != theirs.shape:
            raise DataError(
                f"output {index} has shape {list(mine.shape)}, that of the original {list(theirs.shape)}: they have to "
                "be the same"
            )
    return [
        (_single(mine), _single(theirs))
        for mine, theirs in zip(outputs, wanted, strict=True)
    ]


def _single(output: Tensor) -> Tensor:
    return output.float() if output.dtype in (torch.bfloat16, torch.float16) else output


def _divergence(
    student: Tensor, teacher: Tensor, axis: int, temperature: float, probabilities: bool
) -> Tensor:
    """KL divergence over the classes, the mean over cells, times the temperature's square."""
    own, wanted = (
        torch.log_softmax(_logits(y, probabilities, axis) / temperature, axis)
        for y in (student, teacher)
    )
    cells = student.numel() // student.shape[axis]
    return (
        nnf.kl_div(own, wanted, reduction="sum", log_target=True) / cells * temperature**2
    )


def squared_error(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared difference by the variance of what is wanted; by its square where it does not vary."""
    scale = teacher.var(correction=0)
    scale = torch.where(
        scale > VARIES * teacher.square().mean(), scale, teacher.square().mean()
    )
    return nnf.mse_loss(student, teacher) / torch.where(
        scale > 0, scale, torch.ones_like(scale)
    )


def mean_squared(original: torch.nn.Module) -> Loss:
    """Mean squared difference of all outputs from the original's, for models that do not classify."""
    original.eval()

    def loss(outputs: Sequence[Tensor], batch: Batch) -> Tensor:
        with torch.no_grad():
            wanted = outputs_of(
                original, {name: value for name, value in batch.items() if name != LABELS}
            )
        pairs = [(y, t) for y, t in _paired(outputs, wanted) if y.is_floating_point()]
        if not pairs:
            raise DataError(
                "no output of the original is a floating-point number: there is nothing to learn from it"
            )
        return torch.stack([nnf.mse_loss(y, t) for y, t in pairs]).mean()

    return loss


def inner_of(loss: Loss) -> tuple[str, ...]:
    """Names of the inner values that a loss is given behind the outputs."""
    return tuple(getattr(loss, "inner", ()))


def outputs_with(
    module: torch.nn.Module, inputs: Mapping[str, Tensor], inner: Sequence[str]
) -> tuple[Tensor, ...]:
    """All outputs of a module, and inner values by name behind them.

    Raises DataError where the module is none of a graph, UnknownNameError where it has no such value.
    """
    if not inner:
        return outputs_of(module, inputs)
    if not isinstance(module, GraphModule):
        raise DataError("inner values can be had of a GraphModule alone")
    module.watch(inner)
    try:
        created: Any = outputs_of(module, inputs)
        return (*created, *(module.observed[name] for name in inner))
    finally:
        module.watch(())


def outputs_of(module: torch.nn.Module, inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    """All outputs of a module: a graph's takes inputs by name, others in the order in which they are given."""
    created: Any = (
        module(inputs) if isinstance(module, GraphModule) else module(*inputs.values())
    )
    if isinstance(created, Mapping):
        return tuple(created.values())
    return tuple(created) if isinstance(created, (tuple, list)) else (created,)

"""Alternate update: binary weights set layer by layer, in closed form, with nothing trained (source 003).

For each layer, first to last: what its input is now, with all layers before it binary, and what its output should be;
codes and scales that come nearest (`codes`); statistics of the normalisations behind estimated anew. A layer keeps its
new weights only if the loss on samples that were held out does not rise: a network that has converged loses otherwise.
Sources: Hu, Wang, Cheng 2018 (BWNH); Wang et al. 2018 (two-step quantization).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch

from prunegraph.errors import DataError, OptionError
from prunegraph.graph import linear
from prunegraph.graph.model import Graph
from prunegraph.operators import is_batch_normalization, is_convolution, passes
from prunegraph.runtime.data import LABELS, Data
from prunegraph.training.binary.codes import Alternation, by_magnitude
from prunegraph.training.binary.network import (
    BinaryLayer,
    binary_layers,
    final_layers,
    obstacle,
)
from prunegraph.training.binary.statistics import (
    LayerMoments,
    estimate_statistics,
    places,
    values,
)
from prunegraph.training.binary.tuning import Tuner, Tuning
from prunegraph.training.losses import Loss, cross_entropy, distillation, outputs_of
from prunegraph.training.module import GraphModule
from prunegraph.training.operators.table import Tensor, to_torch

Array = np.ndarray
Batch = Mapping[str, Tensor]
Targets = Literal["teacher", "descent", "latent"]

#: Shares of an output's size by which "descent" goes down the gradient.
STEPS = (0.03, 0.1, 0.3)

#: Share of the mean diagonal that is added to the Gram matrix of a last layer.
DAMPING = 0.01


@dataclass(frozen=True)
class Update:
    """What became of a layer.

    `error` is the squared error of its outputs by their squared size (without means), before and after; `flips` the
    share of codes that changed; `loss` that on held-out samples, before and after; `kept` whether the new weights stay.
    `tuned` is that loss once what follows was trained (None if it was not), `tuning_kept` whether that stays.
    """

    layer: str
    error: tuple[float, float]
    flips: float
    loss: tuple[float, float]
    kept: bool
    tuned: float | None = None
    tuning_kept: bool = False


@dataclass(frozen=True)
class SampleSplit:
    """Batches to fit to, and batches held out to judge by; `numbers` are those of the held-out samples in the data."""

    fit: Sequence[Batch]
    held: Sequence[Batch]
    numbers: Array = field(default_factory=lambda: np.zeros(0, np.int64))

    @classmethod
    def of(
        cls,
        data: Data | Mapping[str, Array] | Sequence[Mapping[str, Array]],
        graph: Graph,
        *,
        count: int = 2000,
        held: float = 1 / 3,
        size: int = 250,
        seed: int = 0,
    ) -> SampleSplit:
        """A draw of samples, part of them held out.

        Args:
            data: inputs, and perhaps `labels`.
            graph: whose inputs they are.
            count: samples taken, at most.
            held: share of them that is held out.
            size: samples in a batch.
            seed: of the draw.

        Raises:
            DataError: the data do not fit the graph, are too few to hold some out, or are infinite or not numbers.
        """
        fitted = Data.of(data).fit(graph)
        table = fitted.in_memory()
        order = np.random.default_rng(seed).permutation(table.count)[:count]
        cut = round(len(order) * held)
        if not 0 < cut < len(order):
            raise DataError(
                f"{len(order)} samples cannot be split into some to fit to and some held out: give more"
            )
        fixed = fitted.fixed(graph)
        size = 1 if fitted.is_whole else fixed or size
        parts = []
        for chosen in (order[cut:], order[:cut]):
            splits = [np.sort(chosen[i : i + size]) for i in range(0, len(chosen), size)]
            splits = [split for split in splits if not fixed or len(split) == fixed]
            parts.append(
                [
                    {
                        name: to_torch(_finite(array, name, fitted.source))
                        for name, array in table.take(split).items()
                    }
                    for split in splits
                ]
            )
        if not all(parts):
            raise DataError(
                f"{len(order)} samples do not fill a batch of {size} to fit to and one held out: give more"
            )
        return cls(parts[0], parts[1], np.sort(order[:cut]))

    @property
    def labelled(self) -> bool:
        return LABELS in self.fit[0]


def _finite(array: Array, name: str, source: str) -> Array:
    """The array, if all its values are finite. Raises DataError."""
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DataError(
            f"{source}: {name!r} has values that are infinite or not numbers; clean the data"
        )
    return array


def alternate_update(
    module: GraphModule,
    samples: SampleSplit,
    *,
    teacher: GraphModule | None = None,
    targets: Targets = "teacher",
    loss: Loss | None = None,
    guard: bool = True,
    refit: bool = True,
    tuning: Tuning | None = None,
    progress: Callable[[Update], None] | None = None,
) -> list[Update]:
    """Set the binary weights of a module, in place, and statistics of normalisations with them.

    Args:
        module: of a binary graph.
        samples: a few hundred to two thousand.
        teacher: the network in full precision that the graph was made from.
        targets: what outputs of a layer should be: "teacher", those of the teacher's; "descent", its own a step down
            the loss's gradient; "latent", those of the weights whose signs it has.
        loss: judges, and gives "descent" its gradient; by default cross entropy with labels, else the distance from
            the teacher's outputs.
        guard: restore a layer if the loss on held-out samples rises; the same for statistics before the first one.
        refit: with each layer, fit the last layers, if they are in full precision, to the teacher's outputs too.
        tuning: after each layer, train what does not come before it; undone like the update if the loss rises.
        progress: called with each layer's record.

    Raises:
        OptionError: no such targets.
        DataError: "teacher" without a teacher, or with one that has other layers; neither labels nor a teacher to
            judge by.
    """
    if targets not in ("teacher", "descent", "latent"):
        raise OptionError(f"targets are teacher, descent or latent, not {targets!r}")
    if targets == "teacher" and teacher is None:
        raise DataError(
            "targets of a teacher need the network in full precision: give it, or other targets"
        )
    missing = [
        n
        for n in _outputs(module.graph)
        if teacher is not None and n not in teacher.graph.producer
    ]
    if targets == "teacher" and missing:
        raise DataError(
            f"the teacher makes no value {missing[0]!r}: it has to be the network the binary one was made from"
        )
    if loss is None:
        if not samples.labelled and teacher is None:
            raise DataError(
                "there is nothing to judge a layer by: give labels, a teacher, or a loss"
            )
        loss = (
            cross_entropy()
            if samples.labelled or teacher is None
            else distillation(teacher, temperature=1.0)
        )
    module.eval()
    if teacher is not None:
        teacher.eval()
    run = _Updating(module, samples, teacher, targets, loss, guard, refit)
    records, layers = [], binary_layers(module.graph)
    tuner = Tuner(module, tuning, len(layers)) if tuning is not None else None
    for layer in layers:
        record = run.update(layer)
        records.append(record if tuner is None else run.tune(tuner, layer, record))
        if progress is not None:
            progress(records[-1])
    return records


@dataclass(frozen=True)
class _Attempt:
    """A module's state with new weights of a layer: the loss it is fitted with, error before and after, flips."""

    loss: float
    state: dict[str, Tensor]
    error: tuple[float, float]
    flips: float


@dataclass
class _Updating:
    module: GraphModule
    samples: SampleSplit
    teacher: GraphModule | None
    targets: Targets
    loss: Loss
    guard: bool
    refit: bool

    def __post_init__(self) -> None:
        self.last = (
            _last_layers(self.module.graph)
            if self.refit and self.targets == "teacher"
            else []
        )
        before = self._state()
        self.now = mean_loss(self.module, self.samples.held, self.loss)
        estimate_statistics(self.module, self.samples.fit)
        estimated = mean_loss(self.module, self.samples.held, self.loss)
        # What a training has gathered over all its data is better than what a few samples tell.
        if self.guard and estimated > self.now:
            self.module.load_state_dict(before)
        else:
            self.now = estimated

    def update(self, layer: BinaryLayer) -> Update:
        before, moments = self._state(), self._moments(layer)
        centred = moments.centred() if _is_centred(self.module.graph, layer) else moments
        old = matrix(self.module.weight(layer.weight), layer.axis)
        tried = [
            self._attempt(layer, moments, centred, shares, old) for shares in self._shares()
        ]
        best = min(tried, key=lambda attempt: attempt.loss)
        self.module.load_state_dict(best.state)
        after = mean_loss(self.module, self.samples.held, self.loss)
        kept = not self.guard or after <= self.now
        record = Update(layer.node.name, best.error, best.flips, (self.now, after), kept)
        if kept:
            self.now = after
        else:
            self.module.load_state_dict(before)
        return record

    def tune(self, tuner: Tuner, layer: BinaryLayer, record: Update) -> Update:
        """Train what follows a layer that was updated; the layer's record with what came of it."""
        before = self._state()
        tuner.after(layer)
        after = mean_loss(self.module, self.samples.held, self.loss)
        kept = not self.guard or after <= self.now
        if kept:
            self.now = after
        else:
            self.module.load_state_dict(before)
        return replace(record, tuned=after, tuning_kept=kept)

    def _state(self) -> dict[str, Tensor]:
        return {
            name: tensor.detach().clone()
            for name, tensor in self.module.state_dict().items()
        }

    def _attempt(
        self,
        layer: BinaryLayer,
        moments: LayerMoments,
        centred: LayerMoments,
        shares: Sequence[float],
        old: Array,
    ) -> _Attempt:
        """New weights towards one target, from the old ones [filters, D]."""
        cross, energy = self._target(centred, shares, old)
        start = np.where(old >= 0, 1.0, -1.0)
        result = Alternation(centred.gram, cross, start, layer.scales).run()
        self._write(layer, result, old, moments, shares)
        estimate_statistics(self.module, self.samples.fit, layer.node.name)
        self._refit()
        sizes = by_magnitude(old, layer.scales)[1]
        ends = (start * _expanded(sizes, old), result.weights)
        first, last = (_error(end, centred.gram, cross, energy) for end in ends)
        loss = (
            mean_loss(self.module, self.samples.fit, self.loss)
            if len(self._shares()) > 1
            else 0.0
        )
        return _Attempt(
            loss, self._state(), (first, last), float((result.codes != start).mean())
        )

    def _refit(self) -> None:
        """Last layers in full precision, fitted to the teacher's outputs by least squares on what they now read."""
        for layer in self.last:
            moments = self._moments(layer)
            centred = (
                moments.centred() if _is_centred(self.module.graph, layer) else moments
            )
            damping = DAMPING * np.trace(centred.gram) / len(centred.gram)
            damping += np.finfo(
                np.float32
            ).tiny  # inputs that never change have no products
            rows = np.linalg.solve(
                centred.gram + damping * np.eye(len(centred.gram)), centred.cross[0]
            ).T
            weight = self.module.weight(layer.weight)
            with torch.no_grad():
                weight.copy_(from_matrix(rows, weight, layer.axis))
            self._set_bias(layer, rows, moments, (1.0,))

    def _shares(self) -> list[tuple[float, ...]]:
        """Weights of the gathered outputs in the target; several where the best is to be found."""
        return [(1.0, -step) for step in STEPS] if self.targets == "descent" else [(1.0,)]

    def _target(
        self, moments: LayerMoments, shares: Sequence[float], old: Array
    ) -> tuple[Array, Array]:
        if self.targets == "latent":
            cross = moments.gram @ old.T
            return cross, (old.T * cross).sum(0)
        return moments.target(self._sized(moments, shares))

    def _sized(self, moments: LayerMoments, shares: Sequence[float]) -> list[float]:
        """Shares, that of the gradient in the size of the outputs."""
        if self.targets != "descent":
            return list(shares)
        own, gradient = (float(moments.energy[i, i].sum()) for i in (0, 1))
        return [shares[0], shares[1] * (own / gradient) ** 0.5 if gradient > 0 else 0.0]

    def _moments(self, layer: BinaryLayer) -> LayerMoments:
        """Moments of the layer's input as it is now and of the outputs that its target is made of."""
        weight = self.module.weight(layer.weight)
        filters = weight.shape[layer.axis]
        kernel = weight.shape[2:] if is_convolution(layer.node) else ()
        result = LayerMoments.empty(
            weight.numel() // filters, filters, 2 if self.targets == "descent" else 1
        )
        for x, outputs in self._values(layer):
            for rows, columns in places(layer.node, kernel, x, outputs):
                result.add(rows, columns)
        return result

    def _values(self, layer: BinaryLayer) -> Iterator[tuple[Tensor, list[Tensor]]]:
        read, output = layer.node.inputs[0], layer.node.outputs[0]
        for batch in self.samples.fit:
            if self.targets == "descent":
                outputs = self.module.graph.outputs
                with torch.enable_grad():
                    result = values(self.module, {read, output, *outputs}, batch)
                    loss = self.loss([result[name] for name in outputs], batch)
                    (gradient,) = torch.autograd.grad(loss, result[output])
                yield result[read].detach(), [result[output].detach(), gradient]
                continue
            with torch.no_grad():
                source = (
                    self.module
                    if self.targets == "latent" or self.teacher is None
                    else self.teacher
                )
                x = values(self.module, [read], batch)[read]
                yield x, [values(source, [output], batch)[output]]

    def _write(
        self,
        layer: BinaryLayer,
        result: Alternation,
        old: Array,
        moments: LayerMoments,
        shares: Sequence[float],
    ) -> None:
        """Weights whose signs and mean magnitudes are what was found; those near 0 stay near, to move when trained."""
        weight = self.module.weight(layer.weight)
        means = _expanded(by_magnitude(old, layer.scales)[1], old)
        sizes = np.where(means > 0, np.abs(old) / np.where(means > 0, means, 1.0), 1.0)
        new = np.maximum(sizes, 1e-3) * result.weights
        means = by_magnitude(new, layer.scales)[1]
        new *= _expanded(result.scales / np.maximum(means, 1e-300), old)
        with torch.no_grad():
            weight.copy_(from_matrix(new, weight, layer.axis))
        if self.targets != "latent":
            self._set_bias(layer, result.weights, moments, shares)

    def _set_bias(
        self,
        layer: BinaryLayer,
        rows: Array,
        moments: LayerMoments,
        shares: Sequence[float],
    ) -> None:
        """A bias, where the layer has one, with which the outputs of its new weights have the mean they should have."""
        bias = layer.node.input(2)
        if bias in self.module.graph.weights:
            target = (
                np.tensordot(self._sized(moments, shares), moments.outputs, 1)
                / moments.count
            )
            rest = target - rows @ moments.inputs / moments.count
            with torch.no_grad():
                self.module.weight(bias).copy_(
                    torch.from_numpy(rest).reshape(self.module.weight(bias).shape)
                )


def _outputs(graph: Graph) -> list[str]:
    """Values that binary layers make."""
    return [layer.node.outputs[0] for layer in binary_layers(graph)]


def _last_layers(graph: Graph) -> list[BinaryLayer]:
    """Layers in full precision that no other comes after, as records of where their weights are."""
    binary = {layer.node.index for layer in binary_layers(graph)}
    nodes = [graph.nodes[index] for index in final_layers(graph) if index not in binary]
    return [
        BinaryLayer(node, node.inputs[1], linear.output_axis(node), False)
        for node in nodes
        if not obstacle(graph, node, min_inputs=1)
    ]


def matrix(weight: Tensor, axis: int) -> Array:
    """A layer's weight as [filters, D]."""
    rows = weight.detach().movedim(axis, 0)
    return rows.reshape(len(rows), -1).double().cpu().numpy()


def from_matrix(values: Array, like: Tensor, axis: int) -> Tensor:
    """The inverse of `matrix`, in the shape and type of `like`."""
    return (
        torch.from_numpy(values)
        .reshape(like.movedim(axis, 0).shape)
        .movedim(0, axis)
        .to(like)
    )


def _expanded(scales: Array, like: Array) -> Array:
    """Scales [filters, groups] for every weight of a matrix [filters, D]."""
    return np.repeat(scales, like.shape[1] // scales.shape[1], 1)


def _error(weight: Array, gram: Array, cross: Array, energy: Array) -> float:
    """Squared error of all filters' outputs, by their squared size."""
    missed = energy - 2 * (weight * cross.T).sum(1) + ((weight @ gram) * weight).sum(1)
    return float(missed.sum() / max(energy.sum(), 1e-300))


def _is_centred(graph: Graph, layer: BinaryLayer) -> bool:
    """Tell whether the mean of a layer's outputs does not matter: it has a bias, or a normalisation is behind it."""
    if layer.node.input(2) in graph.weights:
        return True
    value = layer.node.outputs[0]
    while value not in graph.outputs and len(graph.consumers.get(value, ())) == 1:
        reader = graph.nodes[graph.consumers[value][0][0]]
        if is_batch_normalization(reader):
            return True
        if not passes(reader, "normals"):
            return False
        value = reader.outputs[0]
    return False


def mean_loss(module: GraphModule, batches: Sequence[Batch], loss: Loss) -> float:
    """The mean over samples of a loss."""
    total = count = 0.0
    for batch in batches:
        size = len(next(iter(batch.values())))
        with torch.no_grad():
            outputs = outputs_of(
                module, {name: value for name, value in batch.items() if name != LABELS}
            )
            total += float(loss(outputs, batch)) * size
        count += size
    return total / count

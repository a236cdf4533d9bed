"""A trained network -> a binary one: `binarize`, from graph to file form."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from prunegraph.errors import DataError, OptionError
from prunegraph.graph import linear
from prunegraph.graph.model import Graph
from prunegraph.graph.shapes import shape_info
from prunegraph.runtime.data import Data
from prunegraph.training.batches import Batches
from prunegraph.training.batching import batching
from prunegraph.training.binary.compression import CompressionRatios, compression
from prunegraph.training.binary.lower import Form, Runtime, lower, runtime_of
from prunegraph.training.binary.network import (
    MIN_INPUTS,
    Last,
    Quantizer,
    final_layers,
    to_binary,
    trainable,
)
from prunegraph.training.binary.statistics import (
    estimate_statistics,
    part_constant_channels,
)
from prunegraph.training.binary.tuning import ActivationsFirst, Tuning
from prunegraph.training.binary.update import (
    SampleSplit,
    Targets,
    Update,
    alternate_update,
    mean_loss,
)
from prunegraph.training.evaluate import measure
from prunegraph.training.fit import TrainingConfig, fit
from prunegraph.training.labels import check as check_labels
from prunegraph.training.losses import Loss, cross_entropy, distillation
from prunegraph.training.module import GraphModule

#: At which temperature a network is trained towards the original; it is judged at 1.
TEMPERATURE = 4.0


@dataclass(frozen=True)
class BinarizeOptions:
    """How a network becomes binary.

    Args:
        quantizer: of activations.
        affine: keep scales and shifts of normalisations before quantizers; see `to_binary`.
        last: "float", "int8" or "binary": weights of layers that no other comes after.
        shifts: train scale and shift of every normalisation before a quantizer, those that have none too.
        rprelu: train shifts and slopes of real-valued rectifiers behind binary layers; see `to_binary`.
        keep: names of layers that stay as they are.
        min_inputs: layers whose filters have fewer inputs stay as they are.
        scales: of each filter, for groups of input channels; see `to_binary`.
        update: alternate update; without it signs and mean magnitudes stay.
        targets: of the update; see `alternate_update`.
        guard: undo a layer's update if the loss on held-out samples rises.
        samples: how many are used to update and to judge, at most.
        held: share of them to judge by.
        tune: epochs, fractions too, in which the update trains what follows the layers that are done; see `Tuning`.
        epochs: of training through the quantizers, after the update; the better of before and after stays.
        activations_first: in the first half of that training weights are not binary, activations are.
        lr: highest learning rate of that training.
        batch: samples in a batch of it.
        probabilities: the model ends in a Softmax.
        form: "arithmetic" or "thresholds"; see `lower`.
        runtime: "integers", "packed" or "float": how layers compute; see `lower`.
        seed: of draws and orders.

    Raises:
        OptionError: a form that the runtime does not have; tuning without an update, or for less than no time;
            rectifiers with shifts where nothing is trained.
    """

    quantizer: Quantizer = field(default_factory=Quantizer)
    affine: bool = True
    last: Last = "int8"
    shifts: bool = False
    rprelu: bool = False
    keep: Sequence[str] = ()
    min_inputs: int = MIN_INPUTS
    scales: int = 1
    update: bool = True
    targets: Targets = "teacher"
    guard: bool = True
    samples: int = 2000
    held: float = 1 / 3
    tune: float = 0.0
    epochs: int = 0
    activations_first: bool = False
    lr: float = 0.01
    batch: int = 100
    probabilities: bool = False
    form: Form = "arithmetic"
    runtime: Runtime | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        runtime_of(self.runtime, self.form)
        if self.tune < 0 or (self.tune and not self.update):
            raise OptionError(
                "layers are tuned after their update: give epochs of at least 0, and leave the update on"
            )
        if self.rprelu and not (self.tune or self.epochs):
            raise OptionError(
                "rprelu: shifts and slopes of rectifiers come from training: give epochs, or tune"
            )


@dataclass(frozen=True)
class BinarizeResult:
    """What `binarize` made.

    `model` has ONNX's operators only, `trained` is its form for training. `updates` has a record for each layer, `left`
    why the others are not binary. `losses` are those on held-out samples: signs alone, after the update, after
    training (the last two only if they were asked for). `notes` are what a user should know of how it was fed.
    """

    model: Graph
    trained: Graph
    updates: tuple[Update, ...]
    skipped: Mapping[str, str]
    losses: Mapping[str, float]
    compression: CompressionRatios
    notes: tuple[str, ...] = ()


def binarize(
    model: Graph,
    data: Data | Mapping[str, np.ndarray] | Sequence[Mapping[str, np.ndarray]],
    options: BinarizeOptions | None = None,
    *,
    checkpoint: str | Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> BinarizeResult:
    """Give a trained network binary weights and activations of a few bits.

    Args:
        model: the network in full precision; it is not changed.
        data: inputs from the training distribution, with `labels` or without. Training uses all of them, the update
            a draw.
        options: the numbers.
        checkpoint: of the training; see `fit`.
        progress: called with what is being done.

    Raises:
        ModelError: no layer can become binary, or the model cannot be raised to operator set 18 or trained.
        DataError: the data do not fit the model.
        OptionError, UnknownNameError: an option has a value it cannot have.
        TrainingError: the training diverged.
    """
    options, say = options or BinarizeOptions(), progress or (lambda _: None)
    source = Data.of(data)
    check_labels(source)
    how = batching(model, source.fit(model))
    if how.kind == "none":
        raise DataError(
            f"{model.source}: axis 0 of its inputs is no batch: export it with one, samples along axis 0"
        )
    graph = how.graph
    binary, remaining = to_binary(
        graph,
        options.quantizer,
        affine=options.affine,
        last=options.last,
        keep=options.keep,
        min_inputs=options.min_inputs,
        scales=options.scales,
        rprelu=options.rprelu,
        data=Data.of(data),
    )
    source = source.fit(graph)
    samples = SampleSplit.of(
        source, graph, count=options.samples, held=options.held, seed=options.seed
    )
    teacher = GraphModule(graph)
    module = GraphModule(binary, trainable=trainable(binary, shifts=options.shifts))
    judge = _loss(graph, teacher, samples.labelled, options, task=1.0)
    say("statistics")
    module.eval()
    estimate_statistics(module, samples.fit)
    losses = {"signs": mean_loss(module, samples.held, judge)}
    updates: list[Update] = []
    if options.update:
        updates = alternate_update(
            module,
            samples,
            teacher=teacher,
            targets=options.targets,
            loss=judge,
            guard=options.guard,
            tuning=_tuning(graph, teacher, source, samples, options),
            progress=lambda record: say(f"updated {record.layer}"),
        )
        losses["update"] = mean_loss(module, samples.held, judge)
    if options.epochs:
        say("training")
        losses["training"] = _train(
            module, graph, teacher, source, samples, judge, options, checkpoint
        )
    trained = module.write_back()
    ends = (
        [trained.nodes[index] for index in final_layers(trained)]
        if options.last == "int8"
        else []
    )
    int8 = [node.name for node in ends if linear.is_linear(trained, node)]
    lowered = how.restored(
        lower(trained, runtime=options.runtime, form=options.form, int8=int8)
    )
    return BinarizeResult(
        lowered,
        trained,
        tuple(updates),
        remaining,
        losses,
        compression(trained),
        (how.note,) * bool(how.note),
    )


def measured(
    graph: Graph, binary: Graph, data: Data, metric: str = ""
) -> tuple[float, float]:
    """A metric of a network and of its binary form, larger is better; see `prunegraph.training.measure`."""
    evaluate = measure(data, graph, metric)
    with torch.no_grad():
        first, second = (evaluate(GraphModule(each).eval()) for each in (graph, binary))
    return first, second


def _loss(
    graph: Graph,
    teacher: GraphModule,
    labelled: bool,
    options: BinarizeOptions,
    task: float,
) -> Loss:
    """Cross entropy for a share `task` with labels, else the distance from the teacher's outputs."""
    own = cross_entropy(probabilities=options.probabilities)
    if labelled and task == 1.0:
        return own
    if len(shape_info(graph).shapes.get(graph.outputs[0], (0, 0))) != 2 and labelled:
        raise DataError(
            "labels are for models whose first output is [samples, classes]: leave them out"
        )
    share = task if labelled else 0.0
    warmth = 1.0 if task == 1.0 else TEMPERATURE
    return distillation(
        teacher,
        temperature=warmth,
        labels=share,
        task=own,
        probabilities=options.probabilities,
    )


def _tuning(
    graph: Graph,
    teacher: GraphModule,
    data: Data,
    samples: SampleSplit,
    options: BinarizeOptions,
) -> Tuning | None:
    """How layers are tuned, on all data but what they are judged by; None if they are not."""
    if not options.tune:
        return None
    rest = data.where(lambda numbers: ~np.isin(numbers, samples.numbers))
    size = batching(graph).batch(options.batch)
    return Tuning(
        Batches(rest, min(size, rest.samples), seed=options.seed),
        options.tune,
        _loss(graph, teacher, samples.labelled, options, task=0.5),
    )


def _train(
    module: GraphModule,
    graph: Graph,
    teacher: GraphModule,
    data: Data,
    samples: SampleSplit,
    judge: Loss,
    options: BinarizeOptions,
    checkpoint: str | Path | None,
) -> float:
    """Train through the quantizers; weights stay as they were if the loss on held-out samples rose. The loss."""
    before = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
    earlier = mean_loss(module.eval(), samples.held, judge)
    batches = Batches(data, batching(graph).batch(options.batch), seed=options.seed)
    loss = _loss(graph, teacher, samples.labelled, options, task=0.5)
    first = ActivationsFirst(module) if options.activations_first else None
    fit(
        module,
        batches,
        TrainingConfig(options.epochs, lr=options.lr, seed=options.seed),
        loss=loss,
        callbacks=[first] if first is not None else [],
        checkpoint=checkpoint,
        identity=("binarize", options),
    )
    if first is not None:
        first.end()
    part_constant_channels(module)
    after = mean_loss(module.eval(), samples.held, judge)
    if after > earlier:
        module.load_state_dict(before)
        return earlier
    return after

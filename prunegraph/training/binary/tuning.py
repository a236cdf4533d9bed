"""Training of what follows: after each layer's update its codes are settled, and the rest of the network is tuned.

What is settled runs as it will when the network is used: by running statistics, without gradients, which makes a step
cheaper the further the update has come. Each time learning rates fall to 0, so that what comes of it can be judged.
Sources: source 003 (layer by layer); Zhou, Yao, Guo, Xu, Chen 2017 (INQ: settled weights, the rest retrained).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from prunegraph.errors import OptionError
from prunegraph.graph.model import Graph
from prunegraph.training.batches import Batches
from prunegraph.training.binary.network import BinaryLayer
from prunegraph.training.binary.operators import DOMAIN
from prunegraph.training.fit import fit
from prunegraph.training.losses import Loss
from prunegraph.training.module import GraphModule
from prunegraph.training.operators.table import Call, Operator, Tensor, Value
from prunegraph.training.optimizers import optimizer_of
from prunegraph.training.program import Program, ProgramStep
from prunegraph.training.run import Callback, Run, TrainingConfig

#: Learning rate of AdamW at the first step.
LR = 2e-3


@dataclass(frozen=True)
class Tuning:
    """How what follows a layer is tuned.

    Args:
        batches: all that it is trained on; without the samples that layers are judged by.
        epochs: passes over the batches, for all layers together; fractions are possible.
        loss: of a batch.
        lr: learning rate of AdamW at the first step.

    Raises:
        OptionError: no epochs.
    """

    batches: Batches
    epochs: float
    loss: Loss
    lr: float = LR

    def __post_init__(self) -> None:
        if not self.epochs > 0:
            raise OptionError(f"epochs of tuning are above 0, not {self.epochs:g}")


class Tuner:
    """Tunes, one layer after the other, what follows it.

    Args:
        module: of a binary graph.
        tuning: the numbers.
        layers: how often `after` will be called.
    """

    def __init__(self, module: GraphModule, tuning: Tuning, layers: int):
        self.module, self.tuning = module, tuning
        self.recipe = TrainingConfig(1, lr=tuning.lr, optimizer="adamw")
        self.optimizer = optimizer_of(module, self.recipe)
        self.batches = _endless(tuning.batches)
        total = max(round(tuning.epochs * len(tuning.batches)), layers)
        # The first layers get a step more where the total does not divide.
        self.steps = [(total + layers - 1 - i) // layers for i in range(layers)]

    def after(self, layer: BinaryLayer) -> None:
        """Train all that a layer's output does not depend on, for the layer's share of the steps."""
        steps = self.steps.pop(0)
        with settled(self.module, layer.node.outputs[0]):
            if any(p.requires_grad for p in self.module.parameters()):
                fit(
                    self.module,
                    _Next(self.batches, steps),
                    self.recipe,
                    loss=self.tuning.loss,
                    optimizer=self.optimizer,
                    progress=False,
                )
        self.module.eval()


def _endless(batches: Batches) -> Iterator[dict[str, Tensor]]:
    """Epoch after epoch, each in an order of its own."""
    for epoch in itertools.count():
        batches.set_epoch(epoch)
        yield from batches


class _Next:
    """The next so many of some batches, once."""

    def __init__(self, batches: Iterator[dict[str, Tensor]], count: int):
        self.batches, self.count = batches, count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return itertools.islice(self.batches, self.count)


@contextmanager
def settled(module: GraphModule, value: str) -> Iterator[None]:
    """Hold all that makes a value: weights it depends on are not trained, its nodes run as in eval mode."""
    created, read = _above(module.graph, value)
    tensors = [module.weight(name) for name in read & module.weights().keys()]
    held = [tensor for tensor in tensors if tensor.requires_grad]
    for parameter in held:
        parameter.requires_grad_(False)
        parameter.grad = None
    before = module._program
    module._program = _stepped(
        before, lambda step: _evaluated(step) if created & {*step.outputs} else step
    )
    try:
        yield
    finally:
        module._program = before
        for parameter in held:
            parameter.requires_grad_(True)


class ActivationsFirst(Callback):
    """In the first half of a run layers compute with weights as they are trained, then with their signs.

    Source: Wang, Hu, Zhang, Zhang, Liu, Cheng 2018 (two-step quantization).
    """

    def __init__(self, module: GraphModule):
        self.module, self.binary, self.ended = module, module._program, False
        module._program = _stepped(self.binary, _with_floats)

    def after_step(self, run: Run) -> None:
        if 2 * (run.step + 1) >= run.recipe.epochs * run.length:
            self.end()

    def end(self) -> None:
        """Compute with signs from now on."""
        self.module._program, self.ended = self.binary, True

    def identity(self) -> object:
        return "activations first"

    def state_dict(self) -> dict[str, Any]:
        return {"ended": self.ended}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["ended"]:
            self.end()


def _with_floats(step: ProgramStep) -> ProgramStep:
    """A step that hands weights on, in the place of one that makes them binary."""
    if step.node.domain != DOMAIN or step.node.op != "BinaryWeight":
        return step
    return replace(step, operator=Operator(lambda call, weight: weight))


def _stepped(program: Program, change: Callable[[ProgramStep], ProgramStep]) -> Program:
    """A program with other steps."""
    steps = tuple(change(step) for step in program.main.steps)
    return replace(program, main=replace(program.main, steps=steps))


def _above(graph: Graph, value: str) -> tuple[set[str], set[str]]:
    """Values of nodes that a value depends on, itself among them, and all that those nodes read."""
    created, read = {value}, {value}
    for node in reversed(graph.nodes):
        if read.intersection(node.outputs):
            created.update(node.outputs)
            read.update((*node.inputs, *node.captured))
    return created, read


def _evaluated(step: ProgramStep) -> ProgramStep:
    """A step that runs as in eval mode whatever the module's mode; one with subgraphs stays as it is."""
    if step.operator is None:
        return step
    function: Callable[..., Value] = step.operator.function

    def run(call: Call, *inputs: Value) -> Value:
        return function(replace(call, training=False), *inputs)

    return replace(step, operator=Operator(run, step.operator.host))

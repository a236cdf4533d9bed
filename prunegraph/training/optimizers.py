"""Optimizers by name, and averages of the weights that they make.

An optimizer is a function `(groups, recipe) -> torch.optim.Optimizer` in the registry `OPTIMIZERS`; packages offer
their own under the entry point `prunegraph.optimizers`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from prunegraph.errors import DataError
from prunegraph.registry import Registry
from prunegraph.training.operators.table import Tensor
from prunegraph.training.run import Callback, Run, TrainingConfig

#: Parameters with their weight decay, as PyTorch's optimizers take them.
Groups = Sequence[dict[str, Any]]

OPTIMIZERS: Registry[Callable[[Groups, TrainingConfig], torch.optim.Optimizer]] = Registry(
    "optimizer", "prunegraph.optimizers", parameters=("groups", "recipe")
)


@OPTIMIZERS.register("sgd")
def sgd(groups: Groups, recipe: TrainingConfig) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum."""
    return torch.optim.SGD(
        list(groups), recipe.lr, recipe.momentum, nesterov=recipe.momentum > 0
    )


@OPTIMIZERS.register("adamw")
def adamw(groups: Groups, recipe: TrainingConfig) -> torch.optim.Optimizer:
    """Adam with decoupled weight decay; the momentum is its first beta (Loshchilov, Hutter 2019)."""
    return torch.optim.AdamW(list(groups), recipe.lr, betas=(recipe.momentum, 0.999))


def optimizer_of(module: torch.nn.Module, recipe: TrainingConfig) -> torch.optim.Optimizer:
    """The optimizer that a recipe names; vectors do not decay.

    Raises UnknownNameError for a name that is not there, DataError without parameters.
    """
    chosen = OPTIMIZERS.get(recipe.optimizer)
    able = [p for p in module.parameters() if p.requires_grad]
    if not able:
        raise DataError("the module has no parameters to train")
    groups = [
        {"params": [p for p in able if p.dim() > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in able if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return chosen([group for group in groups if group["params"]], recipe)


class Averaging(Callback):
    """Keeps an exponential moving average of weights and statistics; it counts in place of the last weights.

    The average of the first steps is a short one: after t steps its decay is at most `(1 + t) / (10 + t)`.

    Args:
        module: what is trained.
        decay: share of the average that a step keeps.
    """

    def __init__(self, module: torch.nn.Module, decay: float):
        self.module, self.decay, self.steps = module, decay, 0
        self.average = {name: t.detach().clone() for name, t in module.state_dict().items()}

    def identity(self) -> object:
        return self.decay

    def after_step(self, run: Run) -> None:
        self.steps += 1
        kept = min(self.decay, (1 + self.steps) / (10 + self.steps))
        with torch.no_grad():
            for name, value in self.module.state_dict().items():
                self.average[name] = _mixed(
                    self.average[name].to(value.device), value, kept
                )

    @contextmanager
    def instead(self) -> Iterator[None]:
        """Run the module with the average."""
        last = {name: t.detach().clone() for name, t in self.module.state_dict().items()}
        self.module.load_state_dict(self.average)
        try:
            yield
        finally:
            self.module.load_state_dict(last)

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "average": self.average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps, self.average = state["steps"], state["average"]


def _mixed(average: Tensor, value: Tensor, kept: float) -> Tensor:
    if not value.is_floating_point():
        return value.clone()
    # What became exactly 0 (a scale that sparse training took away, a gate's switch) is 0, not on the way there.
    return torch.where(value == 0, value, torch.lerp(value, average, kept))

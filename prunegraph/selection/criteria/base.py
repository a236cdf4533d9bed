"""What a criterion is, and what it is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from prunegraph.coupling.analysis import Coupling
from prunegraph.coupling.groups import Group
from prunegraph.errors import BudgetError, DataError, PluginError
from prunegraph.graph.model import Graph
from prunegraph.options import bound
from prunegraph.registry import Registry
from prunegraph.runtime.statistics import Statistics

Array = np.ndarray


class Gradients(Protocol):
    """What a task's loss L says of the weights; given by whoever can differentiate it.

    Products are by slice of a weight w along an axis: the sum over a slice's elements of w * dL/dw. For a
    weight's output axis that is the derivative of L by a factor on each of these outputs.
    """

    def batches(self, weight: str, axis: int) -> Array:
        """Products with the gradient of every batch's mean loss [batches, size of the axis]."""

    def samples(self, weight: str, axis: int) -> Array:
        """Products with the gradient of every sample's loss [samples, size of the axis]."""

    def squares(self, weight: str, axis: int) -> Array:
        """Sum over a slice's elements of w^2 * mean over samples of (dL/dw)^2 [size of the axis]."""


@dataclass(frozen=True)
class Context:
    """What a criterion may look at besides its group."""

    coupling: Coupling
    seed: int = 0
    statistics: Statistics | None = None
    gradients: Gradients | None = None

    @property
    def graph(self) -> Graph:
        return self.coupling.graph

    def weight(self, name: str) -> Array:
        """Values of a weight. Raises KeyError."""
        return self.graph.weights[name].read()

    def need_statistics(self, name: str) -> Statistics:
        """What data show of the graph. Raises DataError without data; `name` is who asks."""
        if self.statistics is None:
            raise DataError(f"algorithm {name!r} needs data: give --data FILE (unlabelled inputs)")
        return self.statistics

    def need_gradients(self, name: str) -> Gradients:
        """Gradients of the task's loss. Raises DataError where nobody gave any; `name` is who asks."""
        if self.gradients is None:
            raise DataError(
                f"algorithm {name!r} needs gradients of the task's loss, which an ONNX file does not have: "
                "give them from Python (`gradients=`), or use 'obs' with --data"
            )
        return self.gradients

    def rng(self, group: Group) -> np.random.Generator:
        """A generator of its own for each group, the same for the same seed."""
        return np.random.default_rng([self.seed, *group.id.encode()])


Criterion = Callable[[Group, Context], Array]
CRITERIA: Registry[Criterion] = Registry("algorithm", "prunegraph.algorithms")


def criterion(name: str) -> Callable[[Criterion], Criterion]:
    """Decorator that registers a criterion under a name. Raises PluginError for a duplicate."""
    return CRITERIA.register(name)


def score(name: str, context: Context) -> dict[str, Array]:
    """Scores of all groups by a registered criterion, checked. `name` may have options, `l2:members=producer`.

    Raises:
        UnknownNameError: no such criterion, or it has no such option.
        OptionError: an option cannot have that value.
        BudgetError: it applies to none of the groups.
        PluginError: it returned something that is not one number a channel.
    """
    function = bound(CRITERIA, name)
    found = {}
    for group in context.coupling.groups:
        scores = np.asarray(function(group, context), np.float64)
        if scores.shape != (group.channels,):
            raise PluginError(
                f"algorithm {name!r} returned shape {list(scores.shape)} for group {group.id!r}, "
                f"not one score for each of its {group.channels} channels"
            )
        if np.isnan(scores).any():
            raise PluginError(f"algorithm {name!r} returned NaN for group {group.id!r}")
        found[group.id] = scores
    if found and all(np.isposinf(scores).all() for scores in found.values()):
        raise BudgetError(
            f"algorithm {name!r} applies to none of the {len(found)} groups of {context.graph.source}: "
            "use 'l2', or 'obs' with --data"
        )
    return found

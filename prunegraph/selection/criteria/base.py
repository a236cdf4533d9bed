"""What a criterion is, and what it is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from prunegraph.coupling.analysis import Coupling
from prunegraph.coupling.groups import Group
from prunegraph.errors import DataError, PluginError
from prunegraph.graph.model import Graph
from prunegraph.registry import Registry
from prunegraph.runtime.statistics import Statistics

Array = np.ndarray


@dataclass(frozen=True)
class Context:
    """What a criterion may look at besides its group."""

    coupling: Coupling
    seed: int = 0
    statistics: Statistics | None = None

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

    def rng(self, group: Group) -> np.random.Generator:
        """A generator of its own for each group, the same for the same seed."""
        return np.random.default_rng([self.seed, *group.id.encode()])


Criterion = Callable[[Group, Context], Array]
CRITERIA: Registry[Criterion] = Registry("algorithm", "prunegraph.algorithms")


def criterion(name: str) -> Callable[[Criterion], Criterion]:
    """Decorator that registers a criterion under a name. Raises PluginError for a duplicate."""
    return CRITERIA.register(name)


def score(name: str, context: Context) -> dict[str, Array]:
    """Scores of all groups by a registered criterion, checked.

    Raises:
        UnknownNameError: no such criterion.
        PluginError: it returned something that is not one number a channel.
    """
    function = CRITERIA.get(name)
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
    return found

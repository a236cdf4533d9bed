"""What a criterion is, and what it is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np

from prunegraph import plugins
from prunegraph.coupling.coupling import Coupling
from prunegraph.coupling.groups import Group
from prunegraph.errors import BudgetError, DataError, PluginError, UnknownNameError
from prunegraph.graph.linear import is_finite
from prunegraph.graph.model import Graph, Node
from prunegraph.options import base_name, bound
from prunegraph.registry import Registry
from prunegraph.runtime.gram import Gram
from prunegraph.runtime.memory import release
from prunegraph.runtime.statistics import ChannelMoments, Statistics
from prunegraph.selection.options import SelectionOptions

Array = np.ndarray

#: Samples on which activations are shown.
SAMPLES = 32


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
    """What an algorithm may look at: weights, what data show of the graph, the user's other options.

    Args:
        coupling: all groups, and what keeps the other layers fixed.
        seed: of random numbers.
        statistics: what data show of the graph; None without data.
        choice: the options of the selection; None where an algorithm is called by itself.
        algorithm: the name of the algorithm that asks.
    """

    coupling: Coupling
    seed: int = 0
    statistics: Statistics | None = None
    choice: SelectionOptions | None = None
    algorithm: str = ""
    gradients: Gradients | None = None

    @property
    def graph(self) -> Graph:
        return self.coupling.graph

    def weight(self, name: str) -> Array:
        """Values of a weight. Raises UnknownNameError."""
        if name not in self.graph.weights:
            raise UnknownNameError("weight", name, self.graph.weights)
        return self.graph.weights[name].read()

    def need_statistics(self, name: str = "") -> Statistics:
        """Say what data show of the graph. Raises DataError without data; `name` is who asks."""
        if self.statistics is None:
            raise DataError(
                f"algorithm {name or self.algorithm!r} needs data: give --data FILE (unlabelled inputs)"
            )
        return self.statistics

    def activations(self, value: str, samples: int = SAMPLES) -> Array:
        """A value on the first samples of the data, in the shape it has in the graph; read-only.

        Raises:
            DataError: there are no data.
            UnknownNameError: the graph computes no such value.
        """
        return self.need_statistics().sample(self._computed(value), samples)

    def moments(self, value: str, axis: int = 1) -> ChannelMoments:
        """Mean, energy, standard deviation and more of a value, by index of one axis, over all data.

        The first call gathers them for inputs and outputs of all layers in one pass over the data.

        Raises:
            DataError: there are no data.
            UnknownNameError: the graph computes no such value.
        """
        statistics = self.need_statistics()
        rank = len(self.coupling.shape_info.shapes.get(self._computed(value), ()))
        key = (value, axis + rank if axis < 0 else axis)
        return statistics.moments(
            [key, *(each for each in self._channel_axes if each != key)]
        )[0]

    def gram(self, layer: str | Node) -> Gram | None:
        """Means of a layer's input rows, and of their products; None for a layer that is no matrix product.

        Rows are patches for a convolution, the last axis for a linear layer. The first call
        gathers those of all layers.

        Raises:
            DataError: there are no data.
            UnknownNameError: no such layer.
        """
        statistics = self.need_statistics()
        layers = {node.name: node for node in self.graph.layers}
        name = layer if isinstance(layer, str) else layer.name
        if name not in layers:
            raise UnknownNameError("layer", name, layers)
        return statistics.gram(layers[name])

    def scores(self, algorithm: str) -> dict[str, Array]:
        """Scores of all groups by another criterion, by group id. Raises UnknownNameError, PluginError."""
        return score(algorithm, self)

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

    def _computed(self, value: str) -> str:
        if value not in self.graph.producer and value not in self.graph.inputs:
            raise UnknownNameError(
                "value", value, [*self.graph.inputs, *self.graph.producer]
            )
        return value

    @cached_property
    def _channel_axes(self) -> list[tuple[str, int]]:
        """Where channels of groups run through inputs and outputs of layers."""
        values = dict.fromkeys(
            v for node in self.graph.layers for v in (node.inputs[0], node.outputs[0])
        )
        return [
            (value, axis)
            for value in values
            for axis, labels in enumerate(self.coupling.labels.get(value, ()))
            if labels.size > 1 and not self.coupling.channels.all_pinned(labels)
        ]


Criterion = Callable[[Group, Context], Array]
CRITERIA: Registry[Criterion] = Registry(
    "criterion",
    "prunegraph.algorithms",
    family="algorithm",
    parameters=("group", "context"),
)


#: Options with which criteria ask what errors of layers do at the network's outputs, by name; {} is with any.
_AT_OUTPUTS: dict[str, Mapping[str, object]] = {}


def criterion(
    name: str, *, at_outputs: Mapping[str, object] | None = None
) -> Callable[[Criterion], Criterion]:
    """Decorator that registers a criterion, a function `(group, context) -> scores`, under a name.

    Scores are one number a channel, higher = keep, inf = never remove. One that asks what errors of layers do at the
    network's outputs (`Statistics.error_metric`, `contributions`) says so: `at_outputs` are the options with which it
    does, {} is always. It is measured for those alone.

    Raises PluginError for a name that is taken, or a function with other parameters.
    """
    register = CRITERIA.register(name)
    if at_outputs is not None:
        _AT_OUTPUTS[name] = at_outputs
    return register


def asks_at_outputs(spelling: str) -> bool:
    """Tell whether a criterion, as `name:options`, asks what errors of layers do at the network's outputs.

    Raises:
        UnknownNameError: it has no such option.
        OptionError: an option cannot have that value.
    """
    wanted = _AT_OUTPUTS.get(base_name(spelling))
    if not wanted:
        return wanted is not None
    given = getattr(bound(CRITERIA, spelling), "keywords", {})
    return all(given.get(key) == value for key, value in wanted.items())


def score(name: str, context: Context) -> dict[str, Array]:
    """Scores of all groups by a registered criterion, checked. `name` may have options, `l2:members=producer`.

    Raises:
        UnknownNameError: no such criterion, or it has no such option.
        OptionError: an option cannot have that value.
        DataError: it needs data and there are none.
        BudgetError: it applies to none of the groups.
        PluginError: it failed, or returned something that is not one number a channel.
    """
    entry, function = CRITERIA.entry(base_name(name)), bound(CRITERIA, name)
    context = replace(context, algorithm=name)
    result = {}
    for group in context.coupling.groups:
        with plugins.attributed(f"{entry}, group {group.id!r},"):
            scores = function(group, context)
        result[group.id] = _checked(scores, group, str(entry))
    release()
    if result and all(np.isposinf(scores).all() for scores in result.values()):
        raise BudgetError(
            f"algorithm {name!r} applies to none of the {len(result)} groups of {context.graph.source}: "
            "use 'l2', or 'obs' with --data"
        )
    return result


def _checked(scores: object, group: Group, who: str) -> Array:
    """Scores as an array. Raises PluginError."""
    try:
        array = np.asarray(scores)
    except (TypeError, ValueError):  # ragged
        array = np.asarray(None)
    if array.dtype.kind not in "fiub":
        kind = (
            f"{array.dtype} array"
            if isinstance(scores, np.ndarray)
            else type(scores).__name__
        )
        raise PluginError(
            f"{who} returned {kind} for group {group.id!r}, not an array of real numbers"
        )
    if array.shape != (group.channels,):
        raise PluginError(
            f"{who} returned shape {list(array.shape)} for group {group.id!r}, "
            f"not one score for each of its {group.channels} channels"
        )
    array = array.astype(np.float64)
    if not all(is_finite(member.graph, member.weight) for member in group.members):
        # Nothing can be said of channels whose weights are no numbers: they stay.
        array = np.where(np.isnan(array), np.inf, array)
    for what, wrong in (("NaN", np.isnan(array)), ("-inf", np.isneginf(array))):
        if wrong.any():
            raise PluginError(
                f"{who} returned {what} for channel {wrong.argmax()} of group {group.id!r}; "
                "a score is a number, or inf for a channel that stays"
            )
    return array

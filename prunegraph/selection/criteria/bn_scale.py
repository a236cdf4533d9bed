"""Scales of BatchNormalization.

Where a group passes one BatchNormalization the score is its |gamma|, the standard deviation that it gives the
channel. Several are merged along the graph, from where the channels are made to where they are read:

* in series (one behind the other, as around a depthwise convolution) a channel is constant if either scale
  is 0: the smaller counts, each vector divided by its own mean, in the units of the last;
* in parallel (branches that meet in an Add) only if both are: variances add, `sqrt(a^2 + b^2)`;
* of several values that layers read, the largest counts.

A layer without a BatchNormalization behind it (exporters fold it into the weights) has, with data, the
standard deviation of its outputs instead: on the training distribution that is what |gamma| was. Without
data such layers say nothing, and a group that has no others is kept whole. Sources: Liu et al. 2017
(network slimming), source 000; ALGORITHMS F1, F3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce

import numpy as np

from prunegraph.coupling.groups import Group
from prunegraph.coupling.places import ChannelAxis, makers, places
from prunegraph.errors import BudgetError
from prunegraph.graph import linear
from prunegraph.graph.model import Graph, Node
from prunegraph.operators import info, is_batch_normalization, is_multiply
from prunegraph.selection.criteria.base import Array, Context, criterion
from prunegraph.selection.criteria.values import is_float, read


@criterion("bn_scale")
def bn_scale(group: Group, context: Context) -> Array:
    """Scale that BatchNormalization gives a channel; without one, its deviation on data."""
    graph = context.graph
    if context.statistics is None and not any(
        is_batch_normalization(node) for node in graph.nodes
    ):
        raise BudgetError(
            f"algorithm 'bn_scale' needs BatchNormalization nodes or --data; {graph.source} has no such node. Use 'l2'"
        )
    return merged(strengths(group, context), group, context)


@dataclass(frozen=True)
class Factor:
    """What multiplies a value's channels: numbers by index on their axis, and the operand that holds them, if any."""

    values: Array
    operand: str = ""


def merged(sizes: Mapping[str, Array], group: Group, context: Context) -> Array:
    """Scores from deviations by value: the largest of those that layers read; inf where nothing is known."""
    result = [
        sizes[place.value] for place in read(group, context) if place.value in sizes
    ] or list(sizes.values())
    return np.max(result, axis=0) if result else np.full(group.channels, np.inf)


def strengths(
    group: Group,
    context: Context,
    *,
    power: float = 1.0,
    factors: Mapping[str, Factor] | None = None,
) -> dict[str, Array]:
    """Deviation of the group's channels on every value where it is known, merged along the graph.

    Args:
        group: the group.
        context: what is known of the graph.
        power: that deviations are raised to before they are merged.
        factors: what scales outputs of BatchNormalization, or products with a gate, by value.
    """
    factors = factors or {}
    graph = context.graph
    by_value = {place.value: place for place in places(context.coupling)[group.id]}
    deviations = _deviations(group, context)
    sizes: dict[str, Array] = {}
    for index in sorted({graph.producer[value] for value in by_value}):
        node = graph.nodes[index]
        for output in node.outputs:
            if output not in by_value:
                continue
            factor = factors.get(output)
            given = [
                value
                for value in dict.fromkeys(node.inputs)
                if factor is None or value != factor.operand
            ]
            coming = [sizes[value] for value in given if value in sizes]
            size = _passed(node, coming, by_value[output], graph, power, factor)
            size = (
                deviations[output] ** power
                if size is None and output in deviations
                else size
            )
            if size is not None:
                sizes[output] = size
    return sizes


def _passed(
    node: Node,
    coming: list[Array],
    place: ChannelAxis,
    graph: Graph,
    power: float,
    factor: Factor | None,
) -> Array | None:
    """Deviation behind a node, from those before it; None where nothing is known."""
    if is_batch_normalization(node):
        scale = graph.weight_behind(node.inputs[1])
        if scale is None:
            return None
        own = np.abs(graph.weights[scale].read().astype(np.float64)) ** power
        own = place.by_channel(own if factor is None else own * factor.values)
        return reduce(in_series, [*coming, own])
    if coming and factor is not None:
        return place.by_channel(factor.values) * reduce(in_series, coming)
    if not coming:
        return None
    if info(node).adds:
        return np.sqrt(np.square(coming).sum(axis=0))
    if is_multiply(node):
        return reduce(in_series, coming)
    return np.max(coming, axis=0)


def in_series(before: Array, behind: Array) -> Array:
    """Two deviations one behind the other, in units of the second."""
    mean = behind.mean() or 1.0
    return mean * np.minimum(before / (before.mean() or 1.0), behind / mean)


def _deviations(group: Group, context: Context) -> dict[str, Array]:
    """Deviation on data of the outputs of the group's layers that have no BatchNormalization behind them."""
    if context.statistics is None:
        return {}
    every = [
        place
        for match in makers(context.coupling).values()
        for place in match
        if is_float(place, context) and _is_plain(place, context.graph)
    ]
    seen = context.statistics.moments([(place.value, place.axis) for place in every])
    return {
        place.value: place.by_channel(moments.std)
        for place, moments in zip(every, seen, strict=True)
        if place.group is group
    }


def _is_plain(place: ChannelAxis, graph: Graph) -> bool:
    return (
        linear.batch_normalization(graph, graph.nodes[graph.producer[place.value]]) is None
    )

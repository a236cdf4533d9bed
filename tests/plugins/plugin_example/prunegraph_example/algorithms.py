"""A criterion that looks at data, and a selector."""

from __future__ import annotations

import numpy as np

import prunegraph as pg
from prunegraph.selection.budget import Meter


@pg.criterion("example_energy")
def energy(group: pg.Group, context: pg.Context) -> np.ndarray:
    """Energy that a channel brings into the layers that read it, or leaves the ones that make it with."""
    scores = np.zeros(group.channels)
    for member in group.members:
        if member.role == "in":
            scores += _read(member, context)
    if not scores.any():
        for member in group.members:
            if member.role == "out":
                scores += _made(member, context)
    return scores


def _read(member, context: pg.Context) -> np.ndarray | float:
    """Mean square of the inputs of a layer times the squares of its weights, by channel."""
    gram = context.gram(member.layer) if member.layer else None
    if gram is None or len(gram.products) > 1:
        return 0.0
    inputs = (
        np.diagonal(gram.products[0])
        .reshape(context.weight(member.weight).shape[member.axis], -1)
        .sum(axis=1)
    )
    return inputs[member.positions].sum(axis=1) * (member.values() ** 2).sum(axis=1)


def _made(member, context: pg.Context) -> np.ndarray:
    """Mean square of the outputs of a layer, by channel."""
    node = context.graph.node(member.layer)
    moments = context.moments(node.outputs[0], axis=1 if "Conv" in node.op else -1)
    return moments.energy[member.positions].sum(axis=1)


@pg.selector("example_frugal")
def frugal(
    coupling: pg.Coupling, context: pg.Context, budget: pg.Budget
) -> dict[str, list[int]]:
    """Channels with the least weight for the MACs they cost, over all groups, until the budget is met."""
    kept = set(context.choice.keep)
    free = [group for group in coupling.groups if not kept.intersection(group.layers)]
    scores = context.scores("l2")
    order = sorted(
        (
            (scores[group.id][channel] / (group.macs or 1), group.id, channel)
            for group in free
            for channel in np.argsort(scores[group.id])[
                : group.channels - context.choice.min_channels
            ]
        ),
    )

    def first(count: int) -> dict[str, list[int]]:
        remove: dict[str, list[int]] = {}
        for _, group, channel in order[:count]:
            remove.setdefault(group, []).append(int(channel))
        return remove

    if budget.ratio is not None:
        return first(int(budget.ratio * len(order)))
    meter = Meter(coupling)
    bound = budget.bound(meter.original)
    low, high = 0, len(order)
    while low < high:
        middle = (low + high) // 2
        enough = getattr(meter.measure(first(middle)), budget.kind) <= bound
        low, high = (low, middle) if enough else (middle + 1, high)
    return first(low)

"""The second grid: parts of the network are pruned a little more or less than the first grid found.

Stages are groups whose convolutions work at the same spatial size, or, in a network with one
such size at most, thirds of its depth. Offsets are added to the share of channels that each group of a stage
loses. What a combination saves is known beforehand, so the first accepted one in falling
order of savings is the best.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from prunegraph.coupling.coupling import Coupling
from prunegraph.coupling.groups import Group
from prunegraph.operators import has_filters
from prunegraph.selection.budget import Meter
from prunegraph.selection.select import Ranking
from prunegraph.selection.units import channels_of

Array = np.ndarray

OFFSETS = (-0.1, 0.0, 0.1)

#: Stages at most: the number of combinations is three to the power of it.
MOST = 4

#: Stages of a network whose layers all work at one spatial size.
THIRDS = 3


@dataclass(frozen=True)
class Combination:
    """Offsets of the stages, what they remove, and what is left then of the quantity to be saved."""

    offsets: tuple[float, ...]
    remove: Mapping[str, Array]
    remaining: int


def stages(coupling: Coupling) -> list[list[Group]]:
    """The groups in stages, from the input's side to the output's."""
    order = {node.name: node.index for node in coupling.graph.layers}
    groups = sorted(
        coupling.groups, key=lambda g: min((order[layer] for layer in g.layers), default=0)
    )
    sizes = [_positions(coupling, group) for group in groups]
    if len({size for size in sizes if size}) < 2:
        cuts = [round(len(groups) * i / THIRDS) for i in range(THIRDS + 1)]
        return [groups[a:b] for a, b in itertools.pairwise(cuts) if b > a]
    parts = [
        [group for group, size in zip(groups, sizes, strict=True) if size == each]
        for each in sorted(set(sizes), reverse=True)
    ]
    while len(parts) > MOST:
        # Neighbours that have the fewest groups together become one stage.
        at = min(range(len(parts) - 1), key=lambda i: len(parts[i]) + len(parts[i + 1]))
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts


def _positions(coupling: Coupling, group: Group) -> int:
    """Spatial positions at which a group's layers work, the most there are."""
    shapes = coupling.shape_info.shapes
    nodes = [coupling.graph.node(layer) for layer in group.layers]
    result = [shapes.get(node.outputs[0], ()) for node in nodes if has_filters(node)]
    return max((int(np.prod(shape[2:], dtype=np.int64)) for shape in result), default=0)


def combinations(
    ranking: Ranking, base: Mapping[str, Sequence[int]], kind: str
) -> list[Combination]:
    """Combinations of offsets that save more than the base does, by falling savings.

    Args:
        ranking: scored channels.
        base: channels that the first grid removes.
        kind: what is to be saved, a field of `Cost`.
    """
    parts = stages(ranking.coupling)
    meter = Meter(ranking.coupling)
    most: int = getattr(meter.measure(base), kind)
    result: dict[tuple[bytes, ...], Combination] = {}
    for offsets in itertools.product(OFFSETS, repeat=len(parts)):
        pairs = zip(parts, offsets, strict=True)
        remove = {
            g.id: _shifted(ranking, g, base.get(g.id, ()), offset)
            for part, offset in pairs
            for g in part
        }
        remaining: int = getattr(meter.measure(remove), kind)
        if remaining < most:
            # Steps are coarse in narrow groups: several offsets may come to the same.
            result.setdefault(
                tuple(channels.tobytes() for channels in remove.values()),
                Combination(offsets, remove, remaining),
            )
    return sorted(result.values(), key=lambda each: (each.remaining, each.offsets))


def _shifted(ranking: Ranking, group: Group, base: Sequence[int], offset: float) -> Array:
    """The channels of a group to remove when its share is shifted: the steps that come nearest."""
    if not offset or group.id in (ranking.limits.ratios or {}):
        return np.asarray(base, np.int64)
    steps = ranking.steps(group)
    wanted = len(base) / group.channels + offset
    shares = [0.0, *(step.share for step in steps)]
    count = int(np.argmin([abs(share - wanted) for share in shares]))
    return np.asarray(channels_of(steps[:count], group.id), np.int64)

"""What residual branches give on average: what is left of one that goes, until a repair does better."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from prunegraph.coupling.branches import Branch
from prunegraph.coupling.coupling import Coupling
from prunegraph.labels.labels import Uniform
from prunegraph.runtime.statistics import Statistics

Array = np.ndarray


def branch_means(
    coupling: Coupling, branches: Sequence[Branch], statistics: Statistics
) -> dict[str, Array]:
    """What each branch gives to a channel on average, in a shape that is added to it, by the branch's id."""
    graph = coupling.graph
    places = [
        (graph.nodes[branch.add].inputs[branch.slot], _channel_axis(coupling, branch))
        for branch in branches
    ]
    result = {}
    for branch, (value, axis), each in zip(
        branches, places, statistics.moments(places), strict=True
    ):
        shape = [1] * len(coupling.shape_info.shapes[value])
        shape[axis] = -1
        result[branch.id] = np.asarray(each.mean).reshape(shape)
    return result


def _channel_axis(coupling: Coupling, branch: Branch) -> int:
    """The axis of the sum that holds channels: the prunable one, else 1 of maps and the last one of others."""
    axes = coupling.labels.get(branch.output, ())
    prunable = [
        axis
        for axis, labels in enumerate(axes)
        if not isinstance(coupling.channels.root(labels), Uniform)
    ]
    rank = len(coupling.shape_info.shapes[branch.output])
    if len(prunable) == 1:
        return prunable[0]
    return 1 if rank > 3 else rank - 1

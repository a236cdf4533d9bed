"""What products of two values lose with a channel that both have: queries and keys, which no layer reads.

Without channel c every product `sum over c of q_c k_c` loses `q_c k_c`, of which the mean square is `E q_c^2 E k_c^2`
where both come from different places. What is the same for all keys does nothing behind a Softmax, so that of keys the
variance counts. Source: ALGORITHMS 9.1.
"""

from __future__ import annotations

import numpy as np

from prunegraph.coupling.groups import Group, Member
from prunegraph.graph.linear import add_behind
from prunegraph.graph.model import Graph, Node
from prunegraph.operators import info, is_concat, is_matmul
from prunegraph.runtime.statistics import ChannelMoments, Statistics
from prunegraph.selection.criteria.base import Array, Context

#: Nodes that are looked through between a layer and the product of what it makes.
DEPTH = 64


def product_error(group: Group, context: Context) -> Array | None:
    """Squared error of the products without each channel and those that go before it, relative to all of them.

    Returns:
        Scores [channels], or None for a group whose channels are not the contracted axis of a product of two values.
    """
    sides = _sides(group, context.graph)
    if sides is None:
        return None
    first, second = (_positions(member) for _, member in sides)
    statistics = context.need_statistics()
    queries, keys = _moments(_places(context, sides), context, statistics)
    energies, variances = queries.energy[first], (keys.std**2)[second]
    # Several heads of queries may read one of keys: those that stand together.
    if energies.shape[1] % variances.shape[1]:
        return None
    variances = np.repeat(variances, energies.shape[1] // variances.shape[1], axis=1)
    metric = statistics.error_metric(sides[0][0])
    if metric is not None:
        variances = np.diag(metric)[first]
    costs = np.einsum("cp,cp->c", energies, variances)
    order = np.argsort(costs, kind="stable")
    total = float(costs.sum()) or 1.0
    scores = np.empty(group.channels)
    spent = 0.0
    for channel in order:
        spent = np.nextafter(spent + float(costs[channel]) / total, np.inf)
        scores[channel] = spent
    return scores


def _places(context: Context, sides: list[tuple[Node, Member]]) -> list[tuple[str, int]]:
    """The values that are multiplied, each with the axis of its channels."""
    return [
        (_output(context.graph, node), _channel_axis(context, node)) for node, _ in sides
    ]


def _moments(
    places: list[tuple[str, int]], context: Context, statistics: Statistics
) -> list[ChannelMoments]:
    """Moments of a group's values; those of all groups of this kind come from the same pass over the data."""
    if not statistics.has_moments(places):
        statistics.moments(product_places(context))
    return statistics.moments(places)


def product_places(context: Context) -> list[tuple[str, int]]:
    """The values, each with the axis of its channels, that are multiplied with each other, of all groups."""
    sides = (_sides(group, context.graph) for group in context.coupling.groups)
    return [place for each in sides if each is not None for place in _places(context, each)]


def _sides(group: Group, graph: Graph) -> list[tuple[Node, Member]] | None:
    """The layers of queries and of keys, each with the member that makes the channels."""
    result: dict[int, tuple[Node, Member]] = {}
    for member in group.members:
        if member.role != "out":
            continue
        for index in member.main_layers:
            node = graph.nodes[index]
            slots = _slots(graph, node)
            if len(slots) != 1 or slots & result.keys() or not info(node).is_linear:
                return None
            result[slots.pop()] = node, member
    return [result[0], result[1]] if result.keys() == {0, 1} else None


def _slots(graph: Graph, layer: Node) -> set[int]:
    """Slots of products of two values that a layer's output goes to, through what moves or mixes it."""
    result: set[int] = set()
    queue, seen = [layer.outputs[0]], {layer.outputs[0]}
    while queue and len(seen) < DEPTH:
        value = queue.pop(0)
        for index, slot in graph.consumers.get(value, ()):
            node = graph.nodes[index]
            if is_matmul(node) and graph.main_weight(node) is None:
                result.add(slot)
            elif info(node).moves or info(node).mixes or is_concat(node):
                fresh = [v for v in node.outputs if v and v not in seen]
                queue += fresh
                seen.update(fresh)
    return result


def _output(graph: Graph, layer: Node) -> str:
    """What a layer makes, with the constant that is added to it."""
    behind = add_behind(graph, layer)
    return behind[0].outputs[0] if behind is not None else layer.outputs[0]


def _channel_axis(context: Context, layer: Node) -> int:
    """The axis of a layer's output that holds its channels."""
    rank = len(context.coupling.shape_info.shapes[layer.outputs[0]])
    return int(info(layer).channel_axis or 0) % rank


def _positions(member: Member) -> Array:
    """Places of each channel on a layer's outputs [channels, some], in order."""
    return np.sort(member.positions, axis=1)

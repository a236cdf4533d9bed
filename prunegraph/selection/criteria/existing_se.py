"""Gates that a network has of its own: squeeze-and-excitation blocks (source 001, ALGORITHMS 2.2, "existing SE").

`sr` of a channel is the mean of the block's own gate over data. The score is `|gamma|^p * sr^q`, merged as `bn_scale`
merges scales: a group that is gated on its way is scaled by the gate there. Nothing is inserted, and nothing folded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from prunegraph.coupling.groups import Group
from prunegraph.coupling.places import places
from prunegraph.errors import BudgetError
from prunegraph.graph.model import Graph
from prunegraph.operators import info, is_multiply
from prunegraph.selection.criteria.base import Array, Context, criterion
from prunegraph.selection.criteria.bn_scale import Factor, merged, strengths
from prunegraph.selection.criteria.factors import check_exponents

#: A gate is made of no more values than this.
LONGEST = 16

WHO = "existing_se"


@dataclass(frozen=True)
class GateBlock:
    """A gate: the product's value, the gate's and the axis its channels lie on, and all values the gate is made of."""

    product: str
    gate: str
    axis: int
    inner: frozenset[str]


@criterion("existing_se")
def existing_se(group: Group, context: Context, *, p: float = 1.0, q: float = 1.0) -> Array:
    """Scale of BatchNormalization times the mean of the network's own channel gates (needs data)."""
    check_exponents(WHO, p, q)
    blocks = _blocks(context)
    if not blocks:
        raise BudgetError(
            f"algorithm {WHO!r} needs squeeze-and-excitation blocks, and {context.graph.source} has none: "
            "use 'bn_scale', or gates that are trained (`train --method gfr`)"
        )
    seen = context.need_statistics(WHO).moments(
        [(block.gate, block.axis) for block in blocks]
    )
    factors = {
        block.product: Factor(np.maximum(moments.mean, 0) ** q, block.gate)
        for block, moments in zip(blocks, seen, strict=True)
    }
    mine = {place.value for place in places(context.coupling)[group.id]}
    if p == 0 and mine.isdisjoint(factors):
        return np.full(group.channels, np.inf)
    sizes = strengths(group, context, power=p, factors=factors)
    # What the block itself reads is not gated yet.
    inner = frozenset().union(*(block.inner for block in blocks))
    return merged(
        {value: size for value, size in sizes.items() if value not in inner}, group, context
    )


def _blocks(context: Context) -> list[GateBlock]:
    """The graph's blocks, looked for once."""
    cache = context.graph.cache
    if WHO not in cache:
        cache[WHO] = list(
            squeeze_and_excitation(context.graph, context.coupling.shape_info.shapes)
        )
    result: list[GateBlock] = cache[WHO]
    return result


def squeeze_and_excitation(
    graph: Graph, shapes: Mapping[str, tuple[int, ...]]
) -> Iterator[GateBlock]:
    """Products of a value with a bounded gate for each of its channels that is computed from the value alone."""
    for node in graph.nodes:
        if (
            not is_multiply(node)
            or node.domain
            or not all(value in graph.producer for value in node.inputs)
        ):
            continue
        for gate, gated in (node.inputs, node.inputs[::-1]):
            axis = _channel_axis(shapes.get(gate, ()), shapes.get(gated, ()))
            inner = (
                _between(graph, gated, gate)
                if axis and _is_bounded(graph, gate)
                else frozenset()
            )
            if inner:
                yield GateBlock(node.outputs[0], gate, axis, inner)


def _channel_axis(gate: tuple[int, ...], gated: tuple[int, ...]) -> int:
    """The only axis on which a gate differs from channel to channel; 0 where it is no gate of channels."""
    if len(gate) != len(gated) or len(gate) < 3:
        return 0
    wide = [axis for axis in range(1, len(gate)) if gate[axis] != 1]
    return wide[0] if len(wide) == 1 and gate[wide[0]] == gated[wide[0]] else 0


def _is_bounded(graph: Graph, gate: str) -> bool:
    """Tell whether something bounds a value behind the last layer before it."""
    value: str | None = gate
    bounded = False
    while value is not None:
        node = graph.nodes[graph.producer[value]]
        if info(node).is_layer:
            return bounded
        bounded = bounded or info(node).is_bounded
        created = {given for given in node.inputs if given in graph.producer}
        value = created.pop() if len(created) == 1 else None
    return False


def _between(graph: Graph, start: str, end: str) -> frozenset[str]:
    """Values from which `end` is computed and that come from `start`, `end` among them; none if it reads any other."""
    seen, front = {end}, [end]
    while front:
        for value in graph.nodes[graph.producer[front.pop()]].inputs:
            if value in graph.inputs or len(seen) > LONGEST:
                return frozenset()
            if value in graph.producer and value != start and value not in seen:
                seen.add(value)
                front.append(value)
    return frozenset(seen)

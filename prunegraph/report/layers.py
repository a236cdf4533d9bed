"""What a report says of every layer: operator, groups, width and cost, before and after."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prunegraph.graph.layer_names import shown
from prunegraph.graph.model import Node
from prunegraph.graph.shapes import shape_info
from prunegraph.operators import info
from prunegraph.ops.cost import node_macs

if TYPE_CHECKING:
    from prunegraph.pipeline import PruneResult

#: A quantity before and after; None where it is not known, or where the layer is gone.
Pair = tuple[int | None, int | None]


@dataclass(frozen=True)
class LayerRow:
    """One layer of the original. `outputs` is its width in channels; `macs` are at the sizes of the analysis.

    `groups` are the ids of the groups whose channels it makes.
    """

    name: str
    op: str
    groups: tuple[str, ...]
    is_fixed: bool
    inputs: Pair
    outputs: Pair
    macs: Pair

    @property
    def is_narrower(self) -> bool:
        before, after = self.outputs
        return before is not None and after is not None and after < before


def layer_rows(result: PruneResult) -> list[LayerRow]:
    """All layers of the original, in topological order."""
    after = {node.name: node for node in result.model.layers}
    groups: dict[str, list[str]] = {}
    for group in result.coupling.groups:
        for layer in group.layers:
            groups.setdefault(layer, []).append(group.id)
    fixed = {f.layer for f in result.coupling.fixed if f.channels == f.of}
    old, new = shape_info(result.original).shapes, shape_info(result.model).shapes
    return [
        LayerRow(
            shown(result.original, node.name),
            node.op,
            tuple(groups.get(node.name, ())),
            node.name in fixed,
            (node.channels.inputs, twin.channels.inputs if twin else None),
            (_width(node, old), _width(twin, new) if twin else None),
            (node_macs(node, old), node_macs(twin, new) if twin else None),
        )
        for node in result.original.layers
        for twin in (after.get(node.name),)
    ]


def _width(node: Node, shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """Output channels of a layer, from its weight or else from the shape of its output."""
    if node.channels.outputs is not None:
        return node.channels.outputs
    axis, shape = info(node).channel_axis, shapes.get(node.outputs[0], ())
    return shape[axis] if axis is not None and len(shape) > 1 else None

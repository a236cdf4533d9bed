"""What a report says of every layer: operator, groups, width and cost, before and after."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from prunegraph.graph.layer_names import shown
from prunegraph.graph.model import Node
from prunegraph.graph.shapes import shape_info
from prunegraph.operators import info
from prunegraph.ops.cost import node_macs
from prunegraph.selection.plan import survivors

if TYPE_CHECKING:
    from prunegraph.coupling.coupling import Coupling
    from prunegraph.coupling.survivors import Survivors
    from prunegraph.pipeline import PruneResult

#: A quantity before and after; None where it is not known, or where the layer is gone.
Pair = tuple[int | None, int | None]


@dataclass(frozen=True)
class LayerRow:
    """One layer of the original. `outputs` is its width in channels; `macs` are at the sizes of the analysis.

    `layer` is its name in the file, `name` that in the framework; `groups` are the ids of the groups whose channels it
    makes. One that `is_gone` has no place in the new model; `ranks` are those of one that became several of low rank.
    """

    layer: str
    name: str
    op: str
    groups: tuple[str, ...]
    is_fixed: bool
    inputs: Pair
    outputs: Pair
    macs: Pair
    is_gone: bool = False
    ranks: tuple[int, ...] = ()

    @property
    def is_narrower(self) -> bool:
        before, after = self.outputs
        return before is not None and after is not None and after < before

    @property
    def kept(self) -> float:
        """Share of the width that stays; 0 where the layer is gone, 1 where nothing is known."""
        before, after = self.outputs
        if self.is_gone or not before or after is None:
            return 0.0 if self.is_gone else 1.0
        return after / before


def layer_rows(result: PruneResult) -> list[LayerRow]:
    """All layers of the original, in topological order."""
    after = {node.name: node for node in result.model.layers}
    shapes = shape_info(result.model).shapes
    split = result.decomposed.layers if result.decomposed is not None else ()
    factors = {row.name: row for row in split}
    remaining = survivors(result.coupling, result.plan)
    rows = []
    for row, node in zip(
        unchanged_rows(result.coupling), result.original.layers, strict=True
    ):
        twin, parts = after.get(node.name), factors.get(node.name)
        rows.append(
            replace(
                row,
                inputs=(row.inputs[0], twin.channels.inputs if twin else None),
                outputs=(
                    row.outputs[0],
                    _width(twin, shapes) if twin else _kept(node, remaining, row),
                ),
                macs=(
                    row.macs[0],
                    parts.macs[1] if parts else node_macs(twin, shapes) if twin else None,
                ),
                is_gone=node.index in remaining.gone,
                ranks=parts.ranks if parts else (),
            )
        )
    return rows


def unchanged_rows(coupling: Coupling) -> list[LayerRow]:
    """All layers of a graph that nothing was done to, in topological order."""
    groups: dict[str, list[str]] = {}
    for group in coupling.groups:
        for layer in group.layers:
            groups.setdefault(layer, []).append(group.id)
    fixed = {f.layer for f in coupling.fixed if f.channels == f.of}
    shapes = coupling.shape_info.shapes
    return [
        LayerRow(
            node.name,
            shown(coupling.graph, node.name),
            node.op,
            tuple(groups.get(node.name, ())),
            node.name in fixed,
            (node.channels.inputs, node.channels.inputs),
            (_width(node, shapes), _width(node, shapes)),
            (node_macs(node, shapes), node_macs(node, shapes)),
        )
        for node in coupling.graph.layers
    ]


def _kept(node: Node, remaining: Survivors, row: LayerRow) -> int | None:
    """Output channels without the removed ones, of a layer that became other layers; None where it is gone."""
    axis = info(node).channel_axis
    labels = remaining.coupling.labels.get(node.outputs[0])
    if node.index in remaining.gone:
        return None
    return remaining.size(labels[axis]) if labels and axis is not None else row.outputs[0]


def _width(node: Node, shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """Output channels of a layer, from its weight or else from the shape of its output."""
    if node.channels.outputs is not None:
        return node.channels.outputs
    axis, shape = info(node).channel_axis, shapes.get(node.outputs[0], ())
    return shape[axis] if axis is not None and len(shape) > 1 else None

"""Where every head, or every group of a convolution, may choose channels of its own.

The factors of a product are looked at with all that has the inner one: every value must have the outer factor
beside it, and every node must keep the blocks apart. What a rule says of its operator in `blocks` decides that
(`ops.rule.Rule`); an operator whose rule says nothing of it mixes them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from prunegraph.coupling.uses import Use
from prunegraph.graph.model import Graph, Node
from prunegraph.labels.blocks import Blocks, pair
from prunegraph.labels.labels import Labels, Uniform
from prunegraph.labels.products import Product
from prunegraph.labels.resolved import ResolvedLabels
from prunegraph.labels.space import LabelSpace
from prunegraph.operators import measures
from prunegraph.ops import rule_for

#: Axes of one value as one input reads it.
Axes = tuple[Labels, ...]


class BlockFinder:
    """Pairs of factors of which the inner one may differ from block to block.

    Args:
        graph: the model.
        space: all labels, before products are settled.
        labels: of values.
        uses: of weights.
    """

    def __init__(
        self,
        graph: Graph,
        space: LabelSpace,
        labels: Mapping[str, Axes],
        uses: Sequence[Use],
    ):
        self.graph, self.space, self.labels = graph, space, labels
        self.uses = {(use.weight, use.node, use.slot): use for use in uses}
        self.merged: dict[int, list[Product]] = {}
        self.products: dict[int, list[Product]] = {}
        for product in space.products:
            root = space.find(product.whole)
            if space.is_block(root):
                self.merged.setdefault(root.first, []).append(product)
            for first in self._blocks(product.factors):
                self.products.setdefault(first, []).append(product)

    def find(self) -> list[Blocks]:
        """All pairs, each inner factor once."""
        free = self._untouched()
        holders = self._holders(free)
        result = []
        for first in free:
            inner = self.space.block(first)
            for outer in self._outer(first):
                blocks = pair(self.space, inner, outer, self.products[first], self.merged)
                if blocks and self._is_kept_apart(blocks, holders.get(first, ())):
                    result.append(blocks)
                    break
        return result

    def _blocks(self, axes: Sequence[Labels]) -> list[int]:
        """First labels of the axes that are whole blocks of labels, more than one index long."""
        roots = [self.space.find(labels) for labels in axes]
        return [root.first for root in roots if self.space.is_block(root) and root.size > 1]

    def _untouched(self) -> list[int]:
        """Inner factors that nothing looks at index by index, and that are no product themselves."""
        candidates = [
            first
            for first, products in self.products.items()
            if first not in self.merged
            and all(len(self._blocks(p.factors)) > 1 for p in products)
        ]
        if not candidates:
            return []
        used = {id(axis): axis for axes in self._all_axes() for axis in axes}
        parts = [part for p in self.space.products for part in (p.whole, *p.factors)]
        resolved = ResolvedLabels(self.space, (*used.values(), *parts))
        return [
            first for first in candidates if resolved.is_untouched(self.space.block(first))
        ]

    def _all_axes(self) -> Iterator[Axes]:
        yield from self.labels.values()
        for use in self.uses.values():
            yield use.labels

    def _outer(self, first: int) -> list[int]:
        """Other factors of the products that an inner factor is in; those that more products have come first."""
        count: dict[int, int] = {}
        for product in self.products[first]:
            for other in self._blocks(product.factors):
                if other != first:
                    count[other] = count.get(other, 0) + 1
        return sorted(count, key=lambda each: -count[each])

    def _holders(self, free: Sequence[int]) -> dict[int, list[Node]]:
        """Nodes that read or make something with each of the inner factors."""
        wanted = set(free)
        result: dict[int, list[Node]] = {}
        for node in self.graph.nodes if wanted else ():
            here = {
                first
                for axes in self._at(node)
                for first in self._blocks(axes)
                if first in wanted
            }
            for first in here:
                result.setdefault(first, []).append(node)
        return result

    def _at(self, node: Node) -> Iterator[Axes]:
        """Axes of all that a node reads and makes."""
        for slot, value in enumerate(node.inputs):
            yield self._read(node, slot, value)
        for value in (*node.outputs, *node.captured):
            yield self.labels.get(value, ())

    def _read(self, node: Node, slot: int, value: str) -> Axes:
        if value in self.labels:
            return self.labels[value]
        use = self.uses.get((value, node.index, slot)) or self.uses.get((value, -1, -1))
        return use.labels if use is not None else ()

    # -- checks ---------------------------------------------------------------------------

    def _is_kept_apart(self, blocks: Blocks, nodes: Sequence[Node]) -> bool:
        """Tell whether all that has the inner factor has the outer one beside it, and no node mixes blocks."""
        outside = (
            self.labels.get(v, ()) for v in (*self.graph.inputs, *self.graph.outputs)
        )
        return (
            # A caller would have to know which channels each block has.
            not any(self._has_inner(blocks, axes) for axes in outside)
            and all(self._has_both(blocks, axes) for axes in self._all_axes())
            and all(self._keeps_apart(blocks, node) for node in nodes)
        )

    def _has_both(self, blocks: Blocks, axes: Axes) -> bool:
        inside = sum(
            labels.size > 1 and not isinstance(labels, Uniform) and blocks.is_inner(labels)
            for labels in axes
        )
        return not inside or (inside == 1 and blocks.over(axes) is not None)

    def _keeps_apart(self, blocks: Blocks, node: Node) -> bool:
        if measures(node):
            return True
        rule = rule_for(node)
        if (
            rule is None
            or not rule.blocks
            or any(
                self._has_inner(blocks, self.labels.get(value, ()))
                for value in node.captured
            )
        ):
            return False
        if rule.blocks != "batches":
            return True
        # What stands before the last two axes runs in step: there the blocks of both sides must meet.
        places = set()
        for slot, value in enumerate(node.inputs):
            axes = self._read(node, slot, value)
            if self._has_inner(blocks, axes):
                over = blocks.over(axes)
                if over is None or value in self.graph.weights:
                    return False
                places.add(len(axes) - over[0])
        return len(places) < 2 and all(place > 2 for place in places)

    def _has_inner(self, blocks: Blocks, axes: Axes) -> bool:
        return any(blocks.is_inner(labels) for labels in axes)

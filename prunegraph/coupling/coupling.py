"""The result of an analysis: notes of the walk over the nodes, and the groups found in them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass, field, fields, replace
from functools import cached_property

import numpy as np

from prunegraph.coupling.branches import Branch, find_branches, needed_only_by
from prunegraph.coupling.groups import Fixed, Group
from prunegraph.coupling.shuffle import Shuffle
from prunegraph.coupling.uses import Use
from prunegraph.graph.model import Graph, Node
from prunegraph.graph.shape_info import ShapeInfo
from prunegraph.labels.blocks import Blocks
from prunegraph.labels.labels import Labels
from prunegraph.labels.resolved import ResolvedLabels

Array = np.ndarray


@dataclass(frozen=True)
class Reduction:
    """The fate of a value along axes at a node's input; `kind` is that of `ops.rule.Site.reduces`, or "groups"."""

    node: int
    slot: int
    axes: tuple[int, ...]
    kind: str
    zero: int | None = None


@dataclass(frozen=True, eq=False)
class OwnChannels:
    """Channels along an axis on which each block of another axis has its own.

    `over` is that other axis, `block` the block of each of its indices [size of `over`], `numbers` the channel
    numbers [size of `over`, size of the axis].
    """

    over: int
    block: Array
    numbers: Array
    blocks: Blocks = field(repr=False)


@dataclass(frozen=True, eq=False)
class Labelling:
    """The word of the rules of all nodes: labels on the axes of every value and weight, and their channels.

    By the index of a node: `attributes` that are sizes of axes (with a multiple), `operands` that list
    sizes, `shuffles` by their last node; `followed` are the nodes whose rules could follow the labels. `attention` and
    `blocks` are what `analyze` was asked for; `allow_io` names the inputs and outputs whose axes may lose indices.
    """

    graph: Graph = field(repr=False)
    shape_info: ShapeInfo = field(repr=False)
    labels: Mapping[str, tuple[Labels, ...]] = field(repr=False)
    uses: Sequence[Use] = field(repr=False)
    reductions: Sequence[Reduction] = field(repr=False)
    attributes: Mapping[int, Mapping[str, tuple[Labels, int]]] = field(repr=False)
    operands: Mapping[int, Sequence[int]] = field(repr=False)
    shuffles: Mapping[int, Shuffle] = field(repr=False)
    followed: frozenset[int] = field(repr=False)
    attention: str | None
    blocks: str
    allow_io: tuple[str, ...]
    channels: ResolvedLabels = field(repr=False)

    def own_channels(self, axes: Sequence[Labels], axis: int) -> OwnChannels | None:
        """Channels along an axis on which each block of another axis has its own; None for any other axis."""
        blocks = self.channels.blocks_of(axes[axis])
        if blocks is None:
            return None
        over = blocks.over(axes)
        assert over is not None  # what has the inner axis has the outer one beside it
        numbers = self.channels.block_numbers(blocks)
        return OwnChannels(over[0], over[1], numbers[over[1]], blocks)

    def axis_labels(self, axes: Sequence[Labels], axis: int) -> Labels:
        """Labels of an axis; where each block has its own, those of all blocks."""
        blocks = self.channels.blocks_of(axes[axis])
        return axes[axis] if blocks is None else blocks.elements

    def value_labels(
        self, value: str, node: int = -1, slot: int = -1
    ) -> tuple[Labels, ...] | None:
        """Labels of a value as one input reads it; None where it carries none."""
        if value in self.labels:
            return self.labels[value]
        return self._by_reader.get((value, node, slot)) or self._by_reader.get(
            (value, -1, -1)
        )

    @cached_property
    def _by_reader(self) -> dict[tuple[str, int, int], tuple[Labels, ...]]:
        return {(use.weight, use.node, use.slot): use.labels for use in self.uses}

    def is_followed(self, node: Node) -> bool:
        """Tell whether a node's rule could follow the labels through it."""
        return node.index in self.followed

    def labels_at(self, reduction: Reduction) -> tuple[Labels, ...]:
        """Labels of the value a reduction reads."""
        value = self.graph.nodes[reduction.node].inputs[reduction.slot]
        return self.value_labels(value, reduction.node, reduction.slot) or ()


@dataclass(frozen=True, eq=False)
class Coupling(Labelling):
    """Channels of a graph that belong together.

    `groups` are the units an algorithm chooses from; `fixed` the layers that cannot be
    pruned, each with its reason. `dropped` are ids of branches that are gone whatever else is
    removed. The rest serves the rewriter and the verifier.
    """

    groups: tuple[Group, ...]
    fixed: tuple[Fixed, ...]
    dropped: frozenset[str] = frozenset()

    @classmethod
    def of(
        cls, labelling: Labelling, groups: tuple[Group, ...], fixed: tuple[Fixed, ...]
    ) -> Coupling:
        """The coupling of a labelled graph, with what was found in it."""
        noted = {each.name: getattr(labelling, each.name) for each in fields(labelling)}
        return cls(**noted, groups=groups, fixed=fixed)

    @cached_property
    def branches(self) -> tuple[Branch, ...]:
        """Residual branches that may go as a whole, in topological order."""
        return find_branches(self.graph, self.shape_info)

    @cached_property
    def branches_by_id(self) -> dict[str, Branch]:
        """The branches, by what they are called among groups."""
        return {branch.id: branch for branch in self.branches}

    def without(self, branches: Collection[str]) -> Coupling:
        """This coupling with some branches gone, by id; no channels are chosen from groups inside them."""
        chosen = [branch for branch in self.branches if branch.id in branches]
        gone = self.nodes_without(chosen)
        groups = tuple(group for group in self.groups if not self.is_inside(group, gone))
        return replace(self, groups=groups, dropped=frozenset(branches))

    @property
    def whole(self) -> Coupling:
        """This coupling with all branches, and with the groups that it has."""
        return replace(self, dropped=frozenset()) if self.dropped else self

    def nodes_without(self, branches: Sequence[Branch]) -> frozenset[int]:
        """Indices of the nodes that go with some branches, the sums included."""
        if not branches:
            return frozenset()
        ends = frozenset((branch.add, branch.slot) for branch in branches)
        key = ("without", ends)
        if key not in self.graph.cache:
            adds = {branch.add for branch in branches}
            self.graph.cache[key] = needed_only_by(self.graph, ends) | adds
        result: frozenset[int] = self.graph.cache[key]
        return result

    def is_inside(self, group: Group, nodes: Set[int]) -> bool:
        """Tell whether all that reads or makes a group's channels with a weight is among these nodes."""
        for member in group.members:
            use = member.use
            readers = (
                [use.node]
                if use.node >= 0
                else [node for node, _ in self.graph.consumers.get(use.weight, ())]
            )
            if not nodes >= {*use.layers, *readers}:
                return False
        return True

    def group(self, name: str) -> Group:
        """The group of that id. Raises KeyError."""
        for group in self.groups:
            if group.id == name:
                return group
        raise KeyError(name)

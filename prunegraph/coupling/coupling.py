"""The result of an analysis: notes of the walk over the nodes, and the groups found in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property

from prunegraph.coupling.groups import Fixed, Group
from prunegraph.coupling.shuffle import Shuffle
from prunegraph.coupling.uses import Use
from prunegraph.graph.model import Graph, Node
from prunegraph.graph.shape_info import ShapeInfo
from prunegraph.labels.labels import Labels
from prunegraph.labels.resolved import ResolvedLabels


@dataclass(frozen=True)
class Reduction:
    """The fate of a value along axes at a node's input; `kind` is that of `ops.rule.Site.reduces`, or "groups"."""

    node: int
    slot: int
    axes: tuple[int, ...]
    kind: str
    zero: int | None = None


@dataclass(frozen=True, eq=False)
class Labelling:
    """The word of the rules of all nodes: labels on the axes of every value and weight, and their channels.

    By the index of a node: `attributes` that are sizes of axes (with a multiple), `operands` that list
    sizes, `shuffles` by their last node; `followed` are the nodes whose rules could follow the labels.
    `allow_io` names the inputs and outputs whose axes may lose indices.
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
    allow_io: tuple[str, ...]
    channels: ResolvedLabels = field(repr=False)

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
    pruned, each with its reason. The rest serves the rewriter and the verifier.
    """

    groups: tuple[Group, ...]
    fixed: tuple[Fixed, ...]

    @classmethod
    def of(
        cls, labelling: Labelling, groups: tuple[Group, ...], fixed: tuple[Fixed, ...]
    ) -> Coupling:
        """The coupling of a labelled graph, with what was found in it."""
        noted = {each.name: getattr(labelling, each.name) for each in fields(labelling)}
        return cls(**noted, groups=groups, fixed=fixed)

    def group(self, name: str) -> Group:
        """The group of that id. Raises KeyError."""
        for group in self.groups:
            if group.id == name:
                return group
        raise KeyError(name)

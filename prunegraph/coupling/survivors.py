"""The rest of every axis when channels are removed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from prunegraph.coupling.branches import PREFIX, Branch
from prunegraph.coupling.coupling import Coupling
from prunegraph.coupling.uses import Use
from prunegraph.errors import PlanError
from prunegraph.labels.blocks import Blocks
from prunegraph.labels.labels import Labels, Listed, Uniform

Array = np.ndarray


class Survivors:
    """The graph's axes after a choice.

    Args:
        coupling: the analysis of the graph.
        remove: channels to remove, by group id. A branch goes by its id, with any channels; those
            that the coupling is without go too.

    Attributes:
        branches: the branches that go, in topological order; none is inside another one.
        gone: indices of the nodes that go with them, the sums included.
    """

    def __init__(self, coupling: Coupling, remove: Mapping[str, Sequence[int] | Array]):
        self.coupling = coupling
        self._components = np.zeros(coupling.channels.count, bool)
        self._runs: dict[int, Array] = {}
        for group in coupling.groups:
            indices = np.asarray(remove.get(group.id, ()), np.int64)
            if not len(indices):
                continue
            if group.numbers is None:
                gone = np.zeros(group.channels, bool)
                gone[indices] = True
                self._runs[group.first] = gone
            else:
                self._components[group.numbers[indices]] = True
        for whole, elements in coupling.channels.covers:
            self._components[elements[self._components[whole]]] = True
        self._kept: dict[tuple[int, int], Array | None] = {}
        self.branches = _outermost(coupling, remove)
        self.gone = coupling.nodes_without(self.branches)
        self._counted: dict[int, Array | None] = {}

    @property
    def is_whole(self) -> bool:
        """Tell whether nothing is removed."""
        return self.has_all_channels and not self.branches

    @property
    def has_all_channels(self) -> bool:
        """Tell whether no channel is removed, whatever branches are."""
        return not self._runs and not self._components.any()

    @cached_property
    def lost_weights(self) -> frozenset[str]:
        """Weights that only nodes of removed branches read."""
        if not self.gone:
            return frozenset()
        graph = self.coupling.graph
        return frozenset(
            weight
            for weight in graph.weights
            if weight not in graph.outputs
            and (readers := graph.consumers.get(weight))
            and self.gone.issuperset(node for node, _ in readers)
        )

    def kept(self, labels: Labels) -> Array | None:
        """Indices of an axis that stay, or None where all do.

        Where each block of another axis has its own, the first ones, as many as there are left: see `own`.
        """
        blocks = self.coupling.channels.blocks_of(labels)
        if blocks is not None:
            table = self._left(blocks)
            return None if table is None else np.arange(table.shape[1])
        root = self.coupling.channels.root(labels)
        if isinstance(root, Uniform):
            return None
        if root.key not in self._kept:
            gone = (
                self._components[root.ids]
                if isinstance(root, Listed)
                else self._runs.get(root.first)
            )
            self._kept[root.key] = (
                None if gone is None or not gone.any() else np.flatnonzero(~gone)
            )
        return self._kept[root.key]

    def _left(self, blocks: Blocks) -> Array | None:
        """Elements of each block that stay [blocks, number that stay]; None where all do.

        Raises PlanError for blocks of which some have more left than others.
        """
        first = blocks.inner.first
        if first not in self._counted:
            stays = ~self.removed(self.coupling.channels.block_numbers(blocks))
            remaining = self.kept(blocks.factor)
            if remaining is not None:
                # Nothing is left of a block that goes as a whole: what stands for it here goes with its axis.
                gone = np.setdiff1d(np.arange(blocks.count), remaining)
                stays[gone] = stays[remaining[0]]
            counts = stays.sum(axis=1)
            if (counts != counts[0]).any():
                raise PlanError(
                    f"of {blocks.count} blocks of {blocks.size} channels, "
                    f"{counts.min()} would be left in one and {counts.max()} in another"
                )
            self._counted[first] = (
                None if stays.all() else np.nonzero(stays)[1].reshape(blocks.count, -1)
            )
        return self._counted[first]

    def removed(self, numbers: Array) -> Array:
        """Mask of channels, by number, that are removed; those of blocks that choose their own."""
        return self._components[numbers]

    def own(self, axes: Sequence[Labels], axis: int) -> Own | None:
        """What stays on an axis on which each block of another has its own; None for any other, or if all does."""
        blocks = self.coupling.channels.blocks_of(axes[axis])
        table = None if blocks is None else self._left(blocks)
        if blocks is None or table is None:
            return None
        over = blocks.over(axes)
        assert over is not None
        return Own(over[0], table[over[1]])

    def taken(self, axes: Sequence[Labels], value: Array) -> Array:
        """A value's or weight's elements that stay."""
        return taken(value, self._axes(axes))

    def _axes(self, axes: Sequence[Labels]) -> list[Array | Own | None]:
        return [self.own(axes, i) or self.kept(labels) for i, labels in enumerate(axes)]

    def size(self, labels: Labels) -> int:
        """Number of indices of an axis that stay."""
        kept = self.kept(labels)
        return labels.size if kept is None else len(kept)

    def value(self, name: str, node: int = -1, slot: int = -1) -> list[Array | None]:
        """`kept` of every axis of a value, as an input reads it."""
        labels = self.coupling.value_labels(name, node, slot) or ()
        return [self.kept(each) for each in labels]

    def shape(self, name: str) -> tuple[int, ...] | None:
        """A value's new shape at the sizes of the analysis; None where it was unknown."""
        old = self.coupling.shape_info.shapes.get(name)
        labels = self.coupling.labels.get(name)
        if old is None or labels is None:
            return old
        return tuple(self.size(each) for each in labels)

    def use(self, use: Use) -> list[Array | Own | None]:
        """`kept` of every axis of a weight, or `own`."""
        return self._axes(use.labels)


def _outermost(
    coupling: Coupling, remove: Mapping[str, Sequence[int] | Array]
) -> tuple[Branch, ...]:
    """The branches among what is removed, without those inside others."""
    if not coupling.dropped and not any(name.startswith(PREFIX) for name in remove):
        return ()
    chosen = [
        b
        for b in coupling.branches
        if b.id in coupling.dropped or len(remove.get(b.id, ()))
    ]
    return tuple(b for b in chosen if not any(other.holds(b) for other in chosen))


@dataclass(frozen=True, eq=False)
class Own:
    """What stays on an axis, for each index of the axis `over`: `kept` [size of `over`, number that stay]."""

    over: int
    kept: Array

    def of(self, values: Array, axis: int) -> Array:
        """Values with only what stays on an axis."""
        shape = [1] * values.ndim
        shape[self.over], shape[axis] = self.kept.shape
        kept = self.kept if self.over < axis else self.kept.T
        full = list(values.shape)
        full[axis] = self.kept.shape[1]
        return np.take_along_axis(values, np.broadcast_to(kept.reshape(shape), full), axis)

    def tobytes(self) -> bytes:
        """Equal for the same indices."""
        return bytes([self.over]) + self.kept.tobytes()


def taken(values: Array, axes: Sequence[Array | Own | None]) -> Array:
    """Values with only the indices that stay."""
    for axis, kept in enumerate(axes):
        if isinstance(kept, Own):
            values = kept.of(values, axis)
    for axis, kept in enumerate(axes):
        if isinstance(kept, np.ndarray):
            values = np.take(values, kept, axis)
    return np.ascontiguousarray(values)

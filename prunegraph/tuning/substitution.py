"""Weights that stand for a removal: the same graph, in which removed channels no longer say anything.

What a layer reads of removed channels is replaced by its best linear guess from those that stay, which is
what a layer-wise repair makes of it: with G the covariance of the layer's input rows, H its inverse and P
the removed rows, W' = W - H[:,P] H[P,P]^-1 W[P], and the intercept takes up the means. Channels that no
layer with a Gram matrix reads (queries and keys) are set to zero where they are made or held. A residual branch gives
its mean to each channel. Nothing is cut, so all shapes stay, and a removal costs two small products.
Sources: Hassibi et al. 1993; ALGORITHMS F4 and 9.4.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cached_property

import numpy as np
from onnx import helper

from prunegraph.coupling.branches import Branch
from prunegraph.coupling.coupling import Coupling
from prunegraph.coupling.groups import Group, Member
from prunegraph.errors import DataError
from prunegraph.graph import linear, symmetric
from prunegraph.graph.model import Node
from prunegraph.rewriting.reweight import Revision
from prunegraph.runtime.gram import Gram
from prunegraph.runtime.statistics import Statistics
from prunegraph.runtime.stepper import is_outer
from prunegraph.runtime.triangles import Triangles
from prunegraph.selection.criteria.obs import DAMPING, reading
from prunegraph.selection.criteria.parts import rows_of
from prunegraph.selection.units import Removal
from prunegraph.tuning.branch_means import branch_means

Array = np.ndarray

#: Bytes of inverses that are held as a whole, those that were asked for last.
KEEP = 2**26


class Substitution:
    """Makes weights that stand for removals.

    Args:
        coupling: what can be pruned.
        statistics: what data show of the graph: means and Gram matrices of layer inputs.
    """

    def __init__(self, coupling: Coupling, statistics: Statistics):
        self._coupling, self._graph, self._statistics = coupling, coupling.graph, statistics
        self._readers = reading(coupling)
        self._groups = {group.id: group for group in coupling.groups}
        self._read: dict[str, list[tuple[Node, Member]]] = {}
        #: Inverses by the name of the Gram matrix (many layers read the same) and whether means are taken off, those
        #: that were asked for last at the end.
        self._inverses: dict[tuple[str, bool], Array] = {}
        #: All of them, and which these are: versions take their turns at a stretch, and each needs all of its layers.
        self._triangles = Triangles()
        self._kept: set[tuple[str, bool]] = set()

    def touched(self, removed: Removal) -> set[int]:
        """Indices of the nodes whose weights differ when channels of some groups, and branches, go.

        Raises:
            DataError: one of them is in a subgraph, which does not run by itself.
        """
        result: set[int] = set()
        branches = {branch.id: branch.add for branch in self._branches(removed)}
        result.update(branches.values())
        for id in (each for each, gone in removed.items() if len(gone)):
            if id in branches:
                continue
            group = self._groups[id]
            layers = [node for node, _ in self._reads(group) or self._makes(group)]
            for node in layers:
                result.update({node.index, *self.behind(node)})
            if not layers:
                result.update(i for member in group.members for i in member.use.layers)
        for node in map(self._graph.nodes.__getitem__, sorted(result)):
            if not is_outer(node):
                raise DataError(
                    f"{self._graph.source}: damage cannot be measured of {node.name!r}, which is in a subgraph; "
                    "choose another --allocation"
                )
        return result

    def gram(self, node: Node) -> Gram | None:
        """What the data show of a layer's input rows; None for a layer that has no Gram matrix."""
        return self._statistics.gram(node, self._readers)

    def gather(self, nodes: Sequence[Node]) -> None:
        """Look at what some layers read, all of them in as few passes over the data as memory allows."""
        self._statistics.gather(nodes)

    def revision(self, removed: Removal, nodes: Collection[int] | None = None) -> Revision:
        """The graph's weights without some channels and branches: those that some nodes read; None are all."""
        revision = Revision(self._graph)
        branches = self._branches(removed)
        for branch in branches:
            if nodes is None or branch.add in nodes:
                self._leave_mean(revision, branch)
        rows: dict[int, list[list[Array]]] = {}
        ids = {branch.id for branch in branches}
        for id, channels in removed.items():
            if id in ids:
                continue
            group, gone = self._groups[id], np.asarray(channels, np.int64)
            if not len(gone):
                continue
            reads = self._reads(group)
            for node, member in reads:
                if self.concerns(node, nodes):
                    read = rows_of(node, member, self._graph, linear.groups(node), gone)
                    rows.setdefault(node.index, []).append(read)
            makes = [] if reads else self._makes(group)
            for node, member in makes:
                if self.concerns(node, nodes):
                    self._silence(revision, node, member.positions[gone].reshape(-1))
            if not reads and not makes:
                for member in group.members:
                    layers = map(self._graph.nodes.__getitem__, member.use.layers)
                    if any(self.concerns(node, nodes) for node in layers):
                        self._erase(revision, member, gone)
        for index, parts in rows.items():
            read = [np.unique(np.concatenate(each)) for each in zip(*parts, strict=True)]
            self._guess(revision, self._graph.nodes[index], read)
        return revision

    def _branches(self, removed: Removal) -> list[Branch]:
        """The residual branches among what is removed."""
        if self._groups.keys() >= removed.keys():
            return []
        by_id = self._coupling.branches_by_id
        return [by_id[id] for id, gone in removed.items() if id in by_id and len(gone)]

    def _leave_mean(self, revision: Revision, branch: Branch) -> None:
        """Let a sum read what its branch gives on average."""
        add = self._graph.nodes[branch.add]
        kind = self._coupling.shape_info.types[add.inputs[branch.slot]]
        values = self._means[branch.id].astype(helper.tensor_dtype_to_np_dtype(kind))
        revision.set_operand(add, branch.slot, values)

    @cached_property
    def _means(self) -> dict[str, Array]:
        return branch_means(self._coupling, self._coupling.branches, self._statistics)

    def concerns(self, node: Node, nodes: Collection[int] | None) -> bool:
        """Tell whether some nodes read what stands for other weights of a layer: itself, or those behind it."""
        return nodes is None or any(
            index in nodes for index in (node.index, *self.behind(node))
        )

    def _reads(self, group: Group) -> list[tuple[Node, Member]]:
        """The layers with a Gram matrix that read a group's channels."""
        if group.id not in self._read:
            self._read[group.id] = [
                (node, member)
                for member in group.members
                if member.role == "in"
                for node in self._layers(member)
                if self._statistics.has_gram(node)
            ]
        return self._read[group.id]

    def _makes(self, group: Group) -> list[tuple[Node, Member]]:
        """The layers that make a group's channels."""
        return [
            (node, member)
            for member in group.members
            if member.role == "out"
            for node in self._layers(member)
            if linear.is_linear(self._graph, node)
            and member.axis == linear.output_axis(node)
        ]

    def _layers(self, member: Member) -> list[Node]:
        nodes = (self._graph.nodes[index] for index in member.use.layers)
        return [node for node in nodes if node.input(1) == member.weight]

    def behind(self, node: Node) -> set[int]:
        """Nodes behind a layer that may hold its intercept."""
        normal = linear.batch_normalization(self._graph, node)
        add = linear.add_behind(self._graph, node)
        return {
            each.index for each in (normal, add[0] if add else None) if each is not None
        }

    def _guess(self, revision: Revision, node: Node, rows: Sequence[Array]) -> None:
        """Let a layer do without some of its input rows, those of each group of a convolution."""
        gram = self.gram(node)
        if gram is None:
            raise DataError(
                f"{self._graph.source}: the data show nothing of what {node.name!r} reads"
            )
        matrix, centred = revision.matrix(node), revision.can_intercept(node)
        inverse = self._inverse(gram, centred)
        # What the means make of all that changes.
        means = np.zeros((len(matrix), matrix.shape[2]))
        for g, (own, gone) in enumerate(zip(matrix, rows, strict=True)):
            if not len(gone):
                continue
            # The damping bounds the condition: single precision says what is wanted to a percent, in half the time.
            block = inverse[g][np.ix_(gone, gone)]
            step = symmetric.solve(block, own[gone].astype(np.float32))
            change = inverse[g][:, gone] @ step
            change[gone] = own[gone]
            own -= change
            own[gone] = 0
            means[g] = np.einsum("i,io->o", gram.mean[g], change)
        revision.set_matrix(node, matrix)
        if centred:
            revision.set_intercept(node, revision.intercept(node) + means.reshape(-1))

    def _inverse(self, gram: Gram, centred: bool) -> Array:
        """The inverse of a damped covariance [groups, inputs, inputs], float32."""
        key = gram.name, centred
        if key in self._inverses:
            known = self._inverses[key] = self._inverses.pop(key)
            return known
        size = 4 * gram.size**2 * len(gram.mean)
        while self._inverses and (
            size + sum(each.nbytes for each in self._inverses.values()) > KEEP
        ):
            del self._inverses[next(iter(self._inverses))]
        self._inverses[key] = inverse = self._kept_inverse(gram, centred)
        return inverse

    def _kept_inverse(self, gram: Gram, centred: bool) -> Array:
        """The same: computed for the first who asks, then read from where it is kept."""
        name = f"{gram.name} {centred}"
        if (gram.name, centred) in self._kept:
            result = np.empty((len(gram.mean), gram.size, gram.size), np.float32)
            for which, matrix in enumerate(result):
                self._triangles.read(name, which, matrix)
            return result
        inverse = _damped_inverse(gram, centred)
        for which, matrix in enumerate(inverse):
            self._triangles.put(name, which, matrix)
        self._kept.add((gram.name, centred))
        return inverse

    def _silence(self, revision: Revision, node: Node, gone: Array) -> None:
        """Let a layer make zeros for some of its outputs."""
        old = revision.matrix(node)
        flat = old.transpose(1, 0, 2).reshape(old.shape[1], -1).copy()
        flat[:, gone] = 0
        new = flat.reshape(old.shape[1], old.shape[0], old.shape[2]).transpose(1, 0, 2)
        revision.set_matrix(node, new)
        if revision.can_intercept(node):
            intercept = np.array(revision.intercept(node), np.float64)
            intercept[gone] = 0
            revision.set_intercept(node, intercept)

    def _erase(self, revision: Revision, member: Member, gone: Array) -> None:
        """Set channels of a weight to zero."""
        values = np.moveaxis(revision.value(member.weight), member.axis, 0).copy()
        if member.over is not None:
            part = np.moveaxis(values, member.over + (member.over < member.axis), 1)
            part[member.positions[gone], member.rows[gone]] = 0
            revision.set(member.weight, np.moveaxis(values, 0, member.axis))
            return
        values[member.positions[gone].reshape(-1)] = 0
        revision.set(member.weight, np.moveaxis(values, 0, member.axis))


def _damped_inverse(gram: Gram, centred: bool) -> Array:
    matrices = gram.centred
    if not centred:
        mean = gram.mean.astype(np.float32)
        matrices += mean[:, :, None] * mean[:, None, :]
    size = gram.size
    damping = np.trace(matrices, axis1=1, axis2=2) / size
    damping = max(DAMPING, size / gram.count) * np.where(damping > 0, damping, 1.0)
    diagonal = np.arange(size)
    matrices[:, diagonal, diagonal] += damping[:, None]
    # Single precision: the damping bounds the condition, and of the weights that it makes a percent is enough.
    return symmetric.inverse(matrices, in_place=True, dtype=np.float32)

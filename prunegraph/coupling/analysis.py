"""The walk: every node's rule is asked how labels travel; the result is a `Coupling`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import cached_property

import numpy as np

from prunegraph.coupling.blocks import BlockFinder
from prunegraph.coupling.cells import find_mixed, find_uneven, with_cells
from prunegraph.coupling.coupling import Coupling, Labelling, Reduction
from prunegraph.coupling.finding import find_fixed, find_groups
from prunegraph.coupling.groups import Group
from prunegraph.coupling.routers import find_routers
from prunegraph.coupling.sample import complete
from prunegraph.coupling.shuffle import Shuffle, find_shuffles
from prunegraph.coupling.uses import Use
from prunegraph.errors import MISFIT, ModelError, UnknownNameError
from prunegraph.graph.indices import table_of
from prunegraph.graph.inference import element, elements
from prunegraph.graph.model import Graph, Node
from prunegraph.graph.shapes import shape_info
from prunegraph.graph.sources import Whole
from prunegraph.labels.blocks import Blocks
from prunegraph.labels.labels import Labels, Uniform
from prunegraph.labels.reasons import Kind, Reason
from prunegraph.labels.resolution import resolve
from prunegraph.labels.space import LabelSpace
from prunegraph.operators import is_constant, is_transpose, measures
from prunegraph.ops import rule_for

#: Which factor of an attention axis is pruned, by name.
ATTENTION = ("heads", "head_dim")

#: Which channels of a head, or of a group of a convolution, go: everywhere the same, or everywhere its own.
#: With "both" it can also go as a whole, whichever costs less.
BLOCKS = ("alike", "own", "both")


def analyze(
    graph: Graph,
    *,
    attention: str | None = None,
    blocks: str = "alike",
    allow_io: Sequence[str] = (),
    tables: Sequence[str] = (),
) -> Coupling:
    """Find all channels that can be pruned, and why the others cannot.

    Args:
        graph: the model.
        attention: what is pruned in attention, "heads" or "head_dim"; by default whichever
            has more elements, the finer unit.
        blocks: where a head or a group of a convolution loses channels, "alike" removes the same ones from each;
            with "own" each loses its own, equally many, where nothing needs them to be the same; with "both"
            whole heads or groups can go besides.
        allow_io: graph inputs and outputs, by name or pattern (`past*`), whose axes may lose indices: those of a fixed
            size behind the first axis. All other inputs and outputs stay as they are.
        tables: weights whose rows are looked up by ids that will be numbered anew: the rows are channels.

    Returns:
        The coupling (cached on the graph).

    Raises:
        UnknownNameError: `attention` or `blocks` is none of these, or the model has no input or output of such a name.
    """
    if attention not in (None, *ATTENTION):
        raise UnknownNameError("unit of attention", str(attention), ATTENTION)
    if blocks not in BLOCKS:
        raise UnknownNameError("choice of channels in blocks", blocks, BLOCKS)
    names = _matching(graph, allow_io)
    key = ("coupling", attention, blocks, names, tuple(tables))
    if key not in graph.cache:
        try:
            graph.cache[key] = _Walk(graph, names, tables).run(attention, blocks)
        except MISFIT as error:
            raise ModelError(f"{graph.source}: cannot be analysed: {error!r}") from error
    coupling: Coupling = graph.cache[key]
    return coupling


def _matching(graph: Graph, patterns: Sequence[str]) -> tuple[str, ...]:
    """Names of inputs and outputs that match any of the patterns. Raises UnknownNameError for one that matches none."""
    names = dict.fromkeys((*graph.inputs, *graph.outputs))
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UnknownNameError("input or output", pattern, names)
    return tuple(n for n in names if any(fnmatchcase(n, pattern) for pattern in patterns))


class _Walk:
    """State of one analysis."""

    def __init__(self, graph: Graph, allow_io: tuple[str, ...], tables: Sequence[str]):
        self.graph, self.allow_io, self.tables = graph, allow_io, frozenset(tables)
        self.shape_info = shape_info(graph)
        complete(graph, self.shape_info)
        self.space = LabelSpace()
        self.labels: dict[str, tuple[Labels, ...]] = {}
        self.uses: dict[tuple[str, int, int], Use] = {}
        self.reductions: list[Reduction] = []
        self.attributes: dict[int, dict[str, tuple[Labels, int]]] = {}
        self.operands: dict[int, list[int]] = {}
        self.shuffles = find_shuffles(graph, self.shape_info)
        self.routers = find_routers(graph, self.shape_info)
        self.followed: set[int] = set()

    def run(self, attention: str | None, blocks: str) -> Coupling:
        for name in self.graph.inputs:
            self.labels[name] = self._input(name)
        inner = {index for shuffle in self.shuffles.values() for index in shuffle.inner}
        for node in self.graph.nodes:
            if self.shape_info.is_dead(node):
                continue
            if node.index in self.shuffles:
                self._shuffle(self.shuffles[node.index])
            elif self._is_arithmetic(node):
                self._pin_constants(node)
            elif node.index not in inner and not is_constant(node):
                self._visit(node)
        self._tie_sources()
        for name in self.graph.outputs:
            # The first axis counts samples, or parts of another kind.
            for labels in self.value_labels(name)[: 1 if name in self.allow_io else None]:
                self.space.pin(labels, Reason("graph output", name, Kind.GRAPH_OUTPUT))
        pairs = [] if blocks == "alike" else self._pairs()
        whole = {pair.outer.first for pair in pairs} if blocks == "both" else set()
        while True:
            labelling = self._labelling(attention, blocks, pairs, whole)
            groups = find_groups(labelling)
            uneven, mixed = find_uneven(labelling, groups), find_mixed(labelling)
            if not uneven and not mixed:
                break
            stuck = mixed - whole
            pairs = [
                pair
                for pair in pairs
                if pair not in uneven and pair.outer.first not in stuck
            ]
            whole -= mixed
        groups = self._routed(labelling, with_cells(labelling, groups))
        return Coupling.of(labelling, groups, find_fixed(labelling, groups))

    def _routed(self, labelling: Labelling, groups: tuple[Group, ...]) -> tuple[Group, ...]:
        """The groups, of which those that a router chooses from keep as many channels as it takes."""
        least: dict[int, int] = {}
        for router in self.routers:
            experts = labelling.labels[router.scores][-1]
            for number in labelling.channels.free_numbers([experts]):
                least[number] = max(router.count, least.get(number, 1))
        return tuple(
            replace(group, least=count)
            if (count := least.get(int(group.channel_numbers([0])[0]), 1)) > 1
            else group
            for group in groups
        )

    def _pairs(self) -> list[Blocks]:
        """Pairs of factors of which the inner one may differ from block to block."""
        return BlockFinder(
            self.graph, self.space, self.labels, tuple(self.uses.values())
        ).find()

    def _input(self, name: str) -> tuple[Labels, ...]:
        """Labels of a graph input: pinned, but for axes of a fixed size of one that may change."""
        reason = Reason("graph input", name, Kind.GRAPH_INPUT)
        declared = self._declared.get(name, ()) if name in self.allow_io else ()
        return tuple(
            self.space.fresh(size)
            if axis and axis < len(declared) and declared[axis] == size > 1
            else self.space.pinned(size, reason)
            for axis, size in enumerate(self.shape_info.shapes[name])
        )

    @cached_property
    def _declared(self) -> dict[str, tuple[int, ...]]:
        """Sizes that the file gives its inputs' axes; 0 for symbols."""
        return {
            entry.name: tuple(dim.dim_value for dim in entry.type.tensor_type.shape.dim)
            for entry in self.graph.model.graph.input
        }

    def _tie_sources(self) -> None:
        """Tie axes of matrices that are one tensor of the source: a module holds it once.

        An unrolled recurrence has a copy of a weight for every step, and the first reads a state of its own.
        """
        if (sources := self.graph.sources) is None:
            return
        first: dict[tuple[str, int], Labels] = {}
        for use in self.uses.values():
            origin = sources.origins.get(use.weight)
            shape = self.graph.weights[use.weight].shape
            if isinstance(origin, Whole) and sum(size > 1 for size in shape) > 1:
                for axis, labels in zip(origin.order, use.labels, strict=True):
                    self.space.tie(first.setdefault((origin.tensor, axis), labels), labels)

    def _labelling(
        self,
        attention: str | None,
        blocks: str,
        pairs: Sequence[Blocks],
        whole: Collection[int],
    ) -> Labelling:
        return Labelling(
            graph=self.graph,
            shape_info=self.shape_info,
            labels=self.labels,
            uses=tuple(self.uses.values()),
            reductions=tuple(self.reductions),
            attributes=self.attributes,
            operands=self.operands,
            shuffles=self.shuffles,
            followed=frozenset(self.followed),
            attention=attention,
            blocks=blocks,
            allow_io=self.allow_io,
            channels=resolve(self.space.copy(), self._used(), attention, pairs, whole),
        )

    def _is_arithmetic(self, node: Node) -> bool:
        """Tell whether the node is part of shape arithmetic, which carries no channels."""
        known = self.shape_info.known
        for output in node.outputs:
            if output not in known:
                return False
        return bool(node.outputs)

    def _pin_constants(self, node: Node) -> None:
        """Shape arithmetic is evaluated once: constants with labels that it reads keep their values."""
        if measures(node):
            return
        weights = self.graph.weights
        for value in node.inputs:
            # A vector has labels of its own for each reader; a matrix has one set of labels for all.
            is_matrix = (
                value in weights and sum(size > 1 for size in weights[value].shape) > 1
            )
            if value in self.labels or is_matrix:
                for labels in self.value_labels(value):
                    self.space.pin(labels, Reason("read by shape arithmetic", node.name))

    def _shuffle(self, shuffle: Shuffle) -> None:
        labels = list(self.value_labels(shuffle.source))
        labels[shuffle.axis] = labels[shuffle.axis].take(shuffle.order)
        self.labels[shuffle.output] = tuple(labels)

    def _is_unknown(self, value: str) -> bool:
        """Tell whether a value is there whose shape is not known."""
        shapes = self.shape_info.shapes
        return bool(value) and value not in shapes and element(value, 0) not in shapes

    def without_unread(self, node: Node) -> Node:
        """The node as if outputs of unknown shape were left out that nothing reads (masks of old Dropouts)."""
        unread = [
            v for v in node.outputs if self._is_unknown(v) and not self.graph.is_read(v)
        ]
        if not unread or len(unread) == len(node.outputs):
            return node
        return replace(node, outputs=tuple("" if v in unread else v for v in node.outputs))

    def _visit(self, node: Node) -> None:
        site = NodeSite(self, node)
        for value in node.captured:
            for labels in self.value_labels(value):
                self.space.pin(
                    labels,
                    site.reason(f"used inside the subgraph of {node.op}", Kind.CAPTURED),
                )
        rule = rule_for(node)
        if rule is None or rule.propagate is None:
            if rule is not None and rule.barrier:
                self._barrier(site, f"{node.op}: {rule.barrier}", rule.kind)
            else:
                self._barrier(site, f"{node.op} has no rule", Kind.NO_RULE)
            return
        unknown = [v for v in (*node.inputs, *site.node.outputs) if self._is_unknown(v)]
        if unknown and not rule.partial:
            self._barrier(
                site, f"the shape of {unknown[0]!r} is not known before the model runs"
            )
            return
        try:
            rule.propagate(site)
            self._pin_operands(site)
            self.followed.add(node.index)
        except ValueError as error:
            self._barrier(site, f"{node.op} cannot be followed: {error}")
        except MISFIT as error:
            # An attribute or input the operator needs is missing or malformed.
            self._barrier(
                site,
                f"{node.op} cannot be followed: its inputs or attributes do not fit ({error!r})",
            )

    def _pin_operands(self, site: NodeSite) -> None:
        """Pin what a rule did not look at: an operand (a scale, a region), read as it is."""
        for slot, value in enumerate(site.node.inputs):
            if not value or slot in site.asked or value in self.shape_info.known:
                continue
            if value in self.labels or (value, -1, -1) in self.uses:
                for labels in self.value_labels(value):
                    self.space.pin(labels, site.reason(f"an operand of {site.node.op}"))

    def _barrier(self, site: NodeSite, text: str, kind: Kind = Kind.OPERATOR) -> None:
        """Nothing is known of the node: all it touches must stay."""
        reason = site.reason(text, kind)
        for slot, value in enumerate(site.node.inputs):
            if value:
                for labels in site.labels(slot):
                    self.space.pin(labels, reason)
        for output in site.node.outputs:
            shape = self.shape_info.shapes.get(output, ())
            self.labels[output] = tuple(self.space.pinned(size, reason) for size in shape)

    def value_labels(self, value: str) -> tuple[Labels, ...]:
        """Labels of a value, whoever reads it. A sequence answers with those of all its elements."""
        if value in self.labels:
            return self.labels[value]
        if value in self.graph.weights:
            return self.use(value, -1, -1).labels
        if names := elements(value, self.labels):
            return tuple(labels for name in names for labels in self.labels[name])
        shape = self.shape_info.shapes.get(value, ())
        if value in self.graph.sparse:
            return tuple(
                self.space.pinned(size, Reason("axis of a sparse weight", value))
                for size in shape
            )
        producer = (
            self.graph.nodes[self.graph.producer[value]].name
            if value in self.graph.producer
            else value
        )
        return tuple(
            self.space.pinned(size, Reason("computed from sizes", producer))
            for size in shape
        )

    def use(self, weight: str, node: int, slot: int) -> Use:
        """A weight as one input reads it.

        A vector that several nodes share is most likely a merger of equal values (an
        exporter's doing), so each use has labels of its own; a matrix is shared on purpose.
        """
        shape = self.graph.weights[weight].shape
        if node < 0 or (len(shape) > 1 and sum(size > 1 for size in shape) > 1):
            node = slot = -1
        key = (weight, node, slot)
        match = self.uses.get(key)
        if match is None:
            labels = tuple([self.space.fresh(size) for size in shape])
            match = self.uses[key] = Use(weight, node, slot, labels, {})
        return match

    def _used(self) -> Iterable[Labels]:
        """Labels of all values and weights, each object once."""
        used = {id(axis): axis for labels in self.labels.values() for axis in labels}
        used.update((id(axis), axis) for use in self.uses.values() for axis in use.labels)
        return used.values()


class NodeSite:
    """One node during the walk: what `ops.rule.Site` promises."""

    def __init__(self, walk: _Walk, node: Node):
        self.walk, self.node = walk, walk.without_unread(node)
        self.space, self.shape_info = walk.space, walk.shape_info
        self.asked: set[int] = set()

    def shape(self, slot: int) -> tuple[int, ...]:
        return self.shape_info.shapes[self.node.inputs[slot]]

    def out_shape(self, slot: int = 0) -> tuple[int, ...]:
        return self.shape_info.shapes[self.node.outputs[slot]]

    def constant(self, slot: int) -> np.ndarray | None:
        return self.shape_info.constant(self.node.inputs[slot])

    def labels(self, slot: int) -> tuple[Labels, ...]:
        value = self.node.inputs[slot]
        self.asked.add(slot)
        if value in self.walk.graph.weights:
            return self.walk.use(value, self.node.index, slot).labels
        return self.walk.value_labels(value)

    def labels_of(self, value: str) -> tuple[Labels, ...]:
        return self.walk.value_labels(value)

    def given(self, slot: int) -> tuple[Labels, ...]:
        return self.walk.labels[self.node.outputs[slot]]

    def has(self, slot: int) -> bool:
        return bool(self.node.input(slot))

    def is_read(self, slot: int) -> bool:
        return slot < len(self.node.outputs) and self.walk.graph.is_read(
            self.node.outputs[slot]
        )

    def is_weight(self, slot: int) -> bool:
        return self.node.input(slot) in self.walk.graph.weights

    def carries_weight(self, slot: int) -> bool:
        return self.walk.graph.weight_behind(self.node.inputs[slot]) is not None

    def is_renumbered(self, slot: int) -> bool:
        return slot == 1 and table_of(self.walk.graph, self.node) in self.walk.tables

    def is_routing(self) -> bool:
        return any(self.node.index in router.nodes for router in self.walk.routers)

    def routed_labels(self) -> Labels | None:
        for router in self.walk.routers:
            if self.node.index in router.lookups:
                return self.walk.value_labels(router.scores)[-1]
        return None

    def set_output(self, labels: Sequence[Labels], slot: int = 0) -> None:
        shape = self.out_shape(slot)
        if tuple([each.size for each in labels]) != shape:
            raise ValueError(
                f"its output has shape {list(shape)}, not {[each.size for each in labels]}"
            )
        for each in labels:
            if each.size == 1 and not isinstance(each, Uniform):
                # Without its only element the axis, and all that is broadcast over it, would be empty.
                self.pin(each, "the only element of its axis")
        self.walk.labels[self.node.outputs[slot]] = tuple(labels)

    def give_sequence(self, parts: Sequence[Sequence[Labels]]) -> None:
        self.asked.update(range(len(self.node.inputs)))
        for index, labels in enumerate(parts):
            self.walk.labels[element(self.node.outputs[0], index)] = tuple(labels)

    def pinned_axis(self, size: int, text: str, kind: Kind = Kind.OPERATOR) -> Labels:
        return self.space.pinned(size, self.reason(text, kind))

    def pin(self, labels: Labels, text: str, kind: Kind = Kind.OPERATOR) -> None:
        if not isinstance(labels, Uniform):
            self.space.pin(labels, self.reason(text, kind))

    def reason(self, text: str, kind: Kind = Kind.OPERATOR) -> Reason:
        return Reason(text, self.node.name, kind)

    def role(self, slot: int, axis: int, role: str) -> None:
        graph = self.walk.graph
        if not self.carries_weight(slot):
            return
        value, reader = self.node.inputs[slot], (self.node.index, slot)
        while value not in graph.weights:
            carrier = graph.nodes[graph.producer[value]]
            if is_transpose(carrier):
                rank = len(self.shape_info.shapes[value])
                axis = (carrier.attributes.get("perm") or range(rank)[::-1])[axis]
            value, reader = carrier.inputs[0], (carrier.index, 0)
        use = self.walk.use(value, *reader)
        use.roles[axis] = role
        if self.node.index not in use.layers:
            use.layers.append(self.node.index)

    def reduces(
        self, slot: int, axes: Sequence[int], kind: str, zero: int | None = None
    ) -> None:
        value = self.node.inputs[slot]
        if value not in self.walk.labels and value not in self.walk.graph.weights:
            return  # numbers computed from sizes have no channels: all of them stay
        self.walk.reductions.append(
            Reduction(self.node.index, slot, tuple(axes), kind, zero)
        )

    def bind_attribute(self, attribute: str, labels: Labels, times: int = 1) -> None:
        self.walk.attributes.setdefault(self.node.index, {})[attribute] = (
            labels,
            times,
        )

    def tag(self, labels: Labels, name: str) -> None:
        self.space.tag(labels, name)

    def sizes_operand(self, slot: int) -> None:
        self.walk.operands.setdefault(self.node.index, []).append(slot)

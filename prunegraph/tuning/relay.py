"""Many versions of one graph, run side by side: the graph is cut into stretches, and each is opened once.

All versions advance together. In a stretch whose weights a version does not change it shares the
original's session, and before its first change it is the original, so that nothing of that is run twice. Versions that
change weights of a stretch share a session too, which has these weights as inputs: it takes longer to open one than to
run it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from prunegraph.graph.model import Graph, Node
from prunegraph.operators import is_add, is_gemm, is_matmul
from prunegraph.ops.cost import node_macs
from prunegraph.ops.rule import Shape
from prunegraph.rewriting.reweight import Revision
from prunegraph.runtime.data import Batch
from prunegraph.runtime.memory import release
from prunegraph.runtime.piece import Kind, opened_piece, read_by
from prunegraph.runtime.session import run
from prunegraph.runtime.stepper import is_outer

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

Array = np.ndarray

#: A value's arrays, one a batch.
Arrays = list[Array]

#: What stands where a value was given up.
NOTHING = np.empty(0)

#: Stretches at most: sessions that are opened one after the other.
STRETCHES = 32

#: Between two stretches at most this many times more values cross than so many parts of the work before or behind.
WIDE, NEARBY = 1.5, 2


@dataclass
class Version:
    """The graph with other weights.

    Args:
        nodes: indices of the nodes that read them.
        revise: makes the weights that some of these nodes read; called for each stretch, so that no version's weights
            are held as a whole.
        values: what has become of it so far: values that differ from the original's, by batch.
    """

    nodes: frozenset[int]
    revise: Callable[[Collection[int]], Revision]
    values: dict[str, Arrays] = field(default_factory=dict)


@dataclass(frozen=True)
class Stretch:
    """Nodes that run together; the values they read from before, and those that are read behind."""

    nodes: tuple[Node, ...]
    reads: tuple[str, ...]
    gives: tuple[str, ...]

    @property
    def indices(self) -> set[int]:
        return {node.index for node in self.nodes}


class Relay:
    """A graph in stretches.

    Args:
        graph: the original.
        shapes: of its values, all at the same sizes.
        wanted: names of the values that are asked for in the end.
    """

    def __init__(self, graph: Graph, shapes: Mapping[str, Shape], wanted: Sequence[str]):
        self.graph, self.wanted = graph, tuple(wanted)
        self.stretches = _stretches(graph, shapes, set(wanted))

    def run(
        self, batches: Sequence[Batch], versions: Sequence[Version]
    ) -> dict[str, Arrays]:
        """Run all versions; in the end each holds those of the wanted values that differ, in `values`.

        Returns:
            The original's wanted values, by name and batch.

        Raises:
            ModelError: a stretch cannot be run by itself.
        """
        now: dict[str, Arrays] = {
            name: [batch[name] for batch in batches] for name in self.graph.inputs
        }
        for place, stretch in enumerate(self.stretches):
            behind = self.stretches[place + 1 :]
            alive = {name for each in behind for name in each.reads}.union(self.wanted)
            with ExitStack() as stack:
                opened = stack.enter_context(self._opened(stretch, now))
                new = _run(opened, stretch, now, {}, {}, alive)
                shared = _Shared(self, stretch, versions, now, stack)
                for version in versions:
                    self._advance(version, stretch, opened, shared, now, alive)
                    _forget(version.values, alive)
            now.update(new)
            _forget(now, alive)
            release()
        return now

    def _advance(
        self,
        version: Version,
        stretch: Stretch,
        opened: InferenceSession,
        shared: _Shared,
        now: Mapping[str, Arrays],
        alive: Collection[str],
    ) -> None:
        """Run a stretch of one version, if anything differs there; `alive` are the values that are read behind it."""
        if touched := version.nodes & stretch.indices:
            revision = version.revise(touched)
            if shared.takes(revision):
                weights = shared.weights(revision)
                version.values.update(
                    _run(shared.opened, stretch, now, version.values, weights, alive)
                )
                return
            with self._opened(stretch, now, revision) as own:
                version.values.update(_run(own, stretch, now, version.values, {}, alive))
        elif version.values.keys() & set(stretch.reads):
            version.values.update(_run(opened, stretch, now, version.values, {}, alive))

    def _opened(
        self,
        stretch: Stretch,
        now: Mapping[str, Arrays],
        revision: Revision | None = None,
        fed: Mapping[str, Kind] | None = None,
    ) -> AbstractContextManager[InferenceSession]:
        """A session of a stretch, with the weights of a version or the original's; those that are `fed` are inputs."""
        replaced = revision.protos if revision else {}
        protos = [replaced.get(node.index, node.proto) for node in stretch.nodes]
        given: dict[str, Kind] = {
            name: (now[name][0].dtype, [None] * now[name][0].ndim) for name in stretch.reads
        }
        weights = revision.weights if revision else {}
        return opened_piece(
            self.graph, protos, {**given, **(fed or {})}, stretch.gives, weights
        )


class _Shared:
    """A session of a stretch that takes the weights of versions as inputs.

    Only for matrix products and what is added to them: ONNX Runtime lays out a convolution's weights when it opens it.

    Args:
        relay: the relay.
        stretch: the stretch.
        versions: all of them.
        now: values of the original before the stretch.
        stack: closes the session.
    """

    def __init__(
        self,
        relay: Relay,
        stretch: Stretch,
        versions: Sequence[Version],
        now: Mapping[str, Arrays],
        stack: ExitStack,
    ):
        self._relay, self._stretch, self._now, self._stack = relay, stretch, now, stack
        touched = {index for version in versions for index in version.nodes}
        takes = [
            node
            for node in stretch.nodes
            if node.index in touched and (is_matmul(node) or is_gemm(node) or is_add(node))
        ]
        graph, taken = relay.graph, {node.index for node in takes}
        others = [node for node in stretch.nodes if node.index not in taken]
        # What other nodes read as well may have to be a constant.
        fixed = {value for node in others for value in read_by(node.proto)}
        self._read = fixed.union(*(read_by(node.proto) for node in takes))
        self._known = {
            name: graph.weights[name]
            for node in takes
            for name in node.inputs
            if name in graph.weights
            and name not in fixed
            and graph.weights[name].dtype == np.float32
        }

    def takes(self, revision: Revision) -> bool:
        """Tell whether a version differs here in nothing but weights that are inputs."""
        return (
            not revision.protos.keys() & self._stretch.indices
            and (revision.weights.keys() & self._read) <= self._known.keys()
        )

    def weights(self, revision: Revision) -> dict[str, Array]:
        """All weights that are inputs, as a version has them."""
        own = {name: revision.weights.get(name) for name in self._known}
        return {
            name: self._original[name] if array is None else np.ascontiguousarray(array)
            for name, array in own.items()
        }

    @cached_property
    def _original(self) -> dict[str, Array]:
        return {name: weight.read() for name, weight in self._known.items()}

    @cached_property
    def opened(self) -> InferenceSession:
        """The session, opened for the first who asks."""
        fed: dict[str, Kind] = {
            name: (weight.dtype, weight.shape) for name, weight in self._known.items()
        }
        return self._stack.enter_context(
            self._relay._opened(self._stretch, self._now, fed=fed)
        )


def _run(
    opened: InferenceSession,
    stretch: Stretch,
    now: Mapping[str, Arrays],
    own: Mapping[str, Arrays],
    weights: Mapping[str, Array],
    alive: Collection[str],
) -> dict[str, Arrays]:
    """What a stretch makes of the values before it, by name and batch; a version's own come first.

    Args:
        opened: the session.
        stretch: the stretch.
        now: values of the original before the stretch.
        own: those of a version, which are given up batch by batch where nobody reads them any more.
        weights: those that the session has as inputs.
        alive: names of values that are read behind the stretch.
    """
    spent = (own.keys() & set(stretch.reads)).difference(alive)
    batches = len(next(iter(now.values())))
    created: dict[str, Arrays] = {name: [] for name in stretch.gives}
    for batch in range(batches):
        given = {name: own.get(name, now[name])[batch] for name in stretch.reads}
        given.update(weights)
        for name in spent:
            own[name][batch] = NOTHING
        for name, array in zip(
            stretch.gives, run(opened, given, list(stretch.gives)), strict=True
        ):
            created[name].append(array)
        given.clear()
    return created


def _forget(values: dict[str, Arrays], alive: Collection[str]) -> None:
    """Give up what is not read any more."""
    for name in values.keys() - set(alive):
        del values[name]


def _stretches(
    graph: Graph, shapes: Mapping[str, Shape], wanted: set[str]
) -> list[Stretch]:
    """The nodes that wanted values need, cut where little crosses from one stretch to the next."""
    nodes = _needed(graph, wanted)
    produced = {
        value: at for at, node in enumerate(nodes) for value in node.outputs if value
    }
    produced.update(dict.fromkeys(graph.inputs, -1))
    last = dict.fromkeys(wanted, len(nodes))
    for at, node in enumerate(nodes):
        for value in read_by(node.proto):
            last[value] = max(last.get(value, -1), at)
    # What stands between a node and the one before it.
    crossing = np.zeros(len(nodes) + 1)
    for value, at in produced.items():
        size = float(np.prod(shapes.get(value) or (1,)))
        crossing[at + 1 : last.get(value, at) + 1] += size
    macs = np.cumsum([0, *(node_macs(node, shapes) for node in nodes)])
    ends = sorted({*_ends(crossing, macs), len(nodes)} - {0})
    result = []
    for start, end in pairwise([0, *ends]):
        part = nodes[start:end]
        created = {value for node in part for value in node.outputs if value}
        read = dict.fromkeys(v for node in part for v in read_by(node.proto))
        reads = [v for v in read if v in produced and v not in created]
        gives = [v for v in sorted(created) if last.get(v, -1) >= end]
        if gives:
            result.append(Stretch(tuple(part), tuple(reads), tuple(gives)))
    return result


def _ends(crossing: Array, macs: Array) -> Iterator[int]:
    """Where to cut: one place in every equal part of the work, where the least crosses.

    There is none in a part where far more crosses than nearby: every version has to hold what crosses.
    """
    parts = np.minimum(macs * STRETCHES // max(macs[-1], 1), STRETCHES - 1)
    best = {
        part: int(places[crossing[places].argmin()])
        for part in range(1, STRETCHES)
        if len(places := np.flatnonzero(parts == part))
    }
    for part, place in best.items():
        nearby = [crossing[at] for other, at in best.items() if abs(other - part) <= NEARBY]
        if crossing[place] <= WIDE * min(nearby):
            yield place


def _needed(graph: Graph, wanted: set[str]) -> list[Node]:
    """The nodes of the main graph that wanted values depend on, in order; constants are weights."""
    result, missing = [], set(wanted)
    for node in reversed(graph.nodes):
        if not is_outer(node) or node.outputs[0] in graph.weights:
            continue
        if missing.intersection(node.outputs):
            result.append(node)
            missing.update(read_by(node.proto))
    return result[::-1]

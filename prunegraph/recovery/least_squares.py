"""Least-squares reconstruction of the layers behind a cut.

From shallow to deep, a layer's weights are refitted so that, from the inputs the pruned
network gives it, it makes the outputs the original made: with X the inputs and Y the
outputs (both centred), W = (X'X + ridge)^-1 (X'Y + ridge W0), where W0 are the weights the cut
left. The intercept goes into the layer's bias, or into the mean of the BatchNormalization behind
it. The last layer before a residual sum is fitted to the original's sum, less what the
pruned network already has on the other side, so that it makes up for that side's error too; the last layer before a
branch that went, to the sum behind that branch. Where
a ReLU or a clip at 0 and above follows, only what passes it has to be right (`regression.rectified`). Sources: He et
al. 2017 (asymmetric reconstruction); ALGORITHMS F4.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from prunegraph.coupling.survivors import Survivors
from prunegraph.graph import linear
from prunegraph.graph.bounds import bounds
from prunegraph.graph.model import Graph, Node
from prunegraph.operators import is_add, is_batch_normalization
from prunegraph.recovery.changes import changed
from prunegraph.recovery.regression import Regression, rectified
from prunegraph.rewriting.reweight import Revision
from prunegraph.runtime import patches
from prunegraph.runtime.data import Data
from prunegraph.runtime.statistics import MAX_INPUTS, ROWS, Statistics, batch_size
from prunegraph.runtime.stepper import Stepper, Store

Array = np.ndarray

#: An output whose BatchNormalization scales it by less than this, relative to the largest, is not fitted.
DEAD = 1e-6


@dataclass(frozen=True)
class _Tail:
    """What comes behind a layer, up to the value that is compared with the original's.

    `normal` is a BatchNormalization, `other` the other operand of a residual sum ("" without
    one). Of the value only what is between 0 and `ceiling` passes; None where all does.
    """

    value: str
    normal: Node | None = None
    other: str = ""
    ceiling: float | None = None


@dataclass
class _Fit:
    """A layer to refit, with the rows that are looked at and what its outputs are compared with."""

    node: Node
    rows: patches.Rows
    tail: _Tail
    kept: Sequence[Array | None]
    store: Store = field(repr=False)
    values: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.values = (self.tail.value,)

    def add(self, batch: int, *arrays: Array) -> None:
        """Keep the original's outputs at the places of the rows."""
        y = arrays[0]
        for axis, kept in enumerate(self.kept):
            if kept is not None:
                y = np.take(y, kept, axis)
        self.store.put(batch, self.node.name, self.rows.outputs(y, batch))


def repair(
    survivors: Survivors,
    pruned: Graph,
    data: Data,
    progress: Callable[[str], None] = lambda stage: None,
) -> Graph:
    """The pruned graph with the weights of its layers refitted.

    Args:
        left: what the cut left of the original.
        small: the pruned graph; not touched.
        data: inputs from the training distribution, without labels.
        progress: called with the name of each layer as it is refitted.

    Returns:
        A new graph with the same nodes. Layers that come before every cut, that have more than
        `MAX_INPUTS` inputs, or whose weights others read, stay as they are.

    Raises:
        DataError: the data do not fit the model.
        ModelError: ONNX Runtime cannot run a piece of the model by itself.
    """
    data = data.fit(survivors.coupling.graph)
    with Store() as targets, Store() as values:
        fits = _fits(survivors, pruned, data, targets)
        if not fits:
            return pruned
        original = survivors.coupling.graph
        Statistics(original, data, progress=progress).collect(
            fits, "outputs of the original"
        )
        size = batch_size(original, data, [fit.values[0] for fit in fits])
        revision, stepper = (
            Revision(pruned),
            Stepper(pruned, data.batches(pruned, size), values, _order(pruned)),
        )
        for done, fit in enumerate(fits):
            progress(f"least squares: layer {done + 1} of {len(fits)}, {fit.node.name}")
            stepper.advance(fit.node.index, revision.weights, revision.protos)
            _refit(fit, stepper, revision)
        return revision.apply()


def _fits(survivors: Survivors, pruned: Graph, data: Data, targets: Store) -> list[_Fit]:
    """Layers that see a change of their inputs, in topological order."""
    different = changed(survivors, pruned)
    sums = {branch.output for branch in survivors.branches}
    place = {index: place for place, index in enumerate(_order(pruned))}
    per_sample = max(ROWS // data.samples, 16)
    fits = []
    for node in sorted(pruned.layers, key=lambda node: place[node.index]):
        known = (
            linear.is_linear(pruned, node)
            and survivors.coupling.value_labels(node.outputs[0]) is not None
        )
        if not known:
            continue
        shape = pruned.weights[node.inputs[1]].shape
        if linear.matrix_size(node, shape) > MAX_INPUTS:
            continue
        tail = _tail(survivors, pruned, node, place)
        if node.inputs[0] not in different and tail.value not in sums:
            continue
        if (
            tail.value not in survivors.coupling.graph.outer
        ):  # of a branch that took the place of its If
            continue
        rows = patches.Rows(node, shape, per_sample, seed=node.index)
        fits.append(_Fit(node, rows, tail, survivors.value(tail.value), targets))
    return fits


def _order(pruned: Graph) -> list[int]:
    """A topological order in which, of two layers that meet in a sum, the one with more inputs runs last.

    That one is fitted to the sum, and can make up for more.
    """
    keys = [float(node.index) for node in pruned.nodes]
    for node in pruned.nodes:
        sides = (
            [side for value in node.inputs if (side := _layer_before(pruned, value))]
            if is_add(node)
            else []
        )
        if len(sides) == 2:
            weak, strong = sorted(
                sides,
                key=lambda side: linear.matrix_size(
                    side, pruned.weights[side.inputs[1]].shape
                ),
            )
            keys[strong.index] = max(keys[strong.index], weak.index + 0.5)
    readers = {
        n.index: {i for v in n.outputs for i, _ in pruned.consumers.get(v, ())}
        for n in pruned.nodes
    }
    waiting = [len({parent for parent, _ in node.parents}) for node in pruned.nodes]
    ready = [(keys[index], index) for index, count in enumerate(waiting) if not count]
    heapq.heapify(ready)
    order = []
    while ready:
        _, index = heapq.heappop(ready)
        order.append(index)
        for reader in readers[index]:
            waiting[reader] -= 1
            if not waiting[reader]:
                heapq.heappush(ready, (keys[reader], reader))
    return order


def _layer_before(pruned: Graph, value: str) -> Node | None:
    """The layer that makes a value, maybe through a BatchNormalization."""
    node = pruned.nodes[pruned.producer[value]] if value in pruned.producer else None
    if node is not None and is_batch_normalization(node):
        return _layer_before(pruned, node.inputs[0])
    return node if node is not None and linear.is_linear(pruned, node) else None


def _tail(
    survivors: Survivors, pruned: Graph, node: Node, place: Mapping[int, int]
) -> _Tail:
    """Say what a layer feeds: maybe a BatchNormalization, maybe a sum whose other side is made before the layer."""
    normal = linear.batch_normalization(pruned, node)
    if normal is not None and survivors.coupling.value_labels(normal.outputs[0]) is None:
        normal = None
    value = (normal or node).outputs[0]
    other = _other_side(survivors, pruned, value, node, place)
    if other:
        value = pruned.nodes[pruned.consumers[value][0][0]].outputs[0]
    return _Tail(value, normal, other, _ceiling(pruned, value))


def _ceiling(pruned: Graph, value: str) -> float | None:
    """The most of a value that passes its readers, if they all are ReLUs or clip at 0 and above; else None."""
    readers = [pruned.nodes[index] for index, _ in pruned.consumers.get(value, ())]
    bounds = [_passing(pruned, reader) for reader in readers]
    if not bounds or value in pruned.outputs or any(bound is None for bound in bounds):
        return None
    return max(bound for bound in bounds if bound is not None)


def _passing(pruned: Graph, reader: Node) -> float | None:
    limits = bounds(pruned, reader)
    return limits[1] if limits is not None and limits[0] == 0 < limits[1] else None


def _other_side(
    survivors: Survivors, pruned: Graph, value: str, node: Node, place: Mapping[int, int]
) -> str:
    """The other operand of the Add that alone reads a value, if it is there before the layer runs; else ""."""
    readers = pruned.consumers.get(value, ())
    add = (
        pruned.nodes[readers[0][0]]
        if len(readers) == 1 and value not in pruned.outputs
        else None
    )
    if (
        add is None
        or not is_add(add)
        or survivors.coupling.value_labels(add.outputs[0]) is None
    ):
        return ""
    other = next((v for v in add.inputs if v != value), "")
    if (
        other in pruned.weights
        or place.get(pruned.producer.get(other, -1), -1) >= place[node.index]
    ):
        return ""
    shapes = survivors.coupling.shape_info.shapes
    return (
        other
        if shapes.get(other) == shapes.get(value) == shapes.get(add.outputs[0])
        else ""
    )


def _refit(fit: _Fit, stepper: Stepper, revision: Revision) -> None:
    node, tail = fit.node, fit.tail
    layer = linear.LinearLayer(revision.graph, node)
    xs, ys, others, rests = [], [], [], []
    for batch in range(stepper.batches):
        x = stepper.value(node.inputs[0], batch)
        xs.append(fit.rows.inputs(x, batch).astype(np.float32, copy=False))
        ys.append(fit.store.get(batch, node.name).astype(np.float32, copy=False))
        if tail.other:
            others.append(fit.rows.outputs(stepper.value(tail.other, batch), batch))
        if layer.rest:
            known = layer.rest in revision.graph.weights
            c = revision.value(layer.rest) if known else stepper.value(layer.rest, batch)
            added = fit.rows.added(c * np.float32(layer.beta), x, batch)
            rests.append(np.broadcast_to(added, ys[-1].shape).astype(np.float32))
    fit.store.drop([node.name])
    old, centred = revision.matrix(node), revision.can_intercept(node)
    regression = Regression(
        np.ascontiguousarray(np.concatenate(xs).swapaxes(0, 1)), old, centred=centred
    )
    y = _grouped(np.concatenate(ys), len(old))
    other = _grouped(np.concatenate(others), len(old)) if others else np.float32(0)
    rest = _grouped(np.concatenate(rests), len(old)) if rests else np.float32(0)
    factor, mean, shift = (
        _grouped(each[None], len(old)) for each in _normalisation(tail, revision, node)
    )
    dead = abs(factor) <= DEAD * abs(factor).max()
    factor = np.where(dead, 1, factor)

    def to_layer(z: Array) -> Array:
        return (z - other - shift) / factor + mean - rest

    def from_layer(p: Array) -> Array:
        return (p + rest - mean) * factor + shift + other

    if tail.ceiling is not None:
        weights, intercept = rectified(regression, y, to_layer, from_layer, tail.ceiling)
    else:
        weights, intercept = regression.solve(to_layer(y))
    revision.set_matrix(node, np.where(dead, old, weights))
    if centred:
        revision.set_intercept(
            node,
            np.where(dead.reshape(-1), revision.intercept(node), intercept.reshape(-1)),
        )


def _grouped(rows: Array, groups: int) -> Array:
    """[samples, outputs] as [groups, samples, outputs]."""
    return rows.reshape(len(rows), groups, -1).swapaxes(0, 1)


def _normalisation(
    tail: _Tail, revision: Revision, node: Node
) -> tuple[Array, Array, Array]:
    """Factor, mean and shift [outputs] between a layer and the value behind it."""
    if tail.normal is None:
        size = revision.intercept(node).size
        return (
            np.ones(size, np.float32),
            np.zeros(size, np.float32),
            np.zeros(size, np.float32),
        )
    factor, mean, shift = (
        each.astype(np.float32)
        for each in linear.normalisation(revision.graph, tail.normal)
    )
    return factor, mean, shift

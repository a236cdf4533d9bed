"""Least-squares reconstruction of the layers behind a cut.

From shallow to deep, a layer's weights are refitted so that, from the inputs the pruned
network gives it, it makes the outputs the original made: with X the inputs and Y the
outputs (both centred), W = (X'X + ridge)^-1 (X'Y + ridge W0), where W0 are the weights the cut
left. The intercept goes into the layer's bias, or into the mean of the BatchNormalization behind
it. The last layer before a residual sum is fitted to the original's sum, less what the
pruned network already has on the other side, so that it makes up for that side's error too.
Source: He et al. 2017 (asymmetric reconstruction); ALGORITHMS F4.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from prunegraph.coupling.survivors import Survivors
from prunegraph.graph import linear
from prunegraph.graph.model import Graph, Node
from prunegraph.recovery.changes import changed
from prunegraph.rewriting.revise import Revision
from prunegraph.runtime import patches
from prunegraph.runtime.data import Data
from prunegraph.runtime.statistics import MAX_INPUTS, ROWS, Statistics, batch_size
from prunegraph.runtime.stepper import Stepper, Store

Array = np.ndarray

#: Added to the diagonal, relative to its mean: keeps the weights near the old ones where inputs hardly vary.
RIDGE = 1e-3

#: Scales of a BatchNormalization below this cannot be divided by.
TINY = 1e-3


@dataclass
class Moments:
    """Sums over samples of inputs x [groups, inputs] and outputs y [groups, outputs], and of their products."""

    count: int = 0
    x: Array | float = 0.0
    y: Array | float = 0.0
    xx: Array | float = 0.0
    xy: Array | float = 0.0

    def add(self, x: Array, y: Array) -> None:
        """Take in samples: x [samples, groups, inputs], y [samples, groups, outputs]."""
        x, y = (np.ascontiguousarray(a.swapaxes(0, 1), np.float32) for a in (x, y))
        self.count += x.shape[1]
        self.x = self.x + x.sum(axis=1, dtype=np.float64)
        self.y = self.y + y.sum(axis=1, dtype=np.float64)
        self.xx = self.xx + (x.swapaxes(1, 2) @ x).astype(np.float64)
        self.xy = self.xy + (x.swapaxes(1, 2) @ y).astype(np.float64)

    def solve(self, anchor: Array | None = None, *, centred: bool = True, ridge: float = RIDGE) -> tuple[Array, Array]:
        """Weights [groups, inputs, outputs] and intercept [groups, outputs] with the least squared error.

        Args:
            anchor: weights to stay near to where the samples say nothing; zero without.
            centred: whether there is an intercept.
            ridge: weight of the anchor, relative to the mean energy of an input.
        """
        n = max(self.count, 1)
        x, y = np.asarray(self.x) / n, np.asarray(self.y) / n
        gram, target = np.asarray(self.xx) / n, np.asarray(self.xy) / n
        if centred:
            gram = gram - x[:, :, None] * x[:, None, :]
            target = target - x[:, :, None] * y[:, None, :]
        size = gram.shape[1]
        damping = ridge * np.trace(gram, axis1=1, axis2=2) / size + np.finfo(np.float32).tiny
        gram = gram + damping[:, None, None] * np.eye(size)
        if anchor is not None:
            target = target + damping[:, None, None] * anchor
        weights = np.linalg.solve(gram, target)
        intercept = y - np.einsum("gi,gio->go", x, weights) if centred else np.zeros_like(y)
        return weights, intercept


@dataclass(frozen=True)
class _Sum:
    """A residual sum behind a layer: its value, its other operand, and the normalisation before it."""

    value: str
    other: str
    normal: Node | None


@dataclass
class _Fit:
    """A layer to refit, with the rows that are looked at and what its outputs are compared with."""

    node: Node
    rows: patches.Rows
    into: _Sum | None
    kept: Sequence[Array | None]
    values: tuple[str, ...]
    store: Store = field(repr=False)

    def add(self, batch: int, *arrays: Array) -> None:
        """Keep the original's outputs at the places of the rows."""
        y = arrays[0]
        for axis, kept in enumerate(self.kept):
            if kept is not None:
                y = np.take(y, kept, axis)
        self.store.put(batch, self.node.name, self.rows.outputs(y, batch))


def repair(left: Survivors, small: Graph, data: Data, progress: Callable[[str], None] = lambda stage: None) -> Graph:
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
    with Store() as targets, Store() as values:
        fits = _fits(left, small, data, targets)
        if not fits:
            return small
        original = left.coupling.graph
        Statistics(original, data, progress=progress).collect(fits, "outputs of the original")
        size = batch_size(original, data, [fit.values[0] for fit in fits])
        revision, stepper = Revision(small), Stepper(small, data.batches(small, size), values)
        for done, fit in enumerate(fits):
            progress(f"least squares: layer {done + 1} of {len(fits)}, {fit.node.name}")
            stepper.advance(fit.node.index, revision.weights, revision.protos)
            _refit(fit, stepper, revision)
        return revision.apply()


def _fits(left: Survivors, small: Graph, data: Data, targets: Store) -> list[_Fit]:
    """Layers that see a change of their inputs, in topological order."""
    different = changed(left, small)
    per_sample = max(ROWS // data.samples, 16)
    fits = []
    for node in small.layers:
        known = linear.is_linear(small, node) and left.coupling.value_labels(node.outputs[0]) is not None
        if not known or node.inputs[0] not in different:
            continue
        shape = small.weights[node.inputs[1]].shape
        if linear.matrix_size(node, shape) > MAX_INPUTS:
            continue
        into = _sum_behind(left, small, node)
        target = into.value if into else node.outputs[0]
        rows = patches.Rows(node, shape, per_sample, seed=node.index)
        fits.append(_Fit(node, rows, into, left.value(target), (target,), targets))
    return fits


def _sum_behind(left: Survivors, small: Graph, node: Node) -> _Sum | None:
    """The Add that a layer feeds (maybe through a BatchNormalization), if its other side is made before the layer."""
    normal = linear.batch_normalization(small, node)
    value = (normal or node).outputs[0]
    readers = small.consumers.get(value, ())
    if len(readers) != 1 or value in small.outputs:
        return None
    add = small.nodes[readers[0][0]]
    if add.op != "Add" or left.coupling.value_labels(add.outputs[0]) is None:
        return None
    other = next((v for v in add.inputs if v != value), "")
    if other in small.weights or (other not in small.inputs and small.producer.get(other, node.index) >= node.index):
        return None
    shapes = left.coupling.facts.shapes
    if shapes.get(other) != shapes.get(value) or shapes.get(add.outputs[0]) != shapes.get(value):
        return None
    return _Sum(add.outputs[0], other, normal)


def _refit(fit: _Fit, stepper: Stepper, revision: Revision) -> None:
    node, moments = fit.node, Moments()
    old = revision.matrix(node)
    for batch in range(stepper.batches):
        x = fit.rows.inputs(stepper.value(node.inputs[0], batch), batch)
        y = fit.store.get(batch, node.name)
        if fit.into is not None:
            y = _less_other(fit, y, fit.rows.outputs(stepper.value(fit.into.other, batch), batch), revision)
        moments.add(x, y.reshape(len(y), len(old), -1))
    fit.store.drop([node.name])
    centred = revision.can_intercept(node)
    weights, intercept = moments.solve(old, centred=centred)
    revision.set_matrix(node, weights)
    if centred:
        revision.set_intercept(node, intercept.reshape(-1))


def _less_other(fit: _Fit, y: Array, other: Array, revision: Revision) -> Array:
    """What the layer has to make so that the sum is right: taken back through the normalisation."""
    assert fit.into is not None
    wanted = y.astype(np.float64) - other
    if fit.into.normal is None:
        return wanted
    factor, mean, shift = linear.normalisation(revision.graph, fit.into.normal)
    factor = np.where(abs(factor) < TINY, np.copysign(TINY, factor), factor)
    return (wanted - shift) / factor + mean

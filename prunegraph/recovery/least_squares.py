"""Least-squares reconstruction of the layers behind a cut.

From shallow to deep, a layer's weights are refitted so that, from the inputs the pruned
network gives it, it makes the outputs the original made: with X the inputs and Y the
outputs (both centred), W = (X'X + ridge)^-1 (X'Y + ridge W0). W0 are the weights the cut left, which make up for the
inputs that went (`recovery.compensation`); each layer's ridge is chosen on samples left out (`recovery.ridge`). The
intercept goes into the layer's bias, or into the mean of the BatchNormalization behind
it. The last layer before a residual sum is fitted to the original's sum, less what the
pruned network already has on the other side, so that it makes up for that side's error too; the last layer before a
branch that went, to the sum behind that branch. Where
a ReLU, a clip or another activation follows, only what passes it has to be right (`recovery.passing`). Sources: He et
al. 2017 (asymmetric reconstruction); ALGORITHMS F4.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np

from prunegraph.coupling.survivors import Survivors
from prunegraph.errors import DataError
from prunegraph.graph import linear
from prunegraph.graph.model import Graph, Node
from prunegraph.operators import is_convolution
from prunegraph.recovery.changes import changed, original_of
from prunegraph.recovery.compensation import Compensation
from prunegraph.recovery.regression import Regression, behind
from prunegraph.recovery.ridge import choose_ridge
from prunegraph.recovery.tails import Tail, run_order, tail_of
from prunegraph.rewriting.reweight import Revision
from prunegraph.rewriting.tied import copies
from prunegraph.runtime import patches
from prunegraph.runtime.data import Data
from prunegraph.runtime.row_mask import counted
from prunegraph.runtime.statistics import MAX_INPUTS, ROWS, Statistics, batch_size
from prunegraph.runtime.stepper import Stepper
from prunegraph.runtime.store import Store

Array = np.ndarray

#: An output whose BatchNormalization scales it by less than this, relative to the largest, is not fitted.
DEAD = 1e-6

#: A layer with this many times more outputs than inputs has its inputs kept instead of its outputs.
WIDE = 4

#: Outputs times samples that are fitted at a time, where they are made of inputs.
BLOCK = 2**25


@dataclass
class _Fit:
    """A layer to refit, with the rows that are looked at and what its outputs are compared with.

    `source` is the layer as the original has it, where it makes so many outputs that its inputs are kept instead.
    """

    node: Node
    rows: patches.Rows
    tail: Tail
    mask: str
    kept: Sequence[Array | None]
    store: Store = field(repr=False)
    source: linear.LinearLayer | None = None
    values: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        source = self.source
        seen = source.node.inputs[0] if source is not None else self.tail.value
        self.values = (seen, self.mask) if self.mask else (seen,)

    def add(self, batch: int, *arrays: Array) -> None:
        """Keep what the original has at the places of the rows."""
        counts = counted(arrays[1], arrays[0]) if self.mask else None
        if self.source is not None:
            seen = self.rows.inputs(arrays[0], batch, counts)[:, 0]
        else:
            y = arrays[0]
            for axis, kept in enumerate(self.kept):
                if kept is not None:
                    y = np.take(y, kept, axis)
            seen = self.rows.outputs(y, batch, counts)
        self.store.put(batch, self.node.name, seen.astype(np.float32, copy=False))

    def targets(self, batches: int, groups: int) -> Iterator[tuple[slice, Array]]:
        """Outputs of the original [groups, samples, outputs], a range of outputs at a time."""
        name = self.node.name
        seen = np.concatenate([self.store.get(batch, name) for batch in range(batches)])
        self.store.drop([name])
        if self.source is None:
            yield slice(None), _grouped(seen, groups)
            return
        node = self.source.node
        matrix = linear.to_matrix(node, self.source.weighted())[0].astype(np.float32)
        vector = self.source.vector().astype(np.float32)
        if (kept := self.kept[-1]) is not None:
            matrix, vector = matrix[:, kept], vector[kept]
        size = max(1, BLOCK // len(seen))
        for start in range(0, len(vector), size):
            part = slice(start, start + size)
            yield part, (seen @ matrix[:, part] + vector[part])[None]


def repair(
    survivors: Survivors,
    pruned: Graph,
    data: Data,
    progress: Callable[[str], None] = lambda stage: None,
    *,
    activations: bool = False,
) -> Graph:
    """The pruned graph with the weights of its layers refitted.

    Args:
        survivors: what the cut left of the original.
        pruned: the pruned graph; not touched.
        data: inputs from the training distribution, without labels.
        progress: called with the name of each layer as it is refitted.
        activations: whether to look at what passes activations that are no rectifiers, such as GELU.

    Returns:
        A new graph with the same nodes. Layers that come before every cut, that have more than
        `MAX_INPUTS` inputs, whose weights others read, or that hold a copy of a table of tokens, stay as they are.

    Raises:
        DataError: the data do not fit the model.
        ModelError: ONNX Runtime cannot run a piece of the model by itself.
    """
    data = data.fit(survivors.coupling.graph)
    with Store() as targets, Store() as values:
        original = survivors.coupling.graph
        statistics = Statistics.shared(original, data, progress)
        fits = _fits(survivors, pruned, statistics, targets, activations)
        if not fits:
            return pruned
        size = batch_size(original, data, list({fit.values[0]: None for fit in fits}))
        statistics.collect(fits, "outputs of the original", size)
        revision, stepper = (
            Revision(pruned),
            Stepper(pruned, data.batches(pruned, size), values, run_order(pruned)),
        )
        masks: list[Array] = []
        if (mask := statistics.mask) is not None:
            masks = [batch[mask.input] for batch in data.batches(pruned, size)]
        inputs = _Inputs(stepper, masks)
        compensation = Compensation(survivors, pruned, statistics)
        for done, fit in enumerate(fits):
            progress(f"least squares: layer {done + 1} of {len(fits)}, {fit.node.name}")
            stepper.advance(fit.node.index, revision.weights, revision.protos)
            _refit(fit, inputs, revision, compensation)
        return revision.apply(spent=True)


class _Inputs:
    """What layers of the pruned network read; layers in a row that read the same share one regression.

    Args:
        stepper: runs the pruned network.
        masks: where each batch counts; empty where there is no mask.
    """

    def __init__(self, stepper: Stepper, masks: Sequence[Array]):
        self.stepper, self.masks = stepper, masks
        self._key: tuple[object, ...] = ()
        self._regression: Regression | None = None

    def each(self, fit: _Fit, value: str) -> Iterator[tuple[int, Array, Array | None]]:
        """Number, value, and where it counts, of every batch."""
        for batch in range(self.stepper.batches):
            array = self.stepper.value(value, batch)
            yield batch, array, counted(self.masks[batch], array) if fit.mask else None

    def regression(self, fit: _Fit, centred: bool) -> Regression:
        """The regression on a layer's rows; see `Regression` for `centred`. Raises DataError where no row counts."""
        key = (fit.rows.key, fit.mask, centred)
        if self._regression is None or key != self._key:
            self._regression = None  # its memory is free before the next one takes some
            value = fit.node.inputs[0]
            rows = (fit.rows.inputs(x, batch, on) for batch, x, on in self.each(fit, value))
            x = _stacked(rows, self.stepper.batches)
            if not len(x):
                raise DataError(
                    f"the mask {fit.mask!r} is 0 everywhere: no position counts"
                )
            x = np.ascontiguousarray(x.swapaxes(0, 1), np.float32)
            if not np.isfinite(x).all():
                raise DataError(
                    f"what layer {fit.node.name!r} reads is not a number, or too large; clean or scale the data"
                )
            self._regression = Regression(x, centred=centred)
            self._key = key
        return self._regression


def _fits(
    survivors: Survivors,
    pruned: Graph,
    statistics: Statistics,
    targets: Store,
    activations: bool,
) -> list[_Fit]:
    """Layers that see a change of their inputs, in topological order."""
    different = changed(survivors, pruned)
    sums = {branch.output for branch in survivors.branches}
    place = {index: place for place, index in enumerate(run_order(pruned))}
    # Rows are held: of many samples fewer are looked at each.
    per_sample = max(ROWS // statistics.data.samples, 1)
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
        tail = tail_of(survivors, pruned, node, place, activations=activations)
        if node.inputs[0] not in different and tail.value not in sums:
            continue
        if (
            tail.value not in survivors.coupling.graph.outer
        ):  # of a branch that took the place of its If
            continue
        if _is_tied(survivors, pruned, node):
            continue
        rows = patches.Rows(node, shape, per_sample)
        source = _source(survivors, pruned, node, tail)
        mask = _mask(statistics, rows, tail)
        kept = survivors.value(tail.value)
        fits.append(_Fit(node, rows, tail, mask, kept, targets, source))
    return fits


def _is_tied(survivors: Survivors, pruned: Graph, node: Node) -> bool:
    """Tell whether a layer's weight is a table of tokens once more, and lost nothing: the file holds them once."""
    before = original_of(survivors, node)
    if before is None:
        return False
    original, name = survivors.coupling.graph, before.input(1)
    weight = pruned.weights[node.inputs[1]]
    return name in copies(original) and original.weights[name].shape == weight.shape


def _mask(statistics: Statistics, rows: patches.Rows, tail: Tail) -> str:
    """The input that says which rows of a layer count; "" where all do."""
    mask, read = statistics.mask, rows.node.inputs[0]
    if mask is None or not rows.is_masked or not mask.of(read):
        return ""
    return mask.of(tail.value)


def _source(
    survivors: Survivors, pruned: Graph, node: Node, tail: Tail
) -> linear.LinearLayer | None:
    """The layer as the original has it, if it makes many outputs of few inputs and they are compared as they are."""
    before = original_of(survivors, node)
    if before is None or tail.value != node.outputs[0] or tail.passing is not None:
        return None
    layer = linear.LinearLayer(survivors.coupling.graph, before)
    if layer.no_product() or layer.rest or linear.groups(before) > 1:
        return None
    size = linear.matrix_size(
        before, survivors.coupling.graph.weights[before.inputs[1]].shape
    )
    is_wide = layer.outputs > WIDE * size
    return layer if is_wide and not is_convolution(node) else None


def _refit(
    fit: _Fit, inputs: _Inputs, revision: Revision, compensation: Compensation
) -> None:
    """Fit a layer in the scale of the value that is compared: `v = (x W + b + rest - mean) factor + shift + other`."""
    node, tail = fit.node, fit.tail
    old, centred = revision.matrix(node), revision.can_intercept(node)
    near = compensation.matrix(node, centred=centred)
    near = old if near is None else near * linear.LinearLayer(revision.graph, node).alpha
    regression = inputs.regression(fit, centred)
    factor, mean, shift = (
        _grouped(each[None], len(old)) for each in _behind(tail, revision, node)
    )
    dead = abs(factor) <= DEAD * abs(factor).max()
    factor = np.where(dead, 1, factor)
    added = _added(fit, inputs, revision, factor)
    weights, intercepts = np.empty(old.shape), np.empty((len(old), old.shape[2]))
    for part, y in fit.targets(inputs.stepper.batches, len(old)):
        anchor = near[:, :, part] * factor[:, :, part]
        if not part.start:
            regression.ridge = choose_ridge(regression, y, anchor, tail.passing, added)
        if tail.passing is not None:
            fitted = behind(regression, y, anchor, tail.passing, added)
        else:
            fitted = regression.solve(y if added is None else y - added, anchor)
        weights[:, :, part], intercepts[:, part] = fitted
    weights /= factor
    np.copyto(weights, old, where=dead)
    revision.set_matrix(node, weights)
    if centred:
        intercepts = ((intercepts[:, None] - shift) / factor + mean).reshape(-1)
        revision.set_intercept(
            node, np.where(dead.reshape(-1), revision.intercept(node), intercepts)
        )


def _added(fit: _Fit, inputs: _Inputs, revision: Revision, factor: Array) -> Array | None:
    """What the value that is compared has besides the layer's own outputs [groups, samples, outputs]."""
    other = _other(fit, inputs, len(factor))
    rest = _rest(fit, inputs, revision, len(factor))
    if rest is None:
        return other
    rest *= factor.astype(np.float32)
    return rest if other is None else rest + other


def _other(fit: _Fit, inputs: _Inputs, groups: int) -> Array | None:
    """The other side of a residual sum [groups, samples, outputs]."""
    if not fit.tail.other:
        return None
    rows = [
        fit.rows.outputs(y, batch, on) for batch, y, on in inputs.each(fit, fit.tail.other)
    ]
    return _grouped(np.concatenate(rows), groups)


def _rest(fit: _Fit, inputs: _Inputs, revision: Revision, groups: int) -> Array | None:
    """A bias that is no constant vector [groups, samples, outputs]."""
    layer = linear.LinearLayer(revision.graph, fit.node)
    if not layer.rest:
        return None
    known = layer.rest in revision.graph.weights
    rows = []
    for batch, x, on in inputs.each(fit, fit.node.inputs[0]):
        c = revision.value(layer.rest) if known else inputs.stepper.value(layer.rest, batch)
        added = fit.rows.added(c * np.float32(layer.beta), x, batch, on)
        count = len(fit.rows.inputs(x, batch, on))
        rows.append(np.broadcast_to(added, (count, layer.outputs)).astype(np.float32))
    return _grouped(np.concatenate(rows), groups)


def _stacked(parts: Iterator[Array], count: int) -> Array:
    """Arrays one below the other, none held twice: about `count` of them, each about as long as the first."""
    first = next(parts)
    result, filled = np.empty((len(first) * count, *first.shape[1:]), first.dtype), 0
    for each in chain([first], parts):
        stop = filled + len(each)
        if stop > len(result):
            longer = np.empty((2 * stop, *first.shape[1:]), first.dtype)
            longer[:filled] = result[:filled]
            result = longer
        result[filled:stop] = each
        filled = stop
    return result[:filled]


def _grouped(rows: Array, groups: int) -> Array:
    """[samples, outputs] as [groups, samples, outputs]."""
    return rows.reshape(len(rows), groups, -1).swapaxes(0, 1)


def _behind(tail: Tail, revision: Revision, node: Node) -> tuple[Array, Array, Array]:
    """Factor, mean and shift [outputs] between a layer and the value behind it."""
    if tail.normal is not None:
        return linear.normalisation(revision.graph, tail.normal)
    size = linear.LinearLayer(revision.graph, node).outputs
    shift = np.zeros(size)
    if tail.bias:
        shift += revision.graph.weights[tail.bias].read().reshape(-1)
    return np.ones(size), np.zeros(size), shift

"""Means and variances of the pruned network's layers, set right again.

With data, from shallow to deep, each step seeing what those before it changed:

* a BatchNormalization gets the mean and variance that its inputs have on the data now (averaged over
  all samples, weights frozen);
* another linear layer is scaled and shifted so that each output has the mean and standard deviation that it had
  in the original: `W' = W r`, `b' = (b - mean) r + mean_ref` with `r = std_ref / std`.

Without data, what follows from the original's BatchNormalization nodes (`recovery.synthetic`) has to do: what the
removed channels gave on average leaves the running mean (or goes into a bias), and the running deviation
shrinks by the removed channels' share of `sum |w| std(x)`. That adds deviations, as if all of a filter's
inputs rose and fell with the signs of their weights. Trained filters add what agrees: measured, it comes closer than
adding variances, which takes inputs for independent. Sources: ALGORITHMS F5; Nagel et al. 2019 (means).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from prunegraph.coupling.survivors import Survivors
from prunegraph.graph import linear
from prunegraph.graph.model import Graph, Node
from prunegraph.operators import is_batch_normalization
from prunegraph.recovery.absorb import cut_inputs, known_means
from prunegraph.recovery.changes import changed, taken
from prunegraph.recovery.synthetic import samples
from prunegraph.rewriting.reweight import Revision
from prunegraph.runtime import patches
from prunegraph.runtime.data import Data
from prunegraph.runtime.statistics import ROWS, Statistics, batch_size
from prunegraph.runtime.stepper import Stepper
from prunegraph.runtime.store import Store

Array = np.ndarray
Progress = Callable[[str], None]

#: A layer's outputs are scaled by at most this factor, up or down.
MOST = 10.0

#: A running deviation keeps at least this share.
LEAST = 0.1


def repair(
    survivors: Survivors,
    pruned: Graph,
    data: Data | None,
    progress: Progress = lambda stage: None,
) -> Graph:
    """The pruned graph with new statistics in its BatchNormalization nodes, other layers matched to the original.

    Args:
        left: what the cut left of the original.
        small: the pruned graph; not touched.
        data: inputs from the training distribution, without labels; None goes by BatchNormalization.
        progress: called with the name of each node as it is set right.

    Raises:
        DataError: there are no data and no BatchNormalization nodes, or the data do not fit.
        ModelError: ONNX Runtime cannot run a piece of the model by itself.
    """
    return (
        _without_data(survivors, pruned)
        if data is None
        else _on_data(survivors, pruned, data, progress)
    )


@dataclass
class Moments:
    """Sums of x and its square by channel."""

    count: int = 0
    total: Array | float = 0.0
    squares: Array | float = 0.0

    def add(self, x: Array) -> None:
        """Take in rows [samples, channels]."""
        x = x.astype(np.float64)
        self.count += len(x)
        self.total = self.total + x.sum(axis=0)
        self.squares = self.squares + np.square(x).sum(axis=0)

    @property
    def mean(self) -> Array:
        return np.asarray(self.total) / max(self.count, 1)

    @property
    def variance(self) -> Array:
        return np.maximum(
            np.asarray(self.squares) / max(self.count, 1) - np.square(self.mean), 0
        )


@dataclass
class _Target:
    """Moments of the original's outputs of a layer without BatchNormalization, at the places of its rows.

    `rest` is a bias that is a constant matrix, which is added to the product as it is.
    """

    node: Node
    rows: patches.Rows
    kept: Sequence[Array | None]
    values: tuple[str, ...]
    rest: Array | float = 0.0
    moments: Moments = field(default_factory=Moments)

    def add(self, batch: int, *arrays: Array) -> None:
        y = taken(arrays[0], list(self.kept))
        self.moments.add(self.rows.outputs(y - self.rest, batch))


def _on_data(survivors: Survivors, pruned: Graph, data: Data, progress: Progress) -> Graph:
    original, different = survivors.coupling.graph, changed(survivors, pruned)
    data = data.fit(original)
    per_sample = max(ROWS // data.samples, 16)
    normals = [
        node
        for node in pruned.nodes
        if node.inputs and node.inputs[0] in different and _is_normal(pruned, node)
    ]
    targets = {
        node.index: _Target(
            node,
            patches.Rows(node, pruned.weights[node.inputs[1]].shape, per_sample),
            survivors.value(node.outputs[0]),
            (node.outputs[0],),
            _rest(pruned, node),
        )
        for node in pruned.layers
        if _is_matched(survivors, pruned, node, different)
    }
    if targets:
        Statistics(original, data, progress=progress).collect(
            list(targets.values()), "outputs of the original"
        )
    todo = sorted(
        [*normals, *(target.node for target in targets.values())],
        key=lambda node: node.index,
    )
    if not todo:
        return pruned
    size = batch_size(original, data, [node.inputs[0] for node in todo])
    with Store() as values:
        revision, stepper = (
            Revision(pruned),
            Stepper(pruned, data.batches(pruned, size), values),
        )
        for done, node in enumerate(todo):
            progress(f"moments: {done + 1} of {len(todo)}, {node.name}")
            stepper.advance(node.index, revision.weights, revision.protos)
            if node.index in targets:
                _match(targets[node.index], stepper, revision)
            else:
                _estimate(node, stepper, revision)
        return revision.apply(spent=True)


def _is_normal(pruned: Graph, node: Node) -> bool:
    """Tell whether a node is a BatchNormalization whose statistics are its own."""
    if (
        not is_batch_normalization(node)
        or node.subgraph is not None
        or node.attributes.get("training_mode", 0)
    ):
        return False
    return all(
        v in pruned.weights and len(pruned.consumers[v]) == 1 and v not in pruned.outputs
        for v in node.inputs[3:5]
    )


def _is_matched(
    survivors: Survivors, pruned: Graph, node: Node, different: set[str]
) -> bool:
    """Tell whether a layer sees a change and no BatchNormalization behind it takes care of that."""
    if not linear.is_linear(pruned, node) or node.inputs[0] not in different:
        return False
    # The original's values are those of its main graph: a branch that took the place of its If has none there.
    outer = survivors.coupling.graph.outer
    known = (
        survivors.coupling.value_labels(node.outputs[0]) is not None
        and node.outputs[0] in outer
    )
    fixed = linear.LinearLayer(pruned, node).rest in ("", *pruned.weights)
    return known and fixed and linear.batch_normalization(pruned, node) is None


def _rest(pruned: Graph, node: Node) -> Array | float:
    layer = linear.LinearLayer(pruned, node)
    return (
        pruned.weights[layer.rest].read().astype(np.float64) * layer.beta
        if layer.rest
        else 0.0
    )


def _estimate(node: Node, stepper: Stepper, revision: Revision) -> None:
    moments = Moments()
    for batch in range(stepper.batches):
        x = stepper.value(node.inputs[0], batch)
        moments.add(np.moveaxis(x, 1, -1).reshape(-1, x.shape[1]))
    revision.set(node.inputs[3], moments.mean)
    revision.set(node.inputs[4], moments.variance)


def _match(target: _Target, stepper: Stepper, revision: Revision) -> None:
    node, now = target.node, Moments()
    matrix = revision.matrix(node)
    for batch in range(stepper.batches):
        x = target.rows.inputs(stepper.value(node.inputs[0], batch), batch)
        now.add(np.einsum("ngi,gio->ngo", x, matrix).reshape(len(x), -1))
    ratio = np.sqrt(_ratio(target.moments.variance, now.variance, 1 / MOST**2, MOST**2))
    revision.set_matrix(node, matrix * ratio.reshape(len(matrix), 1, -1))
    if revision.can_intercept(node):
        # Means of the products alone: the intercept is made anew.
        revision.set_intercept(node, target.moments.mean - now.mean * ratio)


def _ratio(over: Array, under: Array, least: float, most: float) -> Array:
    """A quotient within limits; 1 where there is nothing to divide by."""
    return np.clip(
        np.divide(over, under, out=np.ones(len(under)), where=under > 0), least, most
    )


def _without_data(survivors: Survivors, pruned: Graph) -> Graph:
    drawn, means = (
        samples(survivors.coupling.graph, survivors.coupling.shape_info),
        known_means(survivors),
    )
    revision = Revision(pruned)
    for each in cut_inputs(survivors, pruned):
        if each.key not in means or not revision.can_intercept(each.node):
            continue
        lost = each.lost(means[each.key]).mean(axis=each.others)
        revision.set_intercept(each.node, revision.intercept(each.node) + lost)
        normal = linear.batch_normalization(pruned, each.node)
        if normal is not None and _is_normal(pruned, normal):
            before, now = each.deviations(
                drawn[each.value].std(axis=each.others, dtype=np.float64)
            )
            share = np.square(_ratio(now, before, LEAST, 1.0))
            revision.set(normal.inputs[4], revision.value(normal.inputs[4]) * share)
    return revision.apply(spent=True)

"""What removed channels gave on average, absorbed into the layers that read them.

A removed channel is seldom zero on average: one whose BatchNormalization has gamma = 0 is the constant
act(beta). What it gave to a layer's outputs, `sum over removed c of W[o, c] * x_c`, is added to the layer:

* `form=mean`: its mean over samples and positions goes into the bias. The best constant in least squares;
  with zero padding it is not exact at the border.
* `form=interior`: the same as if there were no padding, `b_o += sum over c of E[x_c] * sum over k of W[o, c, k]`.
  Exact for constant channels inside of a padded map, wrong on its border.
* `form=map`: its mean over samples alone, as a map that an Add behind the layer adds. Exact for constant
  channels; needs a fixed spatial size.

Means of the removed channels are those of the original on the data, or without data those that follow from
its BatchNormalization nodes (`recovery.synthetic`). Sources: ALGORITHMS F2; Nagel et al. 2019.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx

from prunegraph.coupling.survivors import Survivors
from prunegraph.errors import OptionError
from prunegraph.graph import linear
from prunegraph.graph.model import Graph, Node
from prunegraph.graph.sizes import symbolic_axes
from prunegraph.operators import is_convolution
from prunegraph.recovery.changes import channel_axis, original_of, taken
from prunegraph.recovery.synthetic import samples
from prunegraph.rewriting.reweight import Revision
from prunegraph.runtime.data import Data
from prunegraph.runtime.piece import run_piece
from prunegraph.runtime.statistics import Statistics

Array = np.ndarray
Progress = Callable[[str], None]
Form = Literal["mean", "interior", "map"]

#: A value that layers read, and whether they transpose it.
Key = tuple[str, bool]


def repair(
    survivors: Survivors,
    pruned: Graph,
    data: Data | None,
    progress: Progress = lambda stage: None,
    *,
    form: Form = "mean",
) -> Graph:
    """The pruned graph with the means of what it lost in its layers' biases.

    Args:
        left: what the cut left of the original.
        small: the pruned graph; not touched.
        data: inputs from the training distribution, without labels; None goes by BatchNormalization.
        progress: called with a line for every batch.
        form: "mean", "interior" or "map".

    Returns:
        A new graph. Convolutions and matrix products are looked at; one with no place for a bias, or whose
        input's means are not known, stays as it is.

    Raises:
        DataError: there are no data and no BatchNormalization nodes, or the data do not fit.
        OptionError: "map" for a model whose spatial size is not fixed.
    """
    original = survivors.coupling.graph
    if form == "map" and any(
        axis for axes in symbolic_axes(original).values() for axis in axes
    ):
        raise OptionError(
            f"repair 'absorb:form=map' needs inputs of fixed size; {original.source} has symbolic axes"
        )
    cuts = list(cut_inputs(survivors, pruned))
    means = (
        measured_means(original, cuts, data, progress)
        if data is not None
        else known_means(survivors)
    )
    revision = Revision(pruned)
    for each in cuts:
        if each.key not in means:
            continue
        lost = each.lost(means[each.key], interior=form == "interior")
        if form == "map":
            revision.add_behind(each.node, lost)
        elif revision.can_intercept(each.node):
            revision.set_intercept(
                each.node, revision.intercept(each.node) + lost.mean(axis=each.others)
            )
    return revision.apply()


@dataclass(frozen=True)
class CutInput:
    """A linear layer that has lost input channels.

    `node` is the pruned graph's, `before` the original's, `gone` the removed channels on `axis` of its input; of one
    that the layer transposes, as it is afterwards.
    """

    survivors: Survivors
    node: Node
    before: Node
    axis: int
    gone: Array

    @property
    def value(self) -> str:
        return self.before.inputs[0]

    @property
    def key(self) -> Key:
        return self.value, linear.LinearLayer(
            self.survivors.coupling.graph, self.before
        ).is_transposed

    @property
    def shape(self) -> tuple[int, ...]:
        """The input's."""
        value, is_transposed = self.key
        shape = self.survivors.coupling.shape_info.shapes[value]
        return shape[::-1] if is_transposed else shape

    @property
    def others(self) -> tuple[int, ...]:
        """Axes of inputs and outputs that are not channels."""
        rank = len(self.shape)
        return tuple(axis for axis in range(rank) if axis != self.axis)

    def matrix(self) -> Array:
        """The original's weights [groups, inputs, outputs]."""
        weight = (
            self.survivors.coupling.graph.weights[self.before.inputs[1]]
            .read()
            .astype(np.float64)
        )
        return (
            linear.to_matrix(self.before, weight)
            * linear.LinearLayer(self.survivors.coupling.graph, self.before).alpha
        )

    def lost(self, mean: Array, *, interior: bool = False) -> Array:
        """Say what the removed channels gave to the outputs that stay, from the mean of the input [1, ...]."""
        part = np.zeros_like(mean)
        index = [slice(None)] * mean.ndim
        index[self.axis] = self.gone  # type: ignore[call-overload]
        part[tuple(index)] = mean[tuple(index)]
        if not is_convolution(self.before):
            result = part @ self.matrix()[0]
        elif interior:
            constant = part.mean(axis=tuple(range(2, part.ndim)))
            result = self._by_rows(constant[0]).reshape(1, -1, *[1] * (part.ndim - 2))
        else:
            result = self._convolved(part)
        return taken(result, self.survivors.value(self.before.outputs[0]))

    def _convolved(self, x: Array) -> Array:
        """The convolution of an input, without its bias."""
        graph, proto = self.survivors.coupling.graph, onnx.NodeProto()
        proto.CopyFrom(self.before.proto)
        del proto.input[2:]
        given = {proto.input[0]: x.astype(graph.weights[proto.input[1]].dtype)}
        return run_piece(graph, [proto], given, proto.output)[proto.output[0]].astype(
            np.float64
        )

    def deviations(self, inputs: Array) -> tuple[Array, Array]:
        """Standard deviations of the outputs that stay, by all inputs and without those gone.

        From deviations of the inputs, taken as fully correlated with the signs of their weights: deviations add.
        """
        remaining = inputs.copy()
        remaining[self.gone] = 0
        kept = self.survivors.value(self.before.outputs[0])[self.axis]
        sums = [self._by_rows(part, np.abs(self.matrix())) for part in (inputs, remaining)]
        before, now = (one if kept is None else one[kept] for one in sums)
        return before, now

    def _by_rows(self, channels: Array, matrix: Array | None = None) -> Array:
        """Numbers of input channels through a matrix; all positions of a kernel see the same."""
        matrix = self.matrix() if matrix is None else matrix
        each = matrix.shape[0] * matrix.shape[1] // len(channels)
        rows = np.repeat(channels, each).reshape(matrix.shape[:2])
        return np.einsum("gi,gio->go", rows, matrix).reshape(-1)


def cut_inputs(survivors: Survivors, pruned: Graph) -> Iterator[CutInput]:
    """Linear layers that have lost input channels, in topological order."""
    original = survivors.coupling.graph
    for node in pruned.layers:
        before = original_of(survivors, node)
        if (
            before is None
            or not linear.is_linear(original, before)
            or not linear.is_linear(pruned, node)
        ):
            continue
        labels = survivors.coupling.value_labels(before.inputs[0])
        shape = survivors.coupling.shape_info.shapes.get(before.inputs[0])
        if (
            labels is None
            or shape is None
            or survivors.coupling.value_labels(before.outputs[0]) is None
        ):
            continue
        axis = channel_axis(before, shape)
        channels = labels[0 if linear.LinearLayer(original, before).is_transposed else axis]
        kept = survivors.kept(channels)
        if kept is not None:
            yield CutInput(
                survivors, node, before, axis, np.setdiff1d(np.arange(channels.size), kept)
            )


class _Mean:
    """Mean of a value over samples [1, ...]; over positions too where their number differs between batches."""

    def __init__(self, cut: CutInput):
        self.values: tuple[str, ...] = (cut.value,)
        self.axis, self.is_transposed = cut.axis, cut.key[1]
        self.count = 0
        self.mean: Array | None = None

    def add(self, batch: int, *arrays: Array) -> None:
        samples = arrays[0].T if self.is_transposed else arrays[0]
        x = samples.astype(np.float64).mean(axis=0, keepdims=True)
        if self.mean is None:
            self.mean = np.zeros_like(x)
        if x.shape != self.mean.shape:
            x, self.mean = (self._by_channel(a) for a in (x, self.mean))
        share = len(samples) / (self.count + len(samples))
        self.mean = self.mean + share * (x - self.mean)
        self.count += len(samples)

    def _by_channel(self, x: Array) -> Array:
        return x.mean(axis=tuple(i for i in range(x.ndim) if i != self.axis), keepdims=True)


def measured_means(
    original: Graph, cuts: list[CutInput], data: Data, progress: Progress
) -> dict[Key, Array]:
    """Means of the layers' inputs in the original, on data [1, ...]."""
    result = {each.key: _Mean(each) for each in cuts}
    if result:
        Statistics(original, data, progress=progress).collect(
            list(result.values()), "means"
        )
    shapes = {each.key: each.shape for each in cuts}
    return {
        key: _spread(one.mean, shapes[key])
        for key, one in result.items()
        if one.mean is not None
    }


def known_means(survivors: Survivors) -> dict[Key, Array]:
    """Means of values that follow from BatchNormalization nodes [1, ...]. Raises DataError without any."""
    shape_info = survivors.coupling.shape_info
    result = samples(survivors.coupling.graph, shape_info)
    return {
        (name, False): _spread(
            x.mean(axis=0, keepdims=True, dtype=np.float64), shape_info.shapes[name]
        )
        for name, x in result.items()
    }


def _spread(mean: Array, shape: tuple[int, ...]) -> Array:
    """A mean at all positions of a value."""
    full = tuple(
        max(a, b) if a == 1 else a for a, b in zip(mean.shape[1:], shape[1:], strict=True)
    )
    return np.broadcast_to(mean, (1, *full)).astype(np.float64)

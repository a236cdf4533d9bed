"""Least-squares reconstruction of every layer that lost input channels.

From shallow to deep, a layer's weights are refitted so that, from the inputs the pruned
network gives it, it makes the outputs the original made: with X the inputs and Y the
outputs (both centred), W = (X'X + ridge)^-1 X'Y. Only the Gram matrices are kept, so memory does
not grow with the number of samples. The intercept goes into the layer's bias, or into the
mean of the BatchNormalization behind it. Source: He et al. 2017; ALGORITHMS F4.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from prunegraph.coupling.survivors import Survivors
from prunegraph.graph.external import without_weights
from prunegraph.graph.model import Graph, Node
from prunegraph.rewriting.weights import tensor_like
from prunegraph.runtime.data import Batch
from prunegraph.runtime.session import run_batches

Array = np.ndarray

#: Added to the diagonal, relative to its mean: keeps the solution small where inputs hardly vary.
RIDGE = 1e-3

#: Positions of a feature map that are looked at, per sample.
POSITIONS = 64


@dataclass
class Moments:
    """Sums over samples of inputs x and outputs y, and of their products."""

    count: int
    x: Array
    y: Array
    xx: Array
    xy: Array

    @classmethod
    def zeros(cls, inputs: int, outputs: int) -> Moments:
        return cls(0, np.zeros(inputs), np.zeros(outputs), np.zeros((inputs, inputs)), np.zeros((inputs, outputs)))

    def add(self, x: Array, y: Array) -> None:
        """Take in samples: x [samples, inputs], y [samples, outputs]."""
        x, y = x.astype(np.float64), y.astype(np.float64)
        self.count += len(x)
        self.x += x.sum(axis=0)
        self.y += y.sum(axis=0)
        self.xx += x.T @ x
        self.xy += x.T @ y

    def solve(self, centred: bool) -> tuple[Array, Array]:
        """Weights [inputs, outputs] and intercept [outputs] with the least squared error."""
        n = max(self.count, 1)
        gram, target = self.xx / n, self.xy / n
        if centred:
            gram = gram - np.outer(self.x, self.x) / n**2
            target = target - np.outer(self.x, self.y) / n**2
        damped = gram + RIDGE * (np.trace(gram) / len(gram) or 1.0) * np.eye(len(gram))
        weights = np.linalg.solve(damped, target)
        intercept = (self.y - self.x @ weights) / n if centred else np.zeros(len(self.y))
        return weights, intercept


def repair(
    left: Survivors, small: Graph, batches: Sequence[Batch], progress: Callable[[str], None] = lambda stage: None
) -> Graph:
    """The pruned graph with the weights of its layers refitted.

    Args:
        left: what the cut left of the original.
        small: the pruned graph; not touched.
        batches: inputs from the training distribution, without labels.
        progress: called with the name of each layer as it is refitted.

    Returns:
        A new graph with the same nodes. Layers that kept all inputs, grouped convolutions,
        layers in bodies of If, Loop and Scan, and weights with several readers stay as they are.
    """
    original = left.coupling.graph
    layers = [node for node in small.layers if _is_refitted(left, small, node)]
    for done, node in enumerate(layers):
        progress(f"least squares, layer {done + 1} of {len(layers)}: {node.name}")
        small = _refit(left, original, small, small.node(node.name), batches)
    return small


def _is_refitted(left: Survivors, small: Graph, node: Node) -> bool:
    if (
        node.op not in ("Conv", "Gemm", "MatMul")
        or node.body is not None
        or node.attributes.get("group", 1) != 1
        or node.attributes.get("transA")
    ):
        return False
    weight = small.weights.get(node.inputs[1])
    known = left.coupling.graph.weights.get(node.inputs[1])
    if weight is None or known is None or not weight.is_float or len(small.consumers[weight.name]) != 1:
        return False
    rank_fits = len(weight.shape) >= 3 if node.op == "Conv" else len(weight.shape) == 2
    axis = 1 if node.op == "Conv" or node.attributes.get("transB") else 0
    same_names = left.coupling.value_labels(node.outputs[0]) is not None
    return rank_fits and same_names and weight.shape[axis] != known.shape[axis]


def _refit(left: Survivors, original: Graph, small: Graph, node: Node, batches: Sequence[Batch]) -> Graph:
    weight = small.weights[node.inputs[1]]
    normal = _normalisation(small, node)
    centred = node.op != "MatMul"
    moments: Moments | None = None
    targets = run_batches(original, batches, [node.outputs[0]])
    sources = run_batches(small, batches, [node.inputs[0]])
    for seed, ((y,), (x,)) in enumerate(zip(targets, sources, strict=True)):
        for axis, kept in enumerate(left.value(node.outputs[0])):
            if kept is not None:
                y = np.take(y, kept, axis)
        samples = _conv_samples(node, weight.shape, x, y, seed) if node.op == "Conv" else _rows(x, y)
        moments = moments or Moments.zeros(samples[0].shape[1], samples[1].shape[1])
        moments.add(*samples)
    assert moments is not None
    values, intercept = moments.solve(centred)
    if node.op == "Conv" or node.attributes.get("transB"):
        values = values.T
    new = {weight.name: values.reshape(weight.shape) / node.attributes.get("alpha", 1.0)}
    return _with_weights(small, node, new, intercept if centred else None, normal)


def _rows(x: Array, y: Array) -> tuple[Array, Array]:
    return x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1])


def _conv_samples(node: Node, shape: Sequence[int], x: Array, y: Array, seed: int) -> tuple[Array, Array]:
    """Input patches and output vectors at random positions, the same in every sample of the batch."""
    kernel, spatial = shape[2:], y.shape[2:]
    rank = len(kernel)
    strides = node.attributes.get("strides") or [1] * rank
    dilations = node.attributes.get("dilations") or [1] * rank
    pads = _pads(node, x.shape[2:], kernel, strides, dilations, spatial)
    x = np.pad(x, [(0, 0), (0, 0), *zip(pads[:rank], pads[rank:], strict=True)])
    total = int(np.prod(spatial))
    chosen = np.random.default_rng(seed).permutation(total)[:POSITIONS]
    places = np.unravel_index(chosen, spatial)
    index = [
        (place * stride)[:, None] + np.arange(size) * dilation
        for place, stride, size, dilation in zip(places, strides, kernel, dilations, strict=True)
    ]
    grid = [axis.reshape([len(chosen)] + [-1 if i == d else 1 for i in range(rank)]) for d, axis in enumerate(index)]
    patches = x[(slice(None), slice(None), *grid)]  # [n, c, positions, *kernel]
    patches = np.moveaxis(patches, 2, 1).reshape(len(x) * len(chosen), -1)
    outputs = y.reshape(*y.shape[:2], total)[:, :, chosen]
    return patches, np.moveaxis(outputs, 2, 1).reshape(-1, y.shape[1])


def _pads(
    node: Node, inputs: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int],
    outputs: Sequence[int],
) -> list[int]:  # fmt: skip
    """Padding before all axes, then after them; automatic padding follows from the sizes."""
    kind = node.attributes.get("auto_pad", b"NOTSET")
    if kind in (b"NOTSET", b"VALID"):
        return (
            list(node.attributes.get("pads") or [0] * (2 * len(kernel)))
            if kind == b"NOTSET"
            else [0] * (2 * len(kernel))
        )
    total = [
        max((o - 1) * s + (k - 1) * d + 1 - i, 0)
        for i, o, k, s, d in zip(inputs, outputs, kernel, strides, dilations, strict=True)
    ]
    less, more = [t // 2 for t in total], [t - t // 2 for t in total]
    return [*less, *more] if kind == b"SAME_UPPER" else [*more, *less]


def _normalisation(graph: Graph, node: Node) -> Node | None:
    """The BatchNormalization that is the only reader of a layer, if its mean is its own."""
    readers = graph.consumers.get(node.outputs[0], ())
    if len(readers) != 1 or node.outputs[0] in graph.outputs:
        return None
    reader = graph.nodes[readers[0][0]]
    if reader.op != "BatchNormalization" or reader.attributes.get("training_mode", 0):
        return None
    mean = reader.inputs[3]
    return reader if mean in graph.weights and len(graph.consumers[mean]) == 1 else None


def _with_weights(
    graph: Graph, node: Node, new: dict[str, Array], intercept: Array | None, normal: Node | None
) -> Graph:
    """A graph with other weights; an intercept goes to the mean behind, the bias, or a new bias."""
    model = without_weights(graph.model)
    bias = node.input(2)
    extra: list[onnx.TensorProto] = []
    if intercept is not None and normal is not None and not bias:
        mean = graph.weights[normal.inputs[3]]
        new[mean.name] = mean.read().astype(np.float64) - intercept
    elif intercept is not None:
        own = bias in graph.weights and len(graph.consumers[bias]) == 1 and graph.weights[bias].shape == intercept.shape
        if own:
            new[bias] = intercept / node.attributes.get("beta", 1.0)
        else:
            name = f"{node.name}/bias"
            dtype = graph.weights[node.inputs[1]].dtype
            extra.append(
                onnx.numpy_helper.from_array((intercept / node.attributes.get("beta", 1.0)).astype(dtype), name)
            )
            proto = next(p for p in model.graph.node if tuple(p.output) == node.outputs)
            del proto.input[2:]
            proto.input.append(name)
    for proto in model.graph.node:
        if proto.op_type == "Constant" and proto.output[0] in new:
            weight = graph.weights[proto.output[0]]
            tensor = tensor_like(weight, new[weight.name].astype(weight.dtype), weight.name)
            del proto.attribute[:]
            proto.attribute.append(onnx.helper.make_attribute("value", tensor))
    model.graph.initializer.extend(_initializers(graph, new))
    model.graph.initializer.extend(extra)
    return Graph(model, folder=graph.folder, source=graph.source)


def _initializers(graph: Graph, new: dict[str, Array]) -> Iterable[onnx.TensorProto]:
    for tensor in graph.model.graph.initializer:
        if tensor.name in new:
            weight = graph.weights[tensor.name]
            yield tensor_like(weight, new[tensor.name].astype(weight.dtype), tensor.name)
        else:
            yield tensor

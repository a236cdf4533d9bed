"""What layer-wise updates need to know: statistics of normalisations, moments of inputs and wanted outputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as nnf

from prunegraph.graph.model import Node
from prunegraph.operators import is_convolution
from prunegraph.training.binary.network import normals_below
from prunegraph.training.module import GraphModule
from prunegraph.training.operators.table import (
    Call,
    Operator,
    Tensor,
    Value,
    auto_pads,
    pair_pads,
)
from prunegraph.training.program import Block, execute

Array = np.ndarray
Batch = Mapping[str, Tensor]

#: A channel whose standard deviation is at most this share of its mean is constant: single precision has not much more.
CONSTANT = 1e-5


def estimate_statistics(
    module: GraphModule, batches: Sequence[Batch], after: str | None = None
) -> None:
    """Running means and variances of normalisations that binary weights have changed, as plain averages over data.

    Weights stay; everything but BatchNormalization runs as in eval mode.

    Args:
        module: of a binary graph.
        batches: inputs by name (others are left alone); large ones, since each is normalised by its own statistics
            while they are gathered.
        after: a layer; only normalisations after it are estimated, those before are right.
    """
    graph = module.graph
    chosen = {node.index: _Moments() for node in normals_below(graph)}
    if after is not None:
        place = graph.node(after).index
        chosen = {index: moments for index, moments in chosen.items() if index > place}
    if not chosen:
        return
    main = _until(
        module._program.main,
        {output for index in chosen for output in graph.nodes[index].outputs},
    )
    steps = tuple(
        replace(step, operator=Operator(_gathering(chosen[step.node.index])))
        if step.node.index in chosen
        else step
        for step in main.steps
    )
    with torch.no_grad():
        for batch in batches:
            inputs = {name: batch[name] for name in graph.inputs}
            known = {**dict(module._given((), inputs)), **module._fixed, **module.weights()}
            execute(replace(main, steps=steps), known, False)
        for index, moments in chosen.items():
            mean, variance = (
                module.weight(name) for name in graph.nodes[index].inputs[3:5]
            )
            centre, spread = moments.result()
            mean.copy_(centre)
            variance.copy_(spread)
    part_constant_channels(module)


def part_constant_channels(module: GraphModule) -> None:
    """Move means of channels that do not vary a little up, so that they are below them whatever is rounded.

    A quantizer that reads such a channel jumps at the mean itself: what a runtime rounds there would decide over the
    whole channel.
    """
    with torch.no_grad():
        for node in normals_below(module.graph):
            mean, variance = (module.weight(name) for name in node.inputs[3:5])
            margin = CONSTANT * mean.abs()
            mean += torch.where(variance <= margin**2, margin, 0.0)


def values(module: GraphModule, names: Collection[str], batch: Batch) -> dict[str, Value]:
    """Inner values by name, as `GraphModule.values`; nothing runs that they do not need."""
    result = {name: batch[name] for name in module.graph.inputs}
    result = {**dict(module._given((), result)), **module._fixed, **module.weights()}
    main = _until(module._program.main, set(names))
    execute(main, result, module.training)
    return {name: result[name] for name in names}


def _until(block: Block, names: set[str]) -> Block:
    """The steps up to the last that makes one of some values, which are not dropped."""
    last = max(
        (i for i, step in enumerate(block.steps) if names.intersection(step.outputs)),
        default=-1,
    )
    steps = (
        replace(step, last=tuple(v for v in step.last if v not in names))
        for step in block.steps[: last + 1]
    )
    return replace(block, steps=tuple(steps))


class _Moments:
    """Sums over all batches, by channel."""

    def __init__(self) -> None:
        self.count = 0
        self.first: Any = 0.0
        self.second: Any = 0.0

    def add(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The batch's mean and variance, which are also added to the sums."""
        axes = [axis for axis in range(x.dim()) if axis != 1]
        spread, mean = torch.var_mean(x.double(), axes, correction=0)
        count = x.numel() // x.shape[1]
        self.count += count
        self.first = self.first + mean * count
        self.second = self.second + (spread + mean**2) * count
        return mean.to(x.dtype), spread.to(x.dtype)

    def result(self) -> tuple[Tensor, Tensor]:
        mean = self.first / self.count
        return mean, (self.second / self.count - mean**2).clamp(min=0)


def _gathering(moments: _Moments) -> Callable[..., Tensor]:
    """BatchNormalization by the batch's statistics, which are kept."""

    def run(call: Call, x: Tensor, scale: Tensor, bias: Tensor, *_: Tensor) -> Tensor:
        mean, variance = moments.add(x)
        return nnf.batch_norm(
            x, mean, variance, scale, bias, False, 0.0, call.get("epsilon", 1e-5)
        )

    return run


@dataclass
class LayerMoments:
    """Sums over all places where a layer computes: of its inputs x [D] and of K outputs y [K, filters].

    `gram` is the sum of xx', `cross` [K, D, filters] of xy, `energy` [K, K, filters] of products of outputs; `means`
    give what is taken off when they are centred.
    """

    count: int
    inputs: Array
    outputs: Array
    gram: Array
    cross: Array
    energy: Array

    @classmethod
    def empty(cls, size: int, filters: int, targets: int) -> LayerMoments:
        shapes = (
            (size,),
            (targets, filters),
            (size, size),
            (targets, size, filters),
            (targets, targets, filters),
        )
        return cls(0, *(np.zeros(shape) for shape in shapes))

    def add(self, x: Tensor, outputs: Sequence[Tensor]) -> None:
        """Take in places: x [places, D], each output [places, filters]."""
        y = torch.stack(list(outputs))
        self.count += len(x)
        self.inputs += _array(x.sum(0))
        self.outputs += _array(y.sum(1))
        self.gram += _array(x.T @ x)
        self.cross += _array(x.T @ y)
        self.energy += _array(torch.einsum("apf,bpf->abf", y, y))

    def centred(self) -> LayerMoments:
        """The same for inputs and outputs without their means, which the next normalisation sees to."""
        x, y = self.inputs / self.count, self.outputs / self.count
        return LayerMoments(
            self.count,
            np.zeros_like(x),
            np.zeros_like(y),
            self.gram - np.outer(x, x) * self.count,
            self.cross - x[None, :, None] * y[:, None, :] * self.count,
            self.energy - y[:, None] * y[None] * self.count,
        )

    def target(self, weights: Sequence[float]) -> tuple[Array, Array]:
        """Products with inputs [D, filters], and energy [filters], of a weighted sum of the outputs."""
        w = np.asarray(weights)
        return np.einsum("k,kdf->df", w, self.cross), np.einsum(
            "a,b,abf->f", w, w, self.energy
        )


def _array(values: Tensor) -> Array:
    return values.detach().double().cpu().numpy()


#: Elements of a matrix of patches made at a time.
PATCHES = 2**23


def places(
    node: Node, kernel: Sequence[int], x: Tensor, outputs: Sequence[Tensor]
) -> Iterator[tuple[Tensor, list[Tensor]]]:
    """A layer's input as rows [places, D] and its outputs as [places, filters], a part at a time.

    `kernel` are the extents of a convolution's weight. D runs as in the weight: channels, then the kernel.
    """
    if not is_convolution(node):
        yield x.reshape(-1, x.shape[-1]), [y.reshape(-1, y.shape[-1]) for y in outputs]
        return
    each = x.shape[1] * math.prod(kernel) * math.prod(outputs[0].shape[2:])
    step = max(1, PATCHES // max(each, 1))
    for start in range(0, len(x), step):
        rows = _patches(Call(node), kernel, x[start : start + step])
        yield (
            rows,
            [
                y[start : start + step].movedim(1, -1).reshape(-1, y.shape[1])
                for y in outputs
            ],
        )


def _patches(call: Call, kernel: Sequence[int], x: Tensor) -> Tensor:
    rank = len(kernel)
    strides, dilations = call.get("strides", [1] * rank), call.get("dilations", [1] * rank)
    x = nnf.pad(x, pair_pads(auto_pads(call, x.shape[2:], kernel, strides, dilations)))
    for axis, (width, stride, dilation) in enumerate(
        zip(kernel, strides, dilations, strict=True), start=2
    ):
        # Windows over a span, every dilation-th element of it: a new last axis of the kernel's size.
        x = x.unfold(axis, (width - 1) * dilation + 1, stride)[..., ::dilation]
    order = [0, *range(2, 2 + rank), 1, *range(2 + rank, 2 + 2 * rank)]
    return x.permute(order).reshape(-1, x.shape[1] * math.prod(kernel))

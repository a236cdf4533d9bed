"""What an error of a layer's outputs does at the outputs of the network: curvature, from gradients.

A small error v at a layer's outputs moves the network's by J v, squared v' J'J v. Rows of J are as many as there are
outputs: gradients of random projections of the outputs have the same second moments, E[g g'] = J'J. Where the
outputs are scores of words or probabilities, the projection is that whose second moments are the curvature of the
divergence: the gradient of the log-probability of a word that is drawn from them. This is the second factor of K-FAC's
blocks; the first is the Gram matrix of the layer's inputs. Where samples are told apart, the same gradients say what
channels add to the outputs together: `Curvature.contributions`. Sources: Martens & Grosse 2015, sections 2 and 3;
Hutchinson 1989.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property

import numpy as np
import torch

from prunegraph.errors import ModelError
from prunegraph.graph.linear import is_linear
from prunegraph.graph.model import Graph, Node
from prunegraph.graph.shapes import shape_info
from prunegraph.measuring.seen import are_probabilities
from prunegraph.operators import info
from prunegraph.ops.cost import cost
from prunegraph.runtime.data import Data
from prunegraph.runtime.memory import release
from prunegraph.runtime.row_mask import RowMask, counted, find_mask
from prunegraph.runtime.statistics import batch_size
from prunegraph.runtime.triangles import Triangles
from prunegraph.training.module import GraphModule
from prunegraph.training.operators.table import Tensor, to_torch
from prunegraph.tuning.judging import judged_by

Array = np.ndarray

#: Samples whose gradients are looked at, at most and at least, and multiply-accumulates that forward passes may take.
SAMPLES, FEW, WORK = 256, 8, 2e11

#: Layers with more outputs than this are left out.
MAX_OUTPUTS = 4096

#: Probabilities below this count as if they were that.
RAREST = 1e-3

#: Bytes of values that are kept for a backward pass.
KEEP = 2**28


class Curvature:
    """What errors of a graph's layers do at its outputs, computed for the first who asks.

    Metrics are sums over a layer's positions, so that they compare between layers: squared errors at the network's
    outputs, relative to their variation. Of a graph that PyTorch cannot run nothing is known.

    Args:
        graph: the model.
        data: unlabelled inputs; the first ones are looked at.
        progress: called with a line for every batch.
    """

    def __init__(
        self, graph: Graph, data: Data, progress: Callable[[str], None] = lambda stage: None
    ):
        self.graph, self.data, self.progress = graph, data.fit(graph), progress
        self._triangles = Triangles()

    @property
    def is_known(self) -> bool:
        """Whether it is known of any layer."""
        return bool(self._known)

    def of(self, node: Node) -> Array | None:
        """Second moments of the gradients at a linear layer's outputs [outputs, outputs], float64.

        None of a layer that is not linear, too wide, or not differentiated through.

        Raises:
            DataError: the data do not fit the model.
        """
        size = self._known.get(node.name)
        return None if size is None else self._triangles.get(node.name, 0, size, np.float64)

    def contributions(self, node: Node) -> Array | None:
        """What each input channel of a linear layer adds to the outputs through it [samples, channels], float64.

        To first order: its values times the gradient that comes to them through this layer, summed over positions. So
        that of channels in `T` the network's outputs lose, squared and relative to their variation, about the mean
        over samples of `(sum over T)^2`.

        None of a layer that is not linear, too wide, or not differentiated through, and where samples are not the
        first axis of its input.

        Raises:
            DataError: the data do not fit the model.
        """
        return self._contributed.get(node.name)

    @cached_property
    def _known(self) -> dict[str, int]:
        """How many outputs the layers have whose metrics are known; these are kept elsewhere."""
        total: dict[str, Tensor] = {}
        for products in self._each("curvature", _Run.products):
            while products:
                name, product = products.popitem()
                if name in total:
                    total[name] += product
                else:
                    total[name] = product
        known = _finite({name: each.numpy() for name, each in total.items()})
        for name, metric in known.items():
            self._triangles.put(name, 0, metric)
        return {name: len(metric) for name, metric in known.items()}

    @cached_property
    def _contributed(self) -> dict[str, Array]:
        parts: dict[str, list[Array]] = {}
        for contributed in self._each(
            "what channels add to the outputs", _Run.contributions
        ):
            for name, part in contributed.items():
                parts.setdefault(name, []).append(part.double().numpy())
        return _finite({name: np.concatenate(part) for name, part in parts.items()})

    def _each(
        self, what: str, of: Callable[[_Run, Mapping[str, Array]], dict[str, Tensor]]
    ) -> Iterator[dict[str, Tensor]]:
        """What a run finds of each batch; nothing of a graph that PyTorch cannot run."""
        graph, data = self.graph, self.data
        layers = [node for node in graph.layers if _is_looked_at(graph, node)]
        try:
            run = _Run(graph, layers, find_mask(graph, data.mask_input))
            count = int(np.clip(WORK / max(cost(graph).macs, 1), FEW, SAMPLES))
            size = min(batch_size(graph, data, run.values, KEEP), count)
            chosen = data.head(max(count, size))
            for index, batch in enumerate(chosen.batches(graph, size)):
                self.progress(f"{what}: batch {index + 1} of {-(-chosen.samples // size)}")
                yield of(run, batch)
            del run
            release()
        except (ModelError, RuntimeError) as error:
            self.progress(f"{what} is not measured: {str(error).splitlines()[0]}")


class _Run:
    """Runs a graph forwards and backwards.

    Args:
        graph: the model.
        layers: whose outputs' gradients are wanted.
        mask: which positions of the outputs count.
    """

    def __init__(self, graph: Graph, layers: Sequence[Node], mask: RowMask | None):
        self.graph, self.layers, self.mask = graph, layers, mask
        shapes = shape_info(graph).shapes
        self.values = [v for node in graph.nodes for v in node.outputs if v in shapes]
        self.is_words = judged_by(graph, shapes).last is not None
        self.module = GraphModule(graph)
        self.module.eval()
        self.random = torch.Generator().manual_seed(0)
        #: How much outputs vary, by name, as the first batch says: the last one may have a single sample.
        self.spread: dict[str, Tensor] = {}

    def products(self, batch: Mapping[str, Array]) -> dict[str, Tensor]:
        """Products of the gradients at layers' outputs, summed over samples and positions, by layer name."""
        with torch.enable_grad():
            values = self._values(batch)
            slopes = self._slopes(values, batch)
        return {node.name: _products(node, slope) for node, slope in slopes}

    def contributions(self, batch: Mapping[str, Array]) -> dict[str, Tensor]:
        """Inputs of layers times the gradient through each layer [samples, channels], by layer name."""
        count = min((len(array) for array in batch.values() if array.ndim), default=0)
        result = {}
        with torch.enable_grad():
            values = self._values(batch)
            for node, slope in self._slopes(values, batch, keep=True):
                read = values.get(node.inputs[0])
                if read is None or not _has_gradient(read):
                    continue
                (through,) = torch.autograd.grad(
                    values[node.outputs[0]], [read], slope, retain_graph=True
                )
                part = _by_sample(node, (read * through).detach(), count)
                if part is not None:
                    result[node.name] = part
        return result

    def _values(self, batch: Mapping[str, Array]) -> dict[str, Tensor]:
        """Inputs and outputs of the layers, and the graph's outputs, as far as they are computed."""
        wanted = [v for node in self.layers for v in (node.inputs[0], node.outputs[0])]
        # Inputs and weights may be outputs as well: nothing that a layer makes reaches them.
        computed = [v for v in (*wanted, *self.graph.outputs) if v in self.graph.producer]
        try:
            feed = {name: to_torch(array) for name, array in batch.items()}
        except TypeError as error:
            raise ModelError(f"PyTorch does not take an input: {error}") from error
        return self.module.values(list(dict.fromkeys(computed)), feed)

    def _slopes(
        self,
        values: Mapping[str, Tensor],
        batch: Mapping[str, Array],
        *,
        keep: bool = False,
    ) -> list[tuple[Node, Tensor]]:
        """Gradients of a random projection of the outputs at layers' outputs; `keep` what a second pass needs."""
        reached = [n for n in self.layers if _has_gradient(values[n.outputs[0]])]
        projection = self._projection(values, batch)
        if projection is None or not reached:
            return []
        outputs = [values[node.outputs[0]] for node in reached]
        slopes = torch.autograd.grad(
            projection, outputs, allow_unused=True, retain_graph=keep
        )
        return [
            (node, slope)
            for node, slope in zip(reached, slopes, strict=True)
            if slope is not None
        ]

    def _projection(
        self, values: Mapping[str, Tensor], batch: Mapping[str, Array]
    ) -> Tensor | None:
        """A random projection of the outputs, a number; None of outputs without gradients."""
        parts = []
        for name in self.graph.outputs:
            output = values.get(name)
            if output is None or not _has_gradient(output):
                continue
            weights = self._weights(name, output.detach())
            of = self.mask.of(name) if self.mask is not None else ""
            counts = counted(batch[of], output.detach().numpy()) if of else None
            if counts is not None:
                rest = [1] * (weights.dim() - counts.ndim)
                weights = weights * torch.from_numpy(counts).reshape(*counts.shape, *rest)
            parts.append((output * weights).sum())
        return torch.stack(parts).sum() if parts else None

    def _weights(self, name: str, output: Tensor) -> Tensor:
        """What an output's values are added up with.

        Normal numbers, relative to the output's spread; to that of each probability where it holds these.
        """
        if self.is_words:
            return _of_words(output, self.random)
        result = torch.randn(output.shape, generator=self.random)
        if output.dim() > 1 and are_probabilities(output.numpy()):
            return result / output.clamp(min=RAREST).sqrt()
        if name not in self.spread:
            self.spread[name] = _spread(output)
        return result / self.spread[name]


def _has_gradient(value: object) -> bool:
    return (
        isinstance(value, torch.Tensor)
        and value.requires_grad
        and value.is_floating_point()
    )


def _is_looked_at(graph: Graph, node: Node) -> bool:
    """Tell whether a layer is linear, of a size that can be looked at, outside of subgraphs."""
    if not is_linear(graph, node) or node.outputs[0] not in graph.producer:
        return False
    shape = shape_info(graph).shapes.get(node.outputs[0], ())
    axis = info(node).channel_axis
    return bool(shape) and axis is not None and shape[int(axis)] <= MAX_OUTPUTS


def _products(node: Node, slope: Tensor) -> Tensor:
    """Products of the gradients at a layer's outputs, summed over positions [outputs, outputs]."""
    moved = slope.movedim(int(info(node).channel_axis or 0), -1)
    rows = moved.reshape(-1, moved.shape[-1]).float()
    return rows.T @ rows


def _by_sample(node: Node, product: Tensor, count: int) -> Tensor | None:
    """A product of values, summed over the positions of each of `count` samples [samples, channels]."""
    # A Gemm may have its input transposed: samples lie along its other axis.
    axis = 0 if node.attributes.get("transA") else int(info(node).channel_axis or 0)
    moved = product.movedim(axis, -1)
    if not count or not moved.numel() or len(moved) % count:
        return None
    return moved.reshape(count, -1, moved.shape[-1]).sum(dim=1)


def _finite(known: Mapping[str, Array]) -> dict[str, Array]:
    """What is known of layers, without those of which nothing is."""
    return {name: m for name, m in known.items() if np.isfinite(m).all() and m.any()}


def _of_words(scores: Tensor, random: torch.Generator) -> Tensor:
    """The gradient by scores [..., words] of the log-probability of words that are drawn from them."""
    chances = torch.softmax(scores, dim=-1)
    flat = chances.reshape(-1, chances.shape[-1])
    drawn = torch.multinomial(flat, 1, generator=random)
    return -(flat.scatter_add(1, drawn, -torch.ones_like(flat[:, :1]))).reshape(
        chances.shape
    )


def _spread(output: Tensor) -> Tensor:
    """Root of the sum of the variances over samples, a number; 1 of a single sample."""
    varies = output.float().var(dim=0).sum() if len(output) > 1 else torch.ones(())
    return varies.clamp(min=torch.finfo(torch.float32).tiny).sqrt()

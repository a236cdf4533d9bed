"""Gradients of a task's loss, for criteria that need them (`taylor`, `fisher`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TypeVar

import numpy as np
import torch

from prunegraph.errors import DataError, TrainingError, UnknownNameError
from prunegraph.graph.model import Graph
from prunegraph.runtime.data import Data
from prunegraph.training.losses import Loss, inner_of, outputs_with
from prunegraph.training.module import GraphModule
from prunegraph.training.operators.table import Tensor, to_torch
from prunegraph.training.roles import statistics

Array = np.ndarray

T = TypeVar("T")

#: Products by weight: one array an axis, [runs, size of the axis].
Products = dict[str, list[Array]]


class TaskGradients:
    """The `Gradients` of a loss over data, for `select(gradients=...)`.

    The data are read in a stream: once for what is asked of batches, once more for what is asked of samples.
    Only sums over slices are kept. BatchNormalization uses its running statistics.

    Args:
        module: a `GraphModule`, or a PyTorch module whose parameters and buffers have the names and shapes of the
            graph's weights, and takes its inputs in the graph's order.
        data: inputs by name, and `labels` where the loss wants them.
        loss: `(outputs, batch) -> mean loss of the batch`; see `prunegraph.training.losses`.
        graph: the graph whose weights are asked for; that of the module by default.
        batch: samples in a batch.

    Raises:
        DataError: the data do not fit the graph, or there is no graph.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        data: Data | Sequence[Mapping[str, Array]] | Mapping[str, Array],
        loss: Loss,
        *,
        graph: Graph | None = None,
        batch: int = 32,
    ):
        if graph is None and not isinstance(module, GraphModule):
            raise DataError(
                "gradients of a PyTorch module need the graph whose weights they are for: give `graph=`"
            )
        self.module, self.loss, self.size = module, loss, batch
        self.graph = graph if graph is not None else module.graph
        self.data = Data.of(data).fit(self.graph)

    def batches(self, weight: str, axis: int) -> Array:
        """Products with the gradient of every batch's mean loss [batches, size of the axis]."""
        return self._product(self._by_batch, weight)[axis]

    def samples(self, weight: str, axis: int) -> Array:
        """Products with the gradient of every sample's loss [samples, size of the axis]."""
        return self._product(self._by_sample[0], weight)[axis]

    def squares(self, weight: str, axis: int) -> Array:
        """Sum over a slice's elements of w^2 * mean over samples of (dL/dw)^2 [size of the axis]."""
        squares = self._product(self._by_sample[1], weight)
        return squares.sum(
            axis=tuple(a for a in range(squares.ndim) if a != axis % squares.ndim)
        )

    # -- passes over the data -------------------------------------------------------

    @cached_property
    def _parts(self) -> dict[str, list[Tensor]]:
        """Tensors of the module by the graph's names; running statistics have no gradients."""
        able = [
            w.name
            for w in self.graph.weights.values()
            if w.is_float and w.name not in statistics(self.graph)
        ]
        if isinstance(self.module, GraphModule):
            own = self.module.weights()
            return {name: self.module.parts(name) for name in able if name in own}
        held = {**dict(self.module.named_parameters()), **dict(self.module.named_buffers())}
        result = {name: [held[name]] for name in able if name in held}
        for name, (tensor,) in result.items():
            if tuple(tensor.shape) != self.graph.weights[name].shape:
                raise DataError(
                    f"weight {name!r} has shape {list(self.graph.weights[name].shape)} in the graph, and "
                    f"{list(tensor.shape)} in the module"
                )
        return result

    @cached_property
    def _by_batch(self) -> Products:
        result: dict[str, list[list[Array]]] = {}
        for products in self._runs(self.size):
            for name, product in products.items():
                _append(result.setdefault(name, [[] for _ in product.shape]), product)
        return _stacked(result)

    @cached_property
    def _by_sample(self) -> tuple[Products, dict[str, Array]]:
        """Products of every sample, and the mean squares of their elements."""
        fixed = self.data.fixed(self.graph)
        if fixed > 1:
            raise DataError(
                f"{self.graph.source} has a fixed batch of {fixed}: gradients of single samples "
                "cannot be had; export it with a free batch axis, or use 'taylor'"
            )
        result: dict[str, list[list[Array]]] = {}
        squares: dict[str, Tensor] = {}
        count = 0
        for products in self._runs(1):
            count += 1
            for name, product in products.items():
                _append(result.setdefault(name, [[] for _ in product.shape]), product)
                squares[name] = (
                    squares[name] + product.square()
                    if name in squares
                    else product.square()
                )
        return _stacked(result), {
            name: (total / count).cpu().numpy() for name, total in squares.items()
        }

    def _runs(self, size: int) -> Iterator[dict[str, Tensor]]:
        """Elementwise w * dL/dw of every batch, in double precision."""
        tensors = [part for parts in self._parts.values() for part in parts]
        device = tensors[0].device if tensors else torch.device("cpu")
        for arrays in self.data.batches(self.graph, size, labels=True):
            batch = {name: to_torch(array).to(device) for name, array in arrays.items()}
            with _differentiable(self.module, tensors):
                outputs = outputs_with(
                    self.module,
                    {name: batch[name] for name in self.graph.inputs},
                    inner_of(self.loss),
                )
                loss = self.loss(outputs, batch)
                if not bool(torch.isfinite(loss)):
                    raise TrainingError(
                        f"the loss of a batch is {loss.item()}: gradients of it say nothing"
                    )
                slopes = iter(torch.autograd.grad(loss, tensors, allow_unused=True))
            yield {
                name: sum(
                    torch.zeros_like(part, dtype=torch.float64)
                    if slope is None
                    else part.detach().double() * slope
                    for part, slope in zip(parts, slopes, strict=False)
                )
                for name, parts in self._parts.items()
            }

    def _product(self, products: Mapping[str, T], weight: str) -> T:
        if weight not in products:
            raise UnknownNameError("weight with gradients", weight, products)
        return products[weight]


def _append(rows: list[list[Array]], product: Tensor) -> None:
    """Sums of a tensor over all axes but one, added to the rows of that axis."""
    for axis, row in enumerate(rows):
        others = [a for a in range(product.dim()) if a != axis]
        row.append((product.sum(others) if others else product).cpu().numpy())


def _stacked(result: dict[str, list[list[Array]]]) -> Products:
    return {name: [np.stack(rows) for rows in axes] for name, axes in result.items()}


@contextmanager
def _differentiable(module: torch.nn.Module, tensors: Sequence[Tensor]) -> Iterator[None]:
    """The module in eval mode, with gradients by these tensors, parameters or not; as it was afterwards."""
    modes = [(part, part.training) for part in module.modules()]
    wanted: list[tuple[Callable[[bool], object], bool]] = [
        (t.requires_grad_, t.requires_grad) for t in tensors
    ]
    module.eval()
    try:
        for tensor in tensors:
            tensor.requires_grad_(True)
        with torch.enable_grad():
            yield
    finally:
        for part, mode in modes:
            part.training = mode
        for restore, flag in wanted:
            restore(flag)

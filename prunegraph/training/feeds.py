"""More samples than a graph takes at a time: taken apart into feeds of its own sizes, and outputs joined again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from prunegraph.errors import DataError
from prunegraph.graph.model import Graph
from prunegraph.training.operators.table import Value


@dataclass(frozen=True)
class InputSizes:
    """Sizes of a graph's inputs, 0 where they are free; inputs without a declared shape are left out."""

    sizes: Mapping[str, tuple[int, ...]]
    source: str

    @classmethod
    def of(cls, graph: Graph) -> InputSizes:
        entries = (entry for entry in graph.model.graph.input if entry.name in graph.inputs)
        tensors = {entry.name: entry.type.tensor_type for entry in entries}
        shapes = {
            name: tensor.shape.dim
            for name, tensor in tensors.items()
            if tensor.HasField("shape")
        }
        return cls(
            {name: tuple(d.dim_value for d in dims) for name, dims in shapes.items()},
            graph.source,
        )

    def apart(self, inputs: Mapping[str, Value]) -> SizedFeeds | None:
        """The feeds of inputs that hold more than one; None where they are one feed. Raises DataError."""
        fixed = {name: sizes[0] for name, sizes in self.sizes.items() if sizes and sizes[0]}
        tensors = {
            name: value for name, value in inputs.items() if isinstance(value, torch.Tensor)
        }
        if not fixed or tensors.keys() != self.sizes.keys():
            return None
        if all(tensors[name].dim() == len(sizes) + 1 for name, sizes in self.sizes.items()):
            count = {len(tensor) for tensor in tensors.values()}
            if len(count) != 1:
                raise DataError(
                    f"{self.source}: inputs hold different numbers of feeds: {sorted(count)}"
                )
            return SizedFeeds(
                [{n: t[i] for n, t in tensors.items()} for i in range(count.pop())], 0
            )
        return self._by_rows(tensors, max(fixed.values()))

    def _by_rows(self, tensors: Mapping[str, Value], size: int) -> SizedFeeds | None:
        batched = [name for name, sizes in self.sizes.items() if sizes and sizes[0] == size]
        count = {len(tensors[name]) for name in batched if tensors[name].dim()}
        if count in ({size}, set()) or len(count) != 1:
            return None
        (rows,) = count
        if rows % size:
            raise DataError(
                f"{self.source}: its batch is fixed at {size}, which {rows} samples do not fill"
            )
        starts = range(0, rows, size)
        return SizedFeeds(
            [
                {n: t[i : i + size] if n in batched else t for n, t in tensors.items()}
                for i in starts
            ],
            size,
        )


@dataclass(frozen=True)
class SizedFeeds:
    """Feeds of a graph's own sizes; `size` is their batch, 0 where they have no batch axis."""

    inputs: Sequence[Mapping[str, Value]]
    size: int

    def joined(self, outputs: Sequence[Sequence[Value]]) -> tuple[Value, ...]:
        """Outputs of all feeds: along the batch axis, or along a new one where a feed's have none."""
        return tuple(self._join(parts) for parts in zip(*outputs, strict=True))

    def _join(self, parts: Sequence[Value]) -> Value:
        if not all(isinstance(part, torch.Tensor) for part in parts):
            return [item for part in parts for item in part]
        if (
            self.size
            and parts[0].dim()
            and all(len(part) % self.size == 0 for part in parts)
        ):
            return torch.cat(list(parts))
        if any(part.shape != parts[0].shape for part in parts):
            raise DataError(
                f"outputs of samples have different shapes, {[list(part.shape) for part in parts[:3]]}"
            )
        return torch.stack(list(parts))

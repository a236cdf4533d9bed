"""What a layer multiplies with its weights: rows of its input [samples, groups, inputs].

The weights as the matrix for them are in `graph.linear`.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from prunegraph.graph.linear import groups, output_axis
from prunegraph.graph.model import Node
from prunegraph.operators import is_convolution

Array = np.ndarray


class Rows:
    """Rows of a layer's input, at random places that are the same for all layers that read the same rows.

    Args:
        node: a layer for which `is_linear` holds.
        shape: of its weight.
        per_sample: rows that are taken of each sample.
    """

    def __init__(self, node: Node, shape: Sequence[int], per_sample: int):
        self.node, self.shape, self.per_sample = node, tuple(shape), per_sample
        self.seed = zlib.crc32(node.inputs[0].encode())

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for layers of a graph that read the same rows."""
        if not is_convolution(self.node):
            return self.node.inputs[0], bool(self.node.attributes.get("transA"))
        said = {
            name: self.node.attributes.get(name) for name in ("auto_pad", "pads", "group")
        }
        return (
            self.node.inputs[0],
            self.shape[2:],
            *self._list("strides"),
            *self._list("dilations"),
            repr(said),
        )

    @property
    def is_masked(self) -> bool:
        """Tell whether rows lie along the first axes of the input, so that a mask of these can say which count."""
        return not is_convolution(self.node) and not self.node.attributes.get("transA")

    def inputs(self, x: Array, batch: int, counts: Array | None = None) -> Array:
        """Rows [samples, groups, inputs] of an input value.

        Args:
            x: the value.
            batch: the number of the batch.
            counts: where the value counts, along its first axes; None everywhere (see `is_masked`).
        """
        if not is_convolution(self.node):
            x = x.T if self.node.attributes.get("transA") else x
            rows = x.reshape(-1, x.shape[-1])
            return rows[self._chosen(len(rows), len(x), batch, counts)][:, None]
        rank = len(self.shape) - 2
        kernel, stride, dilation = (
            self.shape[2:],
            self._list("strides"),
            self._list("dilations"),
        )
        pads = self.pads(x.shape[2:])
        padded = np.pad(x, [(0, 0), (0, 0), *zip(pads[:rank], pads[rank:], strict=True)])
        spatial = [
            (size - (k - 1) * d - 1) // s + 1
            for size, k, s, d in zip(
                padded.shape[2:], kernel, stride, dilation, strict=True
            )
        ]
        if all(k == 1 for k in kernel):
            strided = padded[
                (
                    slice(None),
                    slice(None),
                    *(slice(None, n * s, s) for n, s in zip(spatial, stride, strict=True)),
                )
            ]
            rows = strided.reshape(*strided.shape[:2], -1)[
                :, :, self._places(spatial, batch)
            ]
            return np.moveaxis(rows, 2, 1).reshape(
                -1, groups(self.node), rows.shape[1] // groups(self.node)
            )
        places = np.unravel_index(self._places(spatial, batch), spatial)
        axes = [
            (place * s)[:, None] + np.arange(k) * d
            for place, s, k, d in zip(places, stride, kernel, dilation, strict=True)
        ]
        grid = [
            a.reshape([len(a), *(-1 if i == d else 1 for i in range(rank))])
            for d, a in enumerate(axes)
        ]
        index: tuple[Any, ...] = (slice(None), slice(None), *grid)
        values = np.moveaxis(padded[index], 2, 1)  # [samples, places, channels, *kernel]
        return values.reshape(values.shape[0] * values.shape[1], groups(self.node), -1)

    def outputs(self, y: Array, batch: int, counts: Array | None = None) -> Array:
        """Rows [samples, outputs] of an output value, at the places of `inputs`."""
        if not is_convolution(self.node):
            rows = y.reshape(-1, y.shape[-1])
            return rows[self._chosen(len(rows), len(y), batch, counts)]
        chosen = self._places(y.shape[2:], batch)
        result = y.reshape(*y.shape[:2], -1)[:, :, chosen]
        return np.moveaxis(result, 2, 1).reshape(-1, y.shape[1])

    def added(self, c: Array, x: Array, batch: int, counts: Array | None = None) -> Array:
        """Rows [samples, outputs] of a bias that is no constant vector, at the places of `inputs` of an input `x`."""
        if is_convolution(self.node):
            return c.reshape(1, -1)
        rows = x.shape[1 if self.node.attributes.get("transA") else 0]
        outputs = self.shape[output_axis(self.node)]
        return self.outputs(np.broadcast_to(c, (rows, outputs)), batch, counts)

    def pads(self, sizes: Sequence[int]) -> list[int]:
        """Padding before all spatial axes, then after them; automatic padding follows from the sizes."""
        rank, kind = len(self.shape) - 2, self.node.attributes.get("auto_pad", b"NOTSET")
        if kind == b"NOTSET":
            return list(self.node.attributes.get("pads") or [0] * (2 * rank))
        if kind == b"VALID":
            return [0] * (2 * rank)
        total = [
            max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
            for size, s, k, d in zip(
                sizes,
                self._list("strides"),
                self.shape[2:],
                self._list("dilations"),
                strict=True,
            )
        ]
        less, more = [t // 2 for t in total], [t - t // 2 for t in total]
        return [*less, *more] if kind == b"SAME_UPPER" else [*more, *less]

    def _list(self, name: str) -> list[int]:
        return list(self.node.attributes.get(name) or [1] * (len(self.shape) - 2))

    def _places(self, spatial: Sequence[int], batch: int) -> Array:
        total = math.prod(spatial)
        return np.random.default_rng([self.seed, batch]).permutation(total)[
            : self.per_sample
        ]

    def _chosen(
        self, rows: int, samples: int, batch: int, counts: Array | None = None
    ) -> Array:
        """Rows of a linear layer that count: all of them, or a random part."""
        chosen = np.arange(rows)
        if counts is not None:
            chosen = np.flatnonzero(np.repeat(counts.reshape(-1), rows // counts.size))
        limit = samples * self.per_sample
        if len(chosen) <= limit:
            return chosen
        # Rows of a sample stay together: whoever holds out some rows holds out samples.
        return np.sort(
            np.random.default_rng([self.seed, batch]).permutation(chosen)[:limit]
        )

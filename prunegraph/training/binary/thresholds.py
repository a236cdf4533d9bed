"""A normalisation and the quantizer behind it, as comparisons with what a layer gives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from prunegraph.graph import linear
from prunegraph.graph.model import Graph, Node

Array = np.ndarray


@dataclass(frozen=True)
class AffineMap:
    """What a normalisation does to each channel: y = x * scale + shift."""

    scale: Array
    shift: Array

    @classmethod
    def of(cls, graph: Graph, node: Node) -> AffineMap:
        factor, mean, shift = linear.normalisation(graph, node)
        return cls(factor, shift - mean * factor)


def as_thresholds(
    affine: AffineMap, step: float, top: int, deadzone: bool = False
) -> tuple[Array, list[Array]]:
    """A normalisation and a half-wave quantizer as comparisons with a layer's output.

    Returns:
        A sign for each channel, -1 where the normalisation turns the order; and for each level the threshold: the
        quantizer's code of channel c is the number of thresholds that sign[c] * x is above.
    """
    sign = np.where(affine.scale < 0, -1.0, 1.0)
    inner = [(i + 0.5) * step for i in range(top)]
    if not deadzone:
        inner[0] = 0.0
    size = np.abs(affine.scale)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        limits = [(edge - affine.shift) / size for edge in inner]
    # A channel of scale 0 has the same code everywhere.
    constant = [np.where(affine.shift > edge, -np.inf, np.inf) for edge in inner]
    return sign, [
        np.where(size > 0, limit, other)
        for limit, other in zip(limits, constant, strict=True)
    ]

"""What lies behind a layer and lets only part of its outputs through: rectifiers, and activations of any spelling.

A fit need not be right where nothing passes. Targets and weights are found in turn (`regression.behind`); here are
the targets for one element: what is created by the weights so far, moved towards what the original has as far as
that changes what passes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from prunegraph.errors import ModelError
from prunegraph.graph.bounds import bounds
from prunegraph.graph.model import Graph, Node
from prunegraph.graph.order import captured
from prunegraph.operators import info
from prunegraph.runtime.piece import run_piece

Array = np.ndarray

#: An activation is tabulated from minus this to this, at so many points a unit; beyond, it goes on as a line.
REACH = 16
POINTS = 64

#: An activation that is a line up to this, relative to its largest value, lets everything through.
STRAIGHT = 1e-3


class Passing(Protocol):
    """Something that lets only part of a value through."""

    @property
    def schedule(self) -> Sequence[float]:
        """How firmly outputs are held to what the weights create, round by round."""

    def of(self, values: Array) -> Array:
        """What comes through of values."""

    def pulled(self, y: Array, created: Array, strength: float) -> Array:
        """Targets for elements that the original has as `y`, float32.

        They minimise `(f(y) - f(z))^2 + strength (z - created)^2`, or come near that.
        """


@dataclass(frozen=True)
class Rectifier:
    """A ReLU, or a clip at 0 and above: values from 0 to `ceiling` pass."""

    ceiling: float = np.inf
    schedule: Sequence[float] = (0.1, 0.1, 0.1, 0.3, 0.3, 1.0)

    def of(self, values: Array) -> Array:
        """What comes through of values."""
        return np.clip(values, 0, np.float32(self.ceiling))

    def pulled(self, y: Array, created: Array, strength: float) -> Array:
        """The best targets.

        Within the bounds the best is `(wanted + s created) / (1 + s)`. What is created beyond a bound stays if that
        costs less: `s / (1 + s) (wanted - created)^2` is more than `(wanted - bound)^2` from `reach` times that
        distance on.
        """
        wanted = np.clip(y, 0, np.float32(self.ceiling))
        reach = np.float32(np.sqrt((1 + strength) / strength) - 1)
        moves = created > -reach * wanted
        if np.isfinite(self.ceiling):
            moves &= created < self.ceiling + reach * (self.ceiling - wanted)
        wanted -= created
        wanted *= moves
        wanted *= np.float32(1 / (1 + strength))
        wanted += created
        return wanted


@dataclass(frozen=True)
class ActivationCurve:
    """An activation by its values at evenly spaced points from -REACH to REACH, with straight lines between."""

    table: Array = field(repr=False)
    schedule: Sequence[float] = (0.1, 0.1, 0.3)

    def of(self, values: Array) -> Array:
        """What comes through of values."""
        at = (values + np.float32(REACH)) * np.float32(POINTS)
        below = np.clip(at, 0, len(self.table) - 2).astype(np.int32)
        at -= below
        at *= np.diff(self.table)[below]
        at += self.table[below]
        return at

    def pulled(self, y: Array, created: Array, strength: float) -> Array:
        """Targets by the secant between what is and what should be, in whose slope k the cost is `k^2 (y - z)^2`."""
        missing = y - created
        near = np.abs(missing) < 1e-6
        slope = (self.of(y) - self.of(created)) / np.where(near, np.float32(1), missing)
        slope *= slope
        slope /= slope + np.float32(strength)
        missing *= slope
        missing += created
        return missing


def passing(graph: Graph, value: str, *, activations: bool = False) -> Passing | None:
    """What lets only part of a value through, if all of its readers do; None where all of it counts.

    `activations` looks at others than rectifiers too.
    """
    readers = [graph.nodes[index] for index, _ in graph.consumers.get(value, ())]
    if not readers or value in graph.outputs:
        return None
    ceilings = [_ceiling(graph, reader) for reader in readers]
    if all(each is not None for each in ceilings):
        return Rectifier(max(each for each in ceilings if each is not None))
    return _activation(graph, value) if activations else None


def _ceiling(graph: Graph, reader: Node) -> float | None:
    limits = bounds(graph, reader)
    return limits[1] if limits is not None and limits[0] == 0 < limits[1] else None


def _activation(graph: Graph, value: str) -> ActivationCurve | None:
    """The function of single elements that a value goes through, if it goes through one alone; None else."""
    nodes, end = _function(graph, value)
    if not end:
        return None
    x = np.linspace(-REACH, REACH, 2 * REACH * POINTS + 1, dtype=np.float32)
    order = np.random.default_rng(0).permutation(len(x))[: len(x) // 2]
    protos = [node.proto for node in nodes]
    try:
        table, part = (
            run_piece(graph, protos, {value: each}, [end])[end] for each in (x, x[order])
        )
    except ModelError:
        return None
    if table.shape != x.shape or part.shape != order.shape or table.dtype.kind != "f":
        return None
    largest = np.abs(table).max()
    # Of an element's neighbours nothing may depend.
    if not np.isfinite(largest) or np.abs(table[order] - part).max() > 1e-5 * largest:
        return None
    line = np.polyval(np.polyfit(x, table, 1), x)
    if np.abs(table - line).max() <= STRAIGHT * largest:
        return None
    return ActivationCurve(table.astype(np.float32))


def _function(graph: Graph, value: str) -> tuple[list[Node], str]:
    """The nodes that compute with a value and constant numbers alone, and what they make in the end, or ""."""
    inside = {value}
    nodes: list[Node] = []
    waiting = {index for index, _ in graph.consumers.get(value, ())}
    while waiting:
        node = graph.nodes[min(waiting)]
        waiting.discard(node.index)
        if not _is_plain(graph, node, inside):
            continue
        nodes.append(node)
        inside.update(node.outputs)
        waiting |= {
            index for output in node.outputs for index, _ in graph.consumers.get(output, ())
        }
    own = {node.index for node in nodes}
    ends = [
        each
        for each in (value, *(output for node in nodes for output in node.outputs))
        if each in graph.outputs
        or any(index not in own for index, _ in graph.consumers.get(each, ()))
    ]
    return (nodes, ends[0]) if len(ends) == 1 and ends[0] != value else ([], "")


def _is_plain(graph: Graph, node: Node, inside: set[str]) -> bool:
    """Tell whether a node reads nothing but these values and constant numbers, and makes one value."""
    if (
        info(node).is_layer
        or info(node).is_random
        or node.subgraphs
        or node.subgraph is not None
    ):
        return False
    if len(node.outputs) != 1 or captured(node.proto):
        return False
    return all(
        not each
        or each in inside
        or (each in graph.weights and graph.weights[each].size == 1)
        for each in node.inputs
    )

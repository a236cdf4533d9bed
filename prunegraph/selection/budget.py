"""Budgets: what must be met, and what a choice costs."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from prunegraph.coupling.coupling import Coupling
from prunegraph.coupling.survivors import Survivors
from prunegraph.errors import BudgetError
from prunegraph.graph.model import Node
from prunegraph.ops.cost import Cost, cost, is_parameter, node_macs, weight_bytes
from prunegraph.ops.rule import Shape

#: Quantities a budget can bound.
KINDS = ("macs", "params", "bytes", "latency")

SUFFIXES = {
    "": 1.0,
    "k": 1e3,
    "m": 1e6,
    "g": 1e9,
    "t": 1e12,
    "kb": 1e3,
    "mb": 1e6,
    "gb": 1e9,
}

#: Units of time, in milliseconds.
TIMES = {"us": 1e-3, "ms": 1.0, "s": 1e3}


@dataclass(frozen=True)
class Budget:
    """What the result must meet: a ratio, or one or more upper bounds, all of which are met.

    `ratio` is the share of channels removed from every group, 0 <= ratio < 1, or "auto": what the
    algorithm itself chooses for each group. The others are upper bounds: a fraction of the original
    up to 1 (`0.5`), or an absolute figure (`2_100_000_000`, `"2.1G"`, `"12MB"`; a latency is a time, `"12ms"`).

    Raises:
        BudgetError: none is given, a ratio and a bound are, or a value is out of range.
    """

    ratio: float | Literal["auto"] | None = None
    macs: float | str | None = None
    params: float | str | None = None
    bytes: float | str | None = None
    latency: float | str | None = None

    def __post_init__(self) -> None:
        names = ", ".join(KINDS)
        if self.ratio is None and not self.kinds:
            raise BudgetError(f"give a ratio or a bound on {names}; got none")
        if self.ratio is not None and self.kinds:
            raise BudgetError(
                f"give a ratio or bounds on {names}, not both; got ratio, {', '.join(self.kinds)}"
            )
        if self.ratio not in (None, "auto") and (
            isinstance(self.ratio, str) or not 0 <= self.ratio < 1
        ):
            raise BudgetError(
                f"ratio must be at least 0 and below 1, or 'auto'; got {self.ratio!r}"
            )
        if self.latency is not None:
            parse_latency(self.latency)
        for kind in self.counted:
            parse_amount(getattr(self, kind), kind)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Quantities that are bounded, of `KINDS`; empty with a ratio."""
        return tuple(kind for kind in KINDS if getattr(self, kind) is not None)

    @property
    def counted(self) -> tuple[str, ...]:
        """Those of them that are counted, not measured: all but the latency."""
        return tuple(kind for kind in self.kinds if kind != "latency")

    @property
    def kind(self) -> str:
        """The one quantity that is bounded, or "ratio". Raises BudgetError where there are several."""
        if len(self.kinds) > 1:
            raise BudgetError(
                f"bounds on {' and '.join(self.kinds)} together are met by prune alone, by criteria; give one here"
            )
        return self.kinds[0] if self.kinds else "ratio"

    def bounds(self, original: Cost) -> dict[str, float]:
        """The upper bounds on MACs, parameters and bytes as absolute figures, by quantity."""
        amounts = {kind: parse_amount(getattr(self, kind), kind) for kind in self.counted}
        return {
            kind: amount * float(getattr(original, kind)) if amount <= 1 else amount
            for kind, amount in amounts.items()
        }

    def bound(self, original: Cost) -> float:
        """The one upper bound on MACs, parameters or bytes as an absolute figure. Raises BudgetError."""
        return self.bounds(original)[self.kind]

    def given(self) -> dict[str, float | str]:
        """What was given, by quantity."""
        kinds = self.kinds or ("ratio",)
        return {kind: getattr(self, kind) for kind in kinds}

    def binding(self, remaining: Cost, original: Cost) -> str:
        """The counted quantity that is nearest to its bound, of several."""
        limits = self.bounds(original)
        return max(limits, key=lambda kind: getattr(remaining, kind) / limits[kind])


def parse_amount(value: float | str, kind: str) -> float:
    """A positive number from `0.5`, `"2.1G"`, `"12MB"`. Raises BudgetError."""
    match = re.fullmatch(r"\s*([0-9.]+(?:e[+-]?\d+)?)\s*([a-z]*)\s*", str(value).lower())
    try:
        amount = float(match[1]) * SUFFIXES[match[2]] if match else 0.0
    except (ValueError, KeyError):
        amount = 0.0
    if amount <= 0:
        raise BudgetError(
            f"{kind} must be a positive fraction or amount such as 0.5, 2.1G or 12MB, got {value!r}"
        )
    return amount


def parse_latency(value: float | str) -> tuple[float, bool]:
    """A share of the original from `0.5` (and True), milliseconds from `"12ms"` (and False). Raises BudgetError."""
    match = re.fullmatch(
        r"\s*([0-9]*\.?[0-9]+(?:e[+-]?\d+)?)\s*(us|ms|s)?\s*", str(value).lower()
    )
    amount = float(match[1]) if match else 0.0
    if not match or amount <= 0 or (match[2] is None and amount > 1):
        raise BudgetError(
            f"latency must be a fraction up to 1 such as 0.5, or a time such as 12ms, got {value!r}"
        )
    return (amount, True) if match[2] is None else (amount * TIMES[match[2]], False)


def unmet(budget: Budget, least: Cost, original: Cost) -> BudgetError | None:
    """The error for a bound below what is left when everything that may go is gone; None where all can be met."""
    for kind, bound in budget.bounds(original).items():
        if getattr(least, kind) > bound:
            return cannot_fall(kind, bound, getattr(least, kind), original)
    return None


def cannot_fall(kind: str, bound: float, least: float, original: Cost) -> BudgetError:
    """The error for a bound below what is left when everything that may go is gone."""
    whole = getattr(original, kind)
    return BudgetError(
        f"{kind} cannot fall to {bound:,.0f}: with everything removed that may go {least:,.0f} are left "
        f"({least / whole:.3f} of {whole:,}); lower --round-to or --min-channels, or unprotect layers"
    )


@dataclass(frozen=True)
class Touched:
    """A part of a graph whose cost changes with some channels: weights by name, and layers."""

    weights: tuple[str, ...]
    layers: tuple[Node, ...]


class Meter:
    """What is left of the cost under a choice, without making the model."""

    def __init__(self, coupling: Coupling):
        self.coupling = coupling
        graph, shapes = coupling.graph, coupling.shape_info.shapes
        self.original = cost(graph)
        self._layers = [node for node in graph.nodes if node_macs(node, shapes)]
        self._uses = {use.weight: use for use in coupling.uses}
        self._params = {
            name for name, weight in graph.weights.items() if is_parameter(graph, weight)
        }
        touched = self._uses.keys()
        rest = [weight for name, weight in graph.weights.items() if name not in touched]
        self._rest_params = sum(
            weight.size for weight in rest if weight.name in self._params
        )
        self._rest_bytes = sum(weight_bytes(weight, weight.shape) for weight in rest)

    def measure(self, remove: Mapping[str, Sequence[int] | np.ndarray]) -> Cost:
        """Cost of the graph without the given channels and branches."""
        survivors = Survivors(self.coupling, remove)
        params, size = self._rest_params, self._rest_bytes
        for name in survivors.lost_weights - self._uses.keys():
            weight = self.coupling.graph.weights[name]
            params -= weight.size if name in self._params else 0
            size -= weight_bytes(weight, weight.shape)
        part = self._part(survivors, Touched(tuple(self._uses), tuple(self._layers)))
        return Cost(part.macs, params + part.params, size + part.bytes)

    def touched(self, remove: Mapping[str, Sequence[int] | np.ndarray]) -> Touched:
        """Weights and layers that are smaller without the given channels (no branches), or without some of them."""
        survivors = Survivors(self.coupling, remove)
        weights = {
            name
            for name, use in self._uses.items()
            if any(survivors.size(labels) != labels.size for labels in use.labels)
        }
        layers = [
            node
            for node in self._layers
            if any(
                value in weights or self._shrinks(survivors, value)
                for value in (*node.inputs, *node.outputs)
            )
        ]
        return Touched(tuple(name for name in self._uses if name in weights), tuple(layers))

    def measure_part(
        self, remove: Mapping[str, Sequence[int] | np.ndarray], part: Touched
    ) -> Cost:
        """Cost of a part of the graph without the given channels and branches: all those that shrink it."""
        return self._part(Survivors(self.coupling, remove), part)

    def _shrinks(self, survivors: Survivors, value: str) -> bool:
        labels = self.coupling.labels.get(value, ())
        return any(survivors.size(each) != each.size for each in labels)

    def _part(self, survivors: Survivors, part: Touched) -> Cost:
        params = size = macs = 0
        lost = survivors.lost_weights
        weight_shapes: dict[str, Shape] = {}
        for name in part.weights:
            weight, shape = self.coupling.graph.weights[name], self._shape(survivors, name)
            weight_shapes[name] = shape
            if name in lost:
                continue
            params += math.prod(shape) if name in self._params else 0
            size += weight_bytes(weight, shape)
        for node in part.layers:
            if node.index in survivors.gone:
                continue
            shapes: dict[str, Shape] = {}
            for value in filter(None, (*node.inputs, *node.outputs)):
                shape_now = weight_shapes.get(value) or (
                    self._shape(survivors, value)
                    if value in self._uses
                    else survivors.shape(value)
                )
                assert shape_now is not None
                shapes[value] = shape_now
            macs += node_macs(node, shapes)
        return Cost(macs, params, size)

    def _shape(self, survivors: Survivors, weight: str) -> Shape:
        return tuple(survivors.size(labels) for labels in self._uses[weight].labels)

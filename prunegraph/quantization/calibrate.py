"""Calibration: histograms of values on data, in a stream, and the scales that follow for a placement."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from prunegraph.errors import DataError, OptionError, UnknownNameError
from prunegraph.graph.model import Graph
from prunegraph.quantization import ranges
from prunegraph.quantization.histogram import Histogram
from prunegraph.quantization.placement import Placement, sources
from prunegraph.quantization.scheme import Params, Scheme
from prunegraph.runtime.statistics import Statistics

Array = np.ndarray

#: Scales and zero points from outside: `{tensor: {"scale": ..., "zero_point": ...}}`.
Given = Mapping[str, Mapping[str, Any]]


class _Watch:
    """Feeds a histogram with one value."""

    def __init__(self, graph: Graph, value: str, counting: bool):
        self.values: tuple[str, ...] = (value,)
        self.histogram = Histogram(counting)
        self._what = "input" if value in graph.inputs else "value"
        self._advice = (
            "clean the data"
            if value in graph.inputs
            else "clean the data, or leave its layer in float"
        )

    def add(self, batch: int, *arrays: Array) -> None:
        if arrays[0].dtype.kind != "f":
            return
        try:
            self.histogram.add(arrays[0])
        except FloatingPointError as error:
            raise DataError(
                f"calibration data: {self._what} {self.values[0]!r} is {error} in batch {batch + 1}; {self._advice}"
            ) from None


def watched(placements: Iterable[Placement]) -> list[str]:
    """The values whose ranges have to be seen."""
    result = {
        source: None
        for each in placements
        for group in each.groups
        for value in group
        for source in sources(each.graph, value)
    }
    return list(result)


def calibrate(
    statistics: Statistics, values: Sequence[str], method: str
) -> dict[str, Histogram]:
    """Histograms of values, and of all inputs, so that what is not a number in them is named.

    Raises:
        DataError: the data do not fit the model, are none, or give values that are infinite or not a number.
    """
    graph = statistics.graph
    counted = set(values) if method != "minmax" else set()
    watches = [
        _Watch(graph, value, value in counted)
        for value in dict.fromkeys((*graph.inputs, *values))
    ]
    statistics.collect(watches, "calibration")
    return {watch.values[0]: watch.histogram for watch in watches}


class Scales:
    """Scales and zero points of every quantized value of a placement.

    Args:
        seen: histograms by value.
        scheme: the types.
        find: makes scale and zero point from a histogram.
        given: those from outside, taken as they are.
    """

    def __init__(
        self,
        seen: Mapping[str, Histogram],
        scheme: Scheme,
        find: Callable[[Histogram], Params],
        given: Given,
    ):
        self.seen, self.scheme, self.find, self.given = seen, scheme, find, given
        self._kept: dict[tuple[str, ...], Params] = {}

    def of(self, placement: Placement) -> list[Params]:
        """One for each group of a placement. Raises OptionError for values from outside that do not fit."""
        return [self._of(placement, group) for group in placement.groups]

    def _of(self, placement: Placement, group: tuple[str, ...]) -> Params:
        given = {self._checked(name): name for name in group if name in self.given}
        if len(given) > 1:
            raise OptionError(
                f"values {', '.join(map(repr, given.values()))} share one scale, but are given several"
            )
        if given:
            return next(iter(given))
        names = tuple(
            sorted(
                {source for value in group for source in sources(placement.graph, value)}
            )
        )
        if names not in self._kept:
            merged = Histogram()
            for name in names:
                merged.merge(self.seen[name])
            self._kept[names] = self.find(merged)
        return self._kept[names]

    def _checked(self, name: str) -> Params:
        kind, entry = self.scheme.activations, self.given[name]
        assert kind is not None  # else there are no groups
        try:
            with np.errstate(over="ignore"):
                scale, zero = (
                    float(np.float32(entry["scale"])),
                    int(entry.get("zero_point", 0)),
                )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise OptionError(
                f"ranges: {name!r} needs a number for scale, and one for zero_point"
            ) from error
        if not (np.isfinite(scale) and scale > 0):
            raise OptionError(
                f"ranges: the scale of {name!r} must be a positive number, got {scale:g}"
            )
        if not kind.lowest <= zero <= kind.highest:
            raise OptionError(
                f"ranges: the zero point of {name!r} does not fit into {kind.name}: {zero}"
            )
        return Params(scale, zero, kind)


def finder(scheme: Scheme, method: str, percentile: float) -> Callable[[Histogram], Params]:
    """Say what makes scale and zero point from a histogram. Raises UnknownNameError and OptionError."""
    ranges.check(method, percentile)
    kind, symmetric = scheme.activations, scheme.target.symmetric

    def find(seen: Histogram) -> Params:
        assert kind is not None
        return ranges.find(seen, method, kind, symmetric=symmetric, percentile=percentile)

    return find


def check_given(given: Given, placement: Placement) -> None:
    """Raise UnknownNameError for values from outside that are neither quantized nor weights of quantized layers."""
    graph = placement.graph
    weights = [graph.nodes[index].inputs[1] for index in placement.layers]
    for name in given:
        if name not in placement.group_of and name not in weights:
            raise UnknownNameError(
                "quantized tensor", name, [*placement.group_of, *weights]
            )

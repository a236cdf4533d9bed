"""Relationship factors: what a trained gate lets through of every channel, kept with the model.

Training by `gfr` (source 001) gives each channel of a BatchNormalization a factor `sr` from 0 to 1. They are a text in
the model's metadata, so that they stay with the file:

    {"format": "prunegraph/gfr@1", "folded": whether scale and shift have been multiplied with them,
     "factors": {value that the BatchNormalization makes: [factor of every channel]}}
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from prunegraph.errors import MALFORMED, ModelError, OptionError
from prunegraph.graph.external import without_weights
from prunegraph.graph.model import Graph
from prunegraph.operators import is_batch_normalization

Array = np.ndarray

FORMAT = "prunegraph/gfr@1"

#: Key of the model's metadata.
KEY = "prunegraph.gfr"


@dataclass(frozen=True)
class Factors:
    """Factors by the value that a BatchNormalization makes, and whether its scale has been multiplied with them."""

    by_value: Mapping[str, Array]
    folded: bool

    def to_text(self) -> str:
        # Nine digits are all that single precision has.
        factors = {
            value: [float(f"{f:.9g}") for f in each]
            for value, each in self.by_value.items()
        }
        return json.dumps({"format": FORMAT, "folded": self.folded, "factors": factors})


def read_factors(graph: Graph) -> Factors | None:
    """A model's factors, or None where it has none. Raises ModelError where they are not what they should be."""
    text = next(
        (entry.value for entry in graph.model.metadata_props if entry.key == KEY), None
    )
    if text is None:
        return None
    try:
        content = json.loads(text)
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']!r}, expected {FORMAT!r}")
        by_value = {
            str(v): np.asarray(each, np.float64) for v, each in content["factors"].items()
        }
        folded = bool(content["folded"])
    except (*MALFORMED, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ModelError(
            f"{graph.source}: its metadata {KEY!r} cannot be read: {error}; train it anew"
        ) from error
    for value, each in by_value.items():
        _check(graph, value, each)
    return Factors(by_value, folded)


def _check(graph: Graph, value: str, factors: Array) -> None:
    """Raise ModelError where factors are not those of a node of the graph."""
    who = f"{graph.source}: its metadata {KEY!r}"
    node = graph.nodes[graph.producer[value]] if value in graph.producer else None
    if node is None or not is_batch_normalization(node):
        raise ModelError(f"{who} names {value!r}, which no BatchNormalization makes")
    scale = graph.weight_behind(node.inputs[1])
    width = graph.weights[scale].size if scale is not None else 0
    if factors.shape != (width,):
        raise ModelError(
            f"{who} has {factors.size} factors for {value!r}, which has {width} channels: they are those of the model "
            "before it was pruned. Use 'bn_scale', or train it anew"
        )
    if not (np.isfinite(factors).all() and (factors >= 0).all()):
        raise ModelError(f"{who} has a factor for {value!r} that is negative or no number")


def with_factors(graph: Graph, factors: Factors | None) -> Graph:
    """The graph with other factors in its metadata, or without any."""
    model = without_weights(graph.model)
    remaining = [
        (entry.key, entry.value) for entry in model.metadata_props if entry.key != KEY
    ]
    if factors is None and len(remaining) == len(model.metadata_props):
        return graph
    del model.metadata_props[:]
    for key, text in [
        *remaining,
        *([(KEY, factors.to_text())] if factors is not None else []),
    ]:
        model.metadata_props.add(key=key, value=text)
    model.graph.initializer.extend(graph.model.graph.initializer)
    return Graph(model, folder=graph.folder, source=graph.source, keeps=graph)


def check_exponents(who: str, p: float, q: float) -> None:
    """Raise OptionError unless both are at least 0 and one is more."""
    if not (math.isfinite(p) and math.isfinite(q) and p >= 0 and q >= 0 and p + q > 0):
        raise OptionError(
            f"algorithm {who!r} wants exponents p and q of at least 0, one of them above; got {p:g}, {q:g}"
        )

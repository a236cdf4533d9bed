"""Convolutions."""

from __future__ import annotations

import math
from collections.abc import Sequence

from prunegraph.graph.model import Node
from prunegraph.ops.pattern import by_pattern
from prunegraph.ops.rule import Shape, register


def _conv_macs(node: Node, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    """Every output element costs the weights of one filter."""
    return math.prod(outputs[0]) * math.prod(inputs[1][1:])


def _transposed_macs(node: Node, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    """Every input element is spread over the filters of its group."""
    return math.prod(inputs[0]) * math.prod(inputs[1][1:])


register(
    "Conv",
    spread=by_pattern("n (g i) *s, (g o) i *k, (g o)? -> n (g o) *s'", layer=True, group="g"),
    macs=_conv_macs,
)
register(
    "ConvTranspose",
    spread=by_pattern("n (g i) *s, (g i) o *k, (g o)? -> n (g o) *s'", layer=True, group="g"),
    macs=_transposed_macs,
)

"""Convolutions."""

from __future__ import annotations

import math
from collections.abc import Sequence

from prunegraph.graph.model import Node
from prunegraph.operators import OperatorInfo
from prunegraph.ops.pattern import by_pattern
from prunegraph.ops.rule import Shape, Site, register


def conv_macs(node: Node, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    """Every output element costs the weights of one filter."""
    return math.prod(outputs[0]) * math.prod(inputs[1][1:])


def _transposed_macs(node: Node, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    """Every input element is spread over the filters of its group."""
    return math.prod(inputs[0]) * math.prod(inputs[1][1:])


register(
    "Conv",
    propagate=by_pattern(
        "n (g i) *s, (g o) i *k, (g o)? -> n (g o) *s'",
        layer=True,
        attributes={"group": "g"},
    ),
    macs=conv_macs,
    blocks="apart",
    info=OperatorInfo(
        kind="convolution",
        roles=("", "weight", "bias"),
        is_layer=True,
        weight_form="filters",
        channel_axis=1,
        is_linear=True,
        folds=True,
        has_window=True,
    ),
)


def _propagate_deform_conv(site: Site) -> None:
    """Offsets and masks are spatial; every offset group loses the same of its input channels."""
    by_pattern(
        "n (g i) *s, (g o) i *k, n *f, (g o)?, n *m? -> n (g o) *s'",
        layer=True,
        stays="offsets",
        attributes={"group": "g"},
    )(site)
    groups = site.node.attributes.get("offset_group", 1)
    if groups != 1:
        channels = site.labels(0)[1]
        parts = [
            site.pinned_axis(groups, "offset groups"),
            site.space.fresh(channels.size // groups),
        ]
        site.space.product(channels, parts, site.node.name)


register(
    "DeformConv",
    propagate=_propagate_deform_conv,
    macs=conv_macs,
    info=OperatorInfo(
        roles=("", "weight", "", "bias"),
        is_layer=True,
        weight_form="filters",
        channel_axis=1,
        has_window=True,
    ),
)
for _domain in ("", "com.microsoft"):
    register("GridSample", propagate=by_pattern("n c *s, n *g -> n c *s'"), domain=_domain)
register(
    "ConvTranspose",
    propagate=by_pattern(
        "n (g i) *s, (g i) o *k, (g o)? -> n (g o) *s'",
        layer=True,
        attributes={"group": "g"},
    ),
    macs=_transposed_macs,
    blocks="apart",
    info=OperatorInfo(
        kind="transposed convolution",
        roles=("", "weight", "bias"),
        is_layer=True,
        weight_form="turned filters",
        channel_axis=1,
        folds=True,
        has_window=True,
    ),
)

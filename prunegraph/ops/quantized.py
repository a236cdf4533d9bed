"""Quantize and dequantize nodes: data passes, scales follow their axis."""

from __future__ import annotations

import math
from collections.abc import Sequence

from prunegraph.graph.model import Node
from prunegraph.labels.labels import Labels
from prunegraph.operators import OperatorInfo, describe
from prunegraph.ops.elementwise import broadcast
from prunegraph.ops.pattern import Moved, by_pattern
from prunegraph.ops.rule import Macs, Propagate, Shape, Site, register


def _propagate_qdq(site: Site) -> None:
    labels = site.labels(0)
    axis = site.node.attributes.get("axis", 1)
    for slot in (1, 2):
        if not site.has(slot) or not site.shape(slot) or site.shape(slot) == (1,):
            continue
        if site.node.attributes.get("block_size", 0):
            _tie_blocks(site, slot)
        else:
            site.space.tie(labels[axis % len(labels)], site.labels(slot)[0])
    site.set_output(labels)


def _tie_blocks(site: Site, slot: int) -> None:
    """Blocked scales: axes of the same size are tied, the blocked one stays."""
    for mine, other, size, blocks in zip(
        site.labels(0), site.labels(slot), site.shape(0), site.shape(slot), strict=True
    ):
        if size == blocks:
            site.space.tie(mine, other)
        else:
            site.pin(mine, "quantized in blocks")
            site.pin(other, "quantized in blocks")


def _vectors(site: Site, axis: Labels, slots: Sequence[int]) -> None:
    """Scales and zero points: one for the tensor, or one for each index of an axis."""
    for slot in slots:
        if site.has(slot) and site.shape(slot) not in ((), (1,)):
            site.space.tie(axis, site.labels(slot)[-1])


def _conv(
    weight: int, bias: int | None, zero: int, per_output: tuple[int, ...]
) -> Propagate:
    """A convolution on integers: where its data, weight and bias are, and the data's zero point."""

    def propagate(site: Site) -> None:
        moved = Moved(site, [0, weight, *([bias] if bias is not None else [])])
        by_pattern(
            "n (g i) *s, (g o) i *k, (g o)? -> n (g o) *s'", attributes={"group": "g"}
        )(moved)
        rows = site.labels(weight)[0]
        _vectors(site, rows, per_output)
        site.role(weight, 0, "out")
        site.role(weight, 1, "in")
        site.reduces(0, [1], "sum", zero=zero)

    return propagate


def _matmul(weight: int, zero: int, per_output: tuple[int, ...]) -> Propagate:
    """A matrix product on integers."""

    def propagate(site: Site) -> None:
        a, b = site.labels(0), site.labels(weight)
        if len(a) < 2 or len(b) < 2:
            raise ValueError("it multiplies vectors")
        site.space.tie(a[-1], b[-2])
        batch = broadcast(
            site, [(a[:-2], site.shape(0)[:-2]), (b[:-2], site.shape(weight)[:-2])]
        )
        _vectors(site, b[-1], per_output)
        if site.is_weight(weight):
            site.role(weight, len(b) - 1, "out")
            site.role(weight, len(b) - 2, "in")
        site.reduces(0, [len(a) - 1], "sum", zero=zero)
        site.set_output([*batch, a[-2], b[-1]])

    return propagate


def _propagate_dynamic(site: Site) -> None:
    """The range is taken over the whole tensor and holds zero: what is zero does not change it."""
    labels = site.labels(0)
    site.reduces(0, range(len(labels)), "sum")
    site.set_output(labels)
    for slot in (1, 2):
        site.set_output([], slot)


def _conv_macs(weight: int) -> Macs:
    return lambda node, inputs, outputs: (
        math.prod(outputs[0]) * math.prod(inputs[weight][1:])
    )


def _matmul_macs(node: Node, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    return math.prod(outputs[0]) * inputs[0][-1]


register(
    "QLinearConv",
    propagate=_conv(3, 8, 2, (4, 5)),
    macs=_conv_macs(3),
    info=OperatorInfo(
        roles=("", "", "", "weight", "", "", "", "", "bias"),
        is_layer=True,
        weight_slots=(3,),
        weight_form="filters",
        channel_axis=1,
        is_integer=True,
        has_window=True,
    ),
)
register(
    "ConvInteger",
    propagate=_conv(1, None, 2, (3,)),
    macs=_conv_macs(1),
    info=OperatorInfo(
        is_layer=True,
        weight_form="filters",
        channel_axis=1,
        is_integer=True,
        has_window=True,
    ),
)
register(
    "QLinearMatMul",
    propagate=_matmul(3, 2, (4, 5)),
    macs=_matmul_macs,
    info=OperatorInfo(
        roles=("", "", "", "weight"),
        is_layer=True,
        weight_slots=(3,),
        channel_axis=-1,
        is_integer=True,
    ),
)
register(
    "MatMulInteger",
    propagate=_matmul(1, 2, (3,)),
    macs=_matmul_macs,
    info=OperatorInfo(is_layer=True, weight_slots=(1, 0), channel_axis=-1, is_integer=True),
)
register("DynamicQuantizeLinear", propagate=_propagate_dynamic)
register("QuantizeLinear", "DequantizeLinear", propagate=_propagate_qdq)
register(
    "QuantizeLinear", "DequantizeLinear", propagate=_propagate_qdq, domain="com.microsoft"
)

describe(OperatorInfo(kind="dequantization", passes=("weights",)), "DequantizeLinear")
describe(OperatorInfo(kind="quantization", passes=("weights",)), "QuantizeLinear")

"""Operators that ONNX Runtime's optimizer makes of several: the rule of the main one serves."""

from __future__ import annotations

import math
from collections.abc import Sequence

from prunegraph.graph.model import Node
from prunegraph.operators import OperatorInfo
from prunegraph.ops.conv import conv_macs
from prunegraph.ops.elementwise import propagate_nary, propagate_unary
from prunegraph.ops.matmul import gemm_macs, propagate_gemm, propagate_product
from prunegraph.ops.pattern import by_pattern
from prunegraph.ops.rule import Shape, Site, register

MICROSOFT = "com.microsoft"


def _propagate_fused_matmul(site: Site) -> None:
    """A side may be transposed, or have its rows before the batch."""
    propagate_product(
        site,
        *(_order(site.node, side, len(site.shape(slot))) for slot, side in enumerate("AB")),
    )


def _order(node: Node, side: str, rank: int) -> list[int]:
    """The axes of a side as a plain product has them: batch, rows, columns."""
    axes = list(range(rank))
    if node.attributes.get(f"transBatch{side}", 0):
        axes = [*axes[1:-1], axes[0], axes[-1]]
    if node.attributes.get(f"trans{side}", 0) and rank > 1:
        axes[-2:] = axes[:-3:-1]
    return axes


def _fused_matmul_macs(
    node: Node, inputs: Sequence[Shape], outputs: Sequence[Shape]
) -> int:
    return math.prod(outputs[0]) * inputs[0][_order(node, "A", len(inputs[0]))[-1]]


def _propagate_matmul_nbits(site: Site) -> None:
    """The contracted axis is packed in blocks and stays; rows of the weight are the outputs."""
    labels = site.labels(0)
    site.pin(labels[-1], "packed in blocks of bits")
    rows, blocks, blob = site.labels(1)
    for each in (blocks, blob):
        site.pin(each, "packed in blocks of bits")
    for slot in (2, 3):
        if site.has(slot):
            # Scales and zero points of every row and block, as a matrix or in one row.
            first, *others = site.labels(slot)
            pinned_axis = site.pinned_axis(
                first.size // rows.size, "packed in blocks of bits"
            )
            site.space.product(first, [rows, pinned_axis], site.node.name)
            for each in others:
                site.pin(each, "packed in blocks of bits")
    if site.has(4):
        raise ValueError("it reorders its input")
    if site.has(5):
        site.space.tie(site.labels(5)[0], rows)
    site.role(1, 0, "out")
    site.bind_attribute("N", rows)
    site.set_output([*labels[:-1], rows])


def _matmul_nbits_macs(
    node: Node, inputs: Sequence[Shape], outputs: Sequence[Shape]
) -> int:
    return math.prod(outputs[0]) * int(node.attributes["K"])


register(
    "FusedConv",
    propagate=by_pattern(
        "n (g i) *s, (g o) i *k, (g o)?, n (g o) *s'? -> n (g o) *s'",
        layer=True,
        attributes={"group": "g"},
    ),
    macs=conv_macs,
    domain=MICROSOFT,
    info=OperatorInfo(
        roles=("", "weight", "bias"),
        is_layer=True,
        weight_form="filters",
        channel_axis=1,
        has_window=True,
    ),
)
register(
    "FusedGemm",
    propagate=propagate_gemm,
    macs=gemm_macs,
    domain=MICROSOFT,
    info=OperatorInfo(
        roles=("", "weight", "bias"), is_layer=True, weight_form="gemm", channel_axis=-1
    ),
)
register(
    "FusedMatMul",
    "TransposeMatMul",
    propagate=_propagate_fused_matmul,
    macs=_fused_matmul_macs,
    domain=MICROSOFT,
    info=OperatorInfo(
        roles=("weight", "weight"), is_layer=True, weight_slots=(1, 0), channel_axis=-1
    ),
)


def _propagate_block_gather(site: Site) -> None:
    """Rows of a table that is quantized in blocks: all of a row stays; rows go with ids that are numbered anew."""
    data = site.labels(0)
    axis = site.node.attributes.get("gather_axis", 0) % len(data)
    for slot in (0, 2, 3):
        for place, each in enumerate(site.labels(slot) if site.has(slot) else ()):
            if place == axis and each.size == data[axis].size:
                site.space.tie(each, data[axis])
            else:
                site.pin(each, "packed in blocks of bits")
    if not site.is_renumbered(1):
        site.pin(data[axis], "looked up at run time")
    picked = site.labels(1)
    shape = site.out_shape()
    others = [site.pinned_axis(size, "packed in blocks of bits") for size in shape]
    site.set_output([*others[:axis], *picked, *others[axis + len(picked) :]])


register(
    "GatherBlockQuantized",
    propagate=_propagate_block_gather,
    domain=MICROSOFT,
    info=OperatorInfo(kind="gathering from blocks", indices="axis"),
)
register(
    "MatMulNBits",
    propagate=_propagate_matmul_nbits,
    macs=_matmul_nbits_macs,
    domain=MICROSOFT,
    info=OperatorInfo(is_layer=True, weight_slots=(1, 0), channel_axis=-1, is_integer=True),
)
register("BiasGelu", "FastGelu", "BiasAdd", propagate=propagate_nary, domain=MICROSOFT)
register("Gelu", "QuickGelu", propagate=propagate_unary, domain=MICROSOFT)

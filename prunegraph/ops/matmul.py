"""Matrix products."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from prunegraph.graph.inference import einsum_terms
from prunegraph.graph.model import Node
from prunegraph.operators import OperatorInfo
from prunegraph.ops.elementwise import broadcast
from prunegraph.ops.pattern import by_pattern
from prunegraph.ops.rule import Shape, Site, register

_GEMM = {
    (a, b): by_pattern(
        f"{'k m' if a else 'm k'}, {'n k' if b else 'k n'} -> m n", layer=True
    )
    for a in (False, True)
    for b in (False, True)
}


def propagate_gemm(site: Site) -> None:
    """A product of two matrices, either transposed, and what is added to it in any form that stretches."""
    attributes = site.node.attributes
    _GEMM[bool(attributes.get("transA", 0)), bool(attributes.get("transB", 0))](site)
    if site.has(2):
        created = site.given(0)
        for mine, bias, size in zip(
            reversed(created),
            reversed(site.labels(2)),
            reversed(site.shape(2)),
            strict=False,
        ):
            if size != 1:
                site.space.tie(mine, bias)
        if site.is_weight(2) and site.shape(2):
            site.role(2, len(site.shape(2)) - 1, "out")


def gemm_macs(node: Node, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    """Every output element costs the contracted axis."""
    contracted = inputs[0][0] if node.attributes.get("transA", 0) else inputs[0][1]
    return math.prod(outputs[0]) * contracted


def propagate_product(
    site: Site, order_a: Sequence[int] = (), order_b: Sequence[int] = ()
) -> None:
    """`... m k, ... k n -> ... m n`; either side may be a vector, or have its axes in another order."""
    orders = [
        list(order) or list(range(len(site.labels(slot))))
        for slot, order in enumerate((order_a, order_b))
    ]
    a, b = (
        [site.labels(slot)[axis] for axis in order] for slot, order in enumerate(orders)
    )
    sizes = [
        tuple(site.shape(slot)[axis] for axis in order[:-2])
        for slot, order in enumerate(orders)
    ]
    inner_a, outer_a = orders[0][-1], orders[0][-2:-1]
    inner_b, outer_b = (orders[1][-2], orders[1][-1:]) if len(b) > 1 else (orders[1][0], [])
    contracted = site.labels(0)[inner_a], site.labels(1)[inner_b]
    site.space.tie(*contracted)
    batch = broadcast(site, [(a[:-2], sizes[0]), (b[:-2], sizes[1])])
    created = (
        [site.labels(0)[axis] for axis in outer_a],
        [site.labels(1)[axis] for axis in outer_b],
    )
    site.set_output([*batch, *created[0], *created[1]])
    for slot, inner, outer in ((0, inner_a, outer_a), (1, inner_b, outer_b)):
        if site.carries_weight(slot):
            site.role(slot, inner, "in")
            for axis in outer:
                site.role(slot, axis, "out")
    if not (site.is_weight(0) or site.is_weight(1)):
        site.reduces(0, [inner_a], "sum")
    if not (site.carries_weight(0) or site.carries_weight(1)):
        for labels in batch[1:]:
            site.tag(labels, "heads")
        for labels in (contracted[0], *created[1]):
            site.tag(labels, "head_dim")


def _matmul_macs(node: Node, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    return math.prod(outputs[0]) * inputs[0][-1]


def _propagate_einsum(site: Site) -> None:
    """The equation is the pattern."""
    by_pattern(einsum_pattern(site), layer=True)(site)


def einsum_pattern(site: Site) -> str:
    """The equation of an Einsum in the pattern language."""
    operands, output = einsum_terms(site.node.attributes["equation"].decode())
    spaced = [
        " ".join(re.findall(r"\.\.\.|\w", operand)) for operand in (*operands, output)
    ]
    return f"{', '.join(spaced[:-1])} -> {spaced[-1]}"


def _einsum_macs(node: Node, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    """The product of all letters' sizes; an equation with an ellipsis counts what its inputs show."""
    remaining = (
        node.attributes["equation"].decode().replace(" ", "").partition("->")[0].split(",")
    )
    if len(remaining) < 2:
        return 0
    sizes: dict[str, int] = {}
    for operand, shape in zip(remaining, inputs, strict=True):
        spare = len(shape) - len(operand.replace("...", ""))
        names = operand.replace("...", "".join(str(i) for i in range(spare)))
        sizes.update(zip(names, shape, strict=True))
    return math.prod(sizes.values())


register(
    "Gemm",
    propagate=propagate_gemm,
    macs=gemm_macs,
    info=OperatorInfo(
        kind="gemm",
        roles=("", "weight", "bias"),
        is_layer=True,
        weight_form="gemm",
        channel_axis=-1,
        is_linear=True,
        folds=True,
    ),
)
register(
    "MatMul",
    propagate=propagate_product,
    macs=_matmul_macs,
    blocks="batches",
    info=OperatorInfo(
        kind="matrix product",
        roles=("weight", "weight"),
        is_layer=True,
        weight_slots=(1, 0),
        channel_axis=-1,
        is_linear=True,
    ),
)
register(
    "Einsum",
    propagate=_propagate_einsum,
    macs=_einsum_macs,
    info=OperatorInfo(is_layer=True),
)

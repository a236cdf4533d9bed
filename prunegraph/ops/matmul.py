"""Matrix products."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from prunegraph.graph.facts import einsum_terms
from prunegraph.graph.model import Node
from prunegraph.ops.elementwise import broadcast
from prunegraph.ops.pattern import by_pattern
from prunegraph.ops.rule import Shape, Site, register

_GEMM = {
    (a, b): by_pattern(f"{'k m' if a else 'm k'}, {'n k' if b else 'k n'} -> m n", layer=True)
    for a in (False, True)
    for b in (False, True)
}


def _spread_gemm(site: Site) -> None:
    attributes = site.node.attributes
    _GEMM[bool(attributes.get("transA", 0)), bool(attributes.get("transB", 0))](site)
    if site.has(2):
        made = site.given(0)
        for mine, bias, size in zip(reversed(made), reversed(site.labels(2)), reversed(site.shape(2)), strict=False):
            if size != 1:
                site.space.tie(mine, bias)
        if site.is_weight(2) and site.shape(2):
            site.role(2, len(site.shape(2)) - 1, "out")


def _gemm_macs(node: Node, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    contracted = inputs[0][0] if node.attributes.get("transA", 0) else inputs[0][1]
    return math.prod(outputs[0]) * contracted


def spread_product(site: Site, transpose_a: bool = False, transpose_b: bool = False) -> None:
    """`... m k, ... k n -> ... m n`, either side may be a vector or transposed."""
    a, b = site.labels(0), site.labels(1)
    k_of_a = len(a) - (2 if transpose_a and len(a) > 1 else 1)
    k_of_b = len(b) - (1 if transpose_b or len(b) == 1 else 2)
    site.space.tie(a[k_of_a], b[k_of_b])
    outer_a = [axis for axis in range(max(len(a) - 2, 0), len(a)) if axis != k_of_a]
    outer_b = [axis for axis in range(max(len(b) - 2, 0), len(b)) if axis != k_of_b]
    batch = broadcast(site, [(a[:-2], site.shape(0)[:-2]), (b[:-2], site.shape(1)[:-2])])
    site.give([*batch, *(a[axis] for axis in outer_a), *(b[axis] for axis in outer_b)])
    for slot, inner, outer in ((0, k_of_a, outer_a), (1, k_of_b, outer_b)):
        if site.carries_weight(slot):
            site.role(slot, inner, "in")
            for axis in outer:
                site.role(slot, axis, "out")
    if not (site.is_weight(0) or site.is_weight(1)):
        site.reduces(0, [k_of_a], "sum")
    if not (site.carries_weight(0) or site.carries_weight(1)):
        for labels in batch[1:]:
            site.tag(labels, "heads")
        for labels in (a[k_of_a], *(b[axis] for axis in outer_b)):
            site.tag(labels, "head_dim")


def _matmul_macs(node: Node, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    return math.prod(outputs[0]) * inputs[0][-1]


def _spread_einsum(site: Site) -> None:
    """The equation is the pattern."""
    by_pattern(einsum_pattern(site), layer=True)(site)


def einsum_pattern(site: Site) -> str:
    """The equation of an Einsum in the pattern language."""
    operands, output = einsum_terms(site.node.attributes["equation"].decode())
    spaced = [" ".join(re.findall(r"\.\.\.|\w", operand)) for operand in (*operands, output)]
    return f"{', '.join(spaced[:-1])} -> {spaced[-1]}"


def _einsum_macs(node: Node, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    """The product of all letters' sizes; an equation with an ellipsis counts what its inputs show."""
    left = node.attributes["equation"].decode().replace(" ", "").partition("->")[0].split(",")
    if len(left) < 2:
        return 0
    sizes: dict[str, int] = {}
    for operand, shape in zip(left, inputs, strict=True):
        spare = len(shape) - len(operand.replace("...", ""))
        names = operand.replace("...", "".join(str(i) for i in range(spare)))
        sizes.update(zip(names, shape, strict=True))
    return math.prod(sizes.values())


register("Gemm", spread=_spread_gemm, macs=_gemm_macs)
register("MatMul", spread=spread_product, macs=_matmul_macs)
register("Einsum", spread=_spread_einsum, macs=_einsum_macs)

"""Matrix products."""

from __future__ import annotations

import math
from collections.abc import Sequence

from prunegraph.coupling.labels import Labels
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


def _spread_matmul(site: Site) -> None:
    """`... m k, ... k n -> ... m n`, either side may be a vector."""
    a, b = list(site.labels(0)), list(site.labels(1))
    k_of_b = max(len(b) - 2, 0)
    site.space.tie(a[-1], b[k_of_b])
    rows: list[Labels] = a[-2:-1]
    columns: list[Labels] = b[-1:] if len(b) > 1 else []
    batch = broadcast(site, [(a[:-2], site.shape(0)[:-2]), (b[:k_of_b], site.shape(1)[:k_of_b])])
    site.give([*batch, *rows, *columns])
    for slot, inner, outer in ((0, len(a) - 1, len(a) - 2), (1, k_of_b, len(b) - 1)):
        if site.carries_weight(slot):
            site.role(slot, inner, "in")
            if outer >= 0 and outer != inner:
                site.role(slot, outer, "out")
    if not (site.is_weight(0) or site.is_weight(1)):
        site.reduces(0, [len(a) - 1], "sum")


def _matmul_macs(node: Node, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    return math.prod(outputs[0]) * inputs[0][-1]


register("Gemm", spread=_spread_gemm, macs=_gemm_macs)
register("MatMul", spread=_spread_matmul, macs=_matmul_macs)

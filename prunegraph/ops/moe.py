"""Mixtures of experts as one operator: experts are channels, and so are the inner channels of all of them.

The operator takes the softmax over the router's scores of all experts, then the largest `k`. An expert that is gone is
one whose score is minus infinity: nothing is left of it in either. So the masked original gives it that score, and `k`
is at most the number of experts that are left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from prunegraph.graph.model import Node
from prunegraph.labels.labels import Labels
from prunegraph.operators import OperatorInfo
from prunegraph.ops.rule import Edit, Shape, Site, register

MICROSOFT = "com.microsoft"

#: Slots of a QMoE's tensors with an axis of experts, the router's aside: weights, scales, biases, zero points, factors.
QUANTIZED = (*range(2, 14), *range(15, 22))


def _route(site: Site) -> tuple[tuple[Labels, ...], Labels]:
    """Labels of the data and of the experts: a score of every expert for every token."""
    if site.node.attributes.get("use_sparse_mixer", 0):
        raise ValueError("its sparse mixer compares scores with one another")
    data, scores = site.labels(0), site.labels(1)
    site.space.product(scores[0], data[:-1], site.node.name)
    site.reduces(1, [1], "max")
    return data, scores[1]


def _fusion(node: Node) -> int:
    """Rows of the first weight for an inner channel: 2 where gates are in it."""
    kind = node.attributes.get("activation_type", b"relu").decode()
    return 2 if kind in ("swiglu", "geglu") and node.attributes.get("swiglu_fusion") else 1


def _rows(site: Site, inner: Labels) -> Labels:
    """Rows of the first weight: inner channels, with their gates between them or before them."""
    fusion = _fusion(site.node)
    if fusion == 1:
        return inner
    rows = site.space.fresh(inner.size * fusion)
    gates = site.pinned_axis(fusion, "a gate for every inner channel")
    parts = [inner, gates] if site.node.attributes["swiglu_fusion"] == 1 else [gates, inner]
    site.space.product(rows, parts, site.node.name)
    return rows


def _propagate_moe(site: Site) -> None:
    """com.microsoft.MoE: weights [experts, rows, hidden] and [experts, hidden, inner], and a third like the first."""
    data, experts = _route(site)
    hidden, inner = data[-1], site.space.fresh(site.shape(4)[2])
    rows = _rows(site, inner)
    weights = {
        2: (experts, rows, hidden),
        3: (experts, rows),
        4: (experts, hidden, inner),
        5: (experts, hidden),
        6: (experts, inner, hidden),
        7: (experts, inner),
    }
    for slot, wanted in weights.items():
        if not site.has(slot):
            continue
        own = site.labels(slot)
        if tuple(each.size for each in own) != tuple(each.size for each in wanted):
            raise ValueError(f"input {slot} has shape {list(site.shape(slot))}")
        for mine, other in zip(own, wanted, strict=True):
            site.space.tie(mine, other)
        site.role(slot, 1, "out")
        if len(own) == 3:
            site.role(slot, 2, "in")
    site.set_output(data)


def _propagate_qmoe(site: Site) -> None:
    """com.microsoft.QMoE: experts may go; hidden and inner channels are packed in bytes and blocks and stay."""
    data, experts = _route(site)
    site.pin(data[-1], "packed in blocks of bits")
    for slot in QUANTIZED:
        if not site.has(slot):
            continue
        first, *others = site.labels(slot)
        if first.size == experts.size:
            site.space.tie(first, experts)
        else:
            site.pin(first, "one for all experts")
        for each in others:
            site.pin(each, "packed in blocks of bits")
    if site.has(14):
        for mine, other in zip(site.labels(14), site.labels(1), strict=True):
            site.space.tie(mine, other)
    site.set_output(data)


def _fix_up(edit: Edit) -> None:
    """At most as many experts are asked as there are."""
    scores = edit.node.inputs[1]
    if edit.is_cut(scores, 1):
        asked = int(edit.node.attributes.get("k", 1))
        edit.set_attribute("k", min(asked, edit.size(scores, 1)))


def _macs(node: Node, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    """Every token meets the weights of as many experts as are asked."""
    hidden, rows = inputs[0][-1], inputs[2][1]
    inner = rows // _fusion(node)
    third = 6 if node.op == "MoE" else 8
    gates = inner if node.input(third) else 0
    tokens = math.prod(inputs[0][:-1])
    asked = min(int(node.attributes.get("k", 1)), inputs[1][1])
    return tokens * asked * hidden * (rows + inner + gates)


register(
    "MoE",
    propagate=_propagate_moe,
    fix_up=_fix_up,
    macs=_macs,
    domain=MICROSOFT,
    info=OperatorInfo(
        roles=("", "", "weight", "bias", "weight", "bias", "weight", "bias"),
        weight_slots=(2, 4),
        shape="function",
    ),
)
register(
    "QMoE",
    propagate=_propagate_qmoe,
    fix_up=_fix_up,
    macs=_macs,
    domain=MICROSOFT,
    info=OperatorInfo(weight_slots=(2, 5), shape="function"),
)

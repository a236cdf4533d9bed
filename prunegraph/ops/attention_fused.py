"""Attention as ONNX Runtime fuses it: domain com.microsoft."""

from __future__ import annotations

import math
from collections.abc import Sequence

from prunegraph.graph.model import Node
from prunegraph.operators import OperatorInfo
from prunegraph.ops.attention import (
    Heads,
    attention_macs,
    fix_up_scale,
    head_size,
    tie_sequences,
)
from prunegraph.ops.join import join_axis
from prunegraph.ops.rule import Edit, Shape, Site, register

MICROSOFT = "com.microsoft"


def _propagate_multi_head(site: Site) -> None:
    """com.microsoft.MultiHeadAttention: a query of 3 axes, keys and values of 3 or 4; the bias is of all three."""
    if (
        not (site.has(1) and site.has(2))
        or len(site.shape(0)) != 3
        or len(site.shape(1)) == 5
    ):
        raise ValueError(
            "its inputs are packed, which ONNX Runtime does not run on the CPU"
        )
    if site.has(8) or site.has(9):
        raise ValueError("it shares a buffer with other steps")
    q, k, v = (site.labels(slot) for slot in range(3))
    count = site.node.attributes["num_heads"]
    flat = len(k) == 3
    heads = Heads(
        site, count, count, q[-1].size // count, v[-1].size // count if flat else v[-1].size
    )
    heads.merged(q[-1], False, heads.size)
    for axes, size in ((k, heads.size), (v, heads.value_size)):
        if flat:
            heads.merged(axes[-1], False, size)
        else:
            site.space.tie(axes[1], heads.groups)
            site.space.tie(axes[-1], size)
    if site.has(3):
        rows = [q[-1], *(x[-1] if flat else heads.fresh(False, x[-1]) for x in (k, v))]
        site.space.tie(join_axis(rows), site.labels(3)[0])
        site.reduces(3, [0], "sum")
    site.bind_attribute("num_heads", heads.groups)
    if site.has(4):
        for each in (*site.labels(4), q[0]):
            site.pin(each, "padding of keys")
    if site.has(5):
        heads.bias(5, q[0])
    heads.cache((6, 7), q[0])
    if not flat or site.has(6):
        # The operator takes one head size for keys and values then.
        site.space.tie(heads.size, heads.value_size)
    if site.node.attributes.get("unidirectional", 0) or any(
        site.has(slot) for slot in (4, 5, 6)
    ):
        site.pin(q[1], "position decides what is attended to")
    tie_sequences(site, q[0], (k[0], v[0]), (k[-2], v[-2]))
    site.reduces(0, [2], "sum")
    site.set_output([*q[:2], heads.fresh(False, heads.value_size)])
    heads.set_output(q[0], q[1])


#: ONNX Runtime takes head sizes of GroupQueryAttention in such multiples only.
GROUPED_UNIT = 8


def _propagate_grouped_query(site: Site) -> None:
    """com.microsoft.GroupQueryAttention: query, key and value apart, or in a row as one input."""
    if any(site.has(slot) for slot in range(12, len(site.node.inputs))):
        raise ValueError("its cache is quantized, or it normalises heads")
    attributes = site.node.attributes
    query_heads, key_heads = attributes["num_heads"], attributes["kv_num_heads"]
    size = head_size(site.node, site.shape(0))
    heads = Heads(site, query_heads, key_heads, size, size, GROUPED_UNIT)
    # The operator takes one head size for keys and values.
    site.space.tie(heads.size, heads.value_size)
    q = site.labels(0)
    if site.has(1) and site.has(2):
        k, v = site.labels(1), site.labels(2)
        heads.merged(q[-1], True, heads.size)
        heads.merged(k[-1], False, heads.size)
        heads.merged(v[-1], False, heads.value_size)
        tie_sequences(site, q[0], (k[0], v[0]), (k[1], v[1]))
    else:
        rows = [heads.fresh(query, heads.size) for query in (True, False, False)]
        site.space.tie(join_axis(rows), q[-1])
    if attributes.get("do_rotary", 0):
        site.pin(heads.size, "rotated in pairs")
    site.bind_attribute("num_heads", heads.groups, heads.repeats)
    site.bind_attribute("kv_num_heads", heads.groups)
    heads.cache((3, 4), q[0])
    for slot in range(5, 10):
        if site.has(slot):
            for each in site.labels(slot):
                site.pin(each, "positions")
    if site.has(10):
        heads.bias(10, q[0])
    if site.has(11):
        heads.merged(site.labels(11)[0], True)
    for each in q[:2]:
        site.pin(each, "position decides what is attended to")
    site.reduces(0, [2], "sum")
    site.set_output([*q[:2], heads.fresh(True, heads.value_size)])
    heads.set_output(*q[:2])


def _sizes(node: Node, weight: Shape) -> list[int]:
    """How many columns of the weight of a packed Attention make queries, keys and values."""
    given = node.attributes.get("qkv_hidden_sizes")
    return [int(size) for size in given] if given else [weight[1] // 3] * 3


def _propagate_packed(site: Site) -> None:
    """com.microsoft.Attention: the layer that makes queries, keys and values (in a row) is part of it."""
    if site.has(6):
        raise ValueError("it shares a buffer with other steps")
    attributes, count = site.node.attributes, site.node.attributes["num_heads"]
    x, w = site.labels(0), site.labels(1)
    _, keys, values = _sizes(site.node, site.shape(1))
    heads = Heads(site, count, count, keys // count, values // count)
    created = join_axis(
        [heads.fresh(False, size) for size in (heads.size, heads.size, heads.value_size)]
    )
    site.space.tie(x[-1], w[0])
    site.space.tie(created, w[1])
    site.role(1, 0, "in")
    site.role(1, 1, "out")
    if site.has(2):
        site.space.tie(created, site.labels(2)[0])
        site.role(2, 0, "out")
    site.bind_attribute("num_heads", heads.groups)
    if site.has(3):
        for each in (*site.labels(3), x[0]):
            site.pin(each, "padding of keys")
    if site.has(5):
        heads.bias(5, x[0])
    if attributes.get("do_rotary", 0):
        site.pin(heads.size, "rotated in pairs")
    site.pin(x[1], "normalised together by softmax")
    if site.has(4):
        pair, samples, groups, steps, size = site.labels(4)
        for each in (pair, steps):
            site.pin(each, "steps of a cache")
        heads.same_batch(x[0], samples)
        site.space.tie(groups, heads.groups)
        site.space.tie(size, heads.size)
    if site.has(4) or len(site.node.outputs) > 1:
        # Keys and values share a tensor.
        site.space.tie(heads.size, heads.value_size)
    site.set_output([*x[:2], heads.fresh(False, heads.value_size)])
    if len(site.node.outputs) > 1 and site.node.outputs[1]:
        pair_size, _, _, length, _ = site.out_shape(1)
        pair, steps = (
            site.pinned_axis(size, "steps of a cache") for size in (pair_size, length)
        )
        site.set_output([pair, x[0], heads.groups, steps, heads.size], 1)


def _fix_up_packed(edit: Edit) -> None:
    node = edit.node
    shape = edit.shape_info.shapes[node.inputs[1]]
    if not edit.is_cut(node.inputs[1], 1):
        return
    kept = edit.kept(node.inputs[1], 1)
    before = _sizes(node, shape)
    ends = [sum(before[: i + 1]) for i in range(3)]
    after = [
        int(((kept >= end - size) & (kept < end)).sum())
        for size, end in zip(before, ends, strict=True)
    ]
    edit.set_attribute("qkv_hidden_sizes", after)
    if not node.attributes.get("scale", 0.0):
        edit.set_attribute(
            "scale", 1 / math.sqrt(before[0] // node.attributes["num_heads"])
        )


def _packed_macs(node: Node, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    """The projection, the scores, and the weighted values."""
    keys, values = _sizes(node, inputs[1])[1:]
    steps = inputs[0][1] + (inputs[4][3] if node.input(4) else 0)
    rows = math.prod(inputs[0][:2])
    return rows * math.prod(inputs[1]) + rows * (keys + values) * steps


register(
    "Attention",
    propagate=_propagate_packed,
    fix_up=_fix_up_packed,
    macs=_packed_macs,
    domain=MICROSOFT,
    info=OperatorInfo(roles=("", "weight", "bias"), is_layer=True),
)
register(
    "MultiHeadAttention",
    propagate=_propagate_multi_head,
    fix_up=fix_up_scale,
    macs=attention_macs,
    domain=MICROSOFT,
)
register(
    "GroupQueryAttention",
    propagate=_propagate_grouped_query,
    fix_up=fix_up_scale,
    macs=attention_macs,
    domain=MICROSOFT,
)

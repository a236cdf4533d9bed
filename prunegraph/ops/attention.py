"""Attention as one operator, and what belongs to it: heads and head sizes are factors of an axis."""

from __future__ import annotations

import math
from collections.abc import Sequence

from prunegraph.coupling.labels import Labels
from prunegraph.graph.model import Node
from prunegraph.ops.elementwise import broadcast
from prunegraph.ops.join import join_axis
from prunegraph.ops.pattern import by_pattern
from prunegraph.ops.rule import Edit, Shape, Site, register


class _Heads:
    """Factors of the query, key and value axes: `groups` of key heads, `repeats` of query heads on each."""

    def __init__(self, site: Site, query_heads: int, key_heads: int, size: int, value_size: int):
        if not key_heads or query_heads % key_heads:
            raise ValueError(f"{query_heads} query heads do not share {key_heads} key heads")
        self.site, self.repeats = site, query_heads // key_heads
        self.groups, self.size = site.space.fresh(key_heads), site.space.fresh(size)
        self.value_size = site.space.fresh(value_size)
        site.tag(self.groups, "heads")
        site.tag(self.size, "head_dim")
        site.tag(self.value_size, "head_dim")

    def merged(self, axis: Labels, query: bool, size: Labels | None = None) -> None:
        """Relate an axis that merges heads (and the head size) to its factors."""
        repeats = [self.site.stay(self.repeats, "query heads of one key head")] if query else []
        self.site.space.product(axis, [self.groups, *repeats, *([size] if size else [])], self.site.node.name)


def _spread_attention(site: Site) -> None:
    """Attention of opset 23: inputs with 3 axes merge heads, with 4 they have an axis of their own."""
    if any(site.has(slot) for slot in (4, 5, 6)) or any(site.node.outputs[1:]):
        raise ValueError("it has a cache of keys and values, or returns its scores")
    attributes = site.node.attributes
    q, k, v = (site.labels(slot) for slot in range(3))
    flat = len(q) == 3
    query_heads = attributes["q_num_heads"] if flat else q[1].size
    key_heads = attributes["kv_num_heads"] if flat else k[1].size
    sizes = [x[-1].size // n if flat else x[-1].size for x, n in ((q, query_heads), (v, key_heads))]
    heads = _Heads(site, query_heads, key_heads, *sizes)
    if site.has(3):
        for each in site.labels(3):
            site.pin(each, "mask of attention")
    if flat:
        for axis, query, size in ((q, True, heads.size), (k, False, heads.size), (v, False, heads.value_size)):
            heads.merged(axis[-1], query, size)
        made = site.space.fresh(query_heads * sizes[1])
        heads.merged(made, True, heads.value_size)
        site.follows("q_num_heads", heads.groups, heads.repeats)
        site.follows("kv_num_heads", heads.groups)
    else:
        for axis, query, size in ((q, True, heads.size), (k, False, heads.size), (v, False, heads.value_size)):
            heads.merged(axis[1], query)
            site.space.tie(axis[-1], size)
        made = heads.value_size
    for mine, other in ((q[0], k[0]), (k[0], v[0]), (k[-2], v[-2])):
        site.space.tie(mine, other)
    site.pin(k[-2], "normalised together by softmax")
    site.reduces(0, [len(q) - 1], "sum")
    site.give([*q[:-1], made])


def _repair_scale(edit: Edit) -> None:
    """The scale follows from the head size where it is not given; it keeps its value."""
    node = edit.node
    if node.attributes.get("scale", 0.0):
        return
    query = edit.facts.shapes[node.inputs[0]]
    heads = node.attributes.get("q_num_heads") or node.attributes.get("num_heads")
    size = query[-1] // heads if heads and len(query) == 3 else query[-1]
    if edit.is_cut(node.inputs[0], len(query) - 1):
        edit.set_attribute("scale", 1 / math.sqrt(size))


def _attention_macs(node: Node, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    """Scores and weighted values: every query meets every key, over both head sizes."""
    keys = inputs[1][-2]
    return (math.prod(inputs[0]) + math.prod(outputs[0])) * keys


def _spread_multi_head(site: Site) -> None:
    """com.microsoft.MultiHeadAttention with separate inputs of 3 axes; its bias is all three in a row."""
    if any(site.has(slot) for slot in range(4, len(site.node.inputs))) or any(site.node.outputs[1:]):
        raise ValueError("it has masks or a cache")
    if not (site.has(1) and site.has(2)) or any(len(site.shape(slot)) != 3 for slot in range(3)):
        raise ValueError("its inputs are packed")
    q, k, v = (site.labels(slot) for slot in range(3))
    count = site.node.attributes["num_heads"]
    heads = _Heads(site, count, count, q[-1].size // count, v[-1].size // count)
    for axis, size in ((q, heads.size), (k, heads.size), (v, heads.value_size)):
        heads.merged(axis[-1], False, size)
    if site.has(3):
        site.space.tie(join_axis([q[-1], k[-1], v[-1]]), site.labels(3)[0])
    made = site.space.fresh(v[-1].size)
    heads.merged(made, False, heads.value_size)
    site.follows("num_heads", heads.groups)
    for mine, other in ((q[0], k[0]), (k[0], v[0]), (k[1], v[1])):
        site.space.tie(mine, other)
    site.pin(k[1], "normalised together by softmax")
    site.reduces(0, [2], "sum")
    site.give([*q[:2], made])


def _spread_grouped_query(site: Site) -> None:
    """com.microsoft.GroupQueryAttention with separate inputs; its cache has key heads and head size as axes."""
    if not (site.has(1) and site.has(2)) or any(site.has(slot) for slot in range(10, len(site.node.inputs))):
        raise ValueError("its inputs are packed, or it has biases")
    attributes = site.node.attributes
    q, k, v = (site.labels(slot) for slot in range(3))
    query_heads, key_heads = attributes["num_heads"], attributes["kv_num_heads"]
    size = k[-1].size // key_heads
    heads = _Heads(site, query_heads, key_heads, size, v[-1].size // key_heads)
    for axis, query, part in ((q, True, heads.size), (k, False, heads.size), (v, False, heads.value_size)):
        heads.merged(axis[-1], query, part)
    made = site.space.fresh(query_heads * (v[-1].size // key_heads))
    heads.merged(made, True, heads.value_size)
    if attributes.get("do_rotary", 0):
        site.pin(heads.size, "rotated in pairs")
    # The operator takes one head size for keys and values.
    site.space.tie(heads.size, heads.value_size)
    site.follows("num_heads", heads.groups, heads.repeats)
    site.follows("kv_num_heads", heads.groups)
    for slot, part in ((3, heads.size), (4, heads.value_size)):
        if site.has(slot):
            _, groups, _, width = site.labels(slot)
            site.space.tie(groups, heads.groups)
            site.space.tie(width, part)
    for slot in range(5, len(site.node.inputs)):
        if site.has(slot):
            for each in site.labels(slot):
                site.pin(each, "positions")
    for mine, other in ((q[0], k[0]), (k[0], v[0]), (k[1], v[1])):
        site.space.tie(mine, other)
    site.pin(k[1], "normalised together by softmax")
    site.reduces(0, [2], "sum")
    site.give([*q[:2], made])
    for slot, part in ((1, heads.size), (2, heads.value_size)):
        if slot < len(site.node.outputs) and site.node.outputs[slot]:
            batch, _, length, _ = site.out_shape(slot)
            site.give([site.stay(batch, "batch"), heads.groups, site.stay(length, "positions"), part], slot)


def _spread_rotary(site: Site) -> None:
    """Pairs of a head are rotated together: halves of the head size, or neighbours."""
    attributes = site.node.attributes
    if attributes.get("rotary_embedding_dim", 0):
        raise ValueError("it rotates a part of each head")
    contrib = bool(site.node.domain)
    pair = "e 2" if attributes.get("interleaved", 0) else "2 e"
    flat = len(site.shape(0)) == 3
    size = f"b s (h {pair})" if flat else f"b h s ({pair})"
    table = "*p e"
    others = f"*p?, {table}, {table}" if contrib else f"{table}, {table}, *p?"
    text = f"{size}, {others} -> {size}"
    bound = {"num_heads": "h"} if flat else {}
    by_pattern(text, stays="positions", pinned="bs", attributes=bound)(site)


def _spread_skip_norm(site: Site) -> None:
    """Sum of data, skip and bias, normalised over the last axis; the sum may be an output too."""
    slots = [slot for slot in range(len(site.node.inputs)) if site.has(slot)]
    slots.sort(key=site.is_weight)
    labels = broadcast(site, [(site.labels(slot), site.shape(slot)) for slot in slots])
    site.reduces(0, [len(labels) - 1], "norm")
    for slot, output in enumerate(site.node.outputs):
        if output:
            whole = site.out_shape(slot) == site.shape(0)
            site.give(labels if whole else [*labels[:-1], site.stay(1, "statistics axis")], slot)


register("Attention", spread=_spread_attention, repair=_repair_scale, macs=_attention_macs)
register(
    "MultiHeadAttention", spread=_spread_multi_head, repair=_repair_scale, macs=_attention_macs, domain="com.microsoft"
)
register(
    "GroupQueryAttention",
    spread=_spread_grouped_query,
    repair=_repair_scale,
    macs=_attention_macs,
    domain="com.microsoft",
)
register("RotaryEmbedding", spread=_spread_rotary)
register("RotaryEmbedding", spread=_spread_rotary, domain="com.microsoft")
register("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", spread=_spread_skip_norm, domain="com.microsoft")

"""Attention as one operator, and what belongs to it: heads and head sizes are factors of an axis."""

from __future__ import annotations

import math
from collections.abc import Sequence

from prunegraph.graph.model import Node
from prunegraph.labels.labels import Labels
from prunegraph.operators import OperatorInfo
from prunegraph.ops.pattern import by_pattern
from prunegraph.ops.rule import Edit, Shape, Site, register


class Heads:
    """Factors of the query, key and value axes: `groups` of key heads, `repeats` of query heads on each.

    `blocks` is the unit in which the operator takes head sizes.
    """

    def __init__(
        self,
        site: Site,
        query_heads: int,
        key_heads: int,
        size: int,
        value_size: int,
        blocks: int = 1,
    ):
        if not key_heads or query_heads % key_heads:
            raise ValueError(
                f"{query_heads} query heads do not share {key_heads} key heads"
            )
        self.site, self.key_heads, self.repeats = site, key_heads, query_heads // key_heads
        self.groups = site.space.fresh(key_heads)
        self.size, self.value_size = (
            self._in_blocks(size, blocks),
            self._in_blocks(value_size, blocks),
        )
        site.tag(self.groups, "heads")
        site.tag(self.size, "head_dim")
        site.tag(self.value_size, "head_dim")

    def _in_blocks(self, size: int, blocks: int) -> Labels:
        whole = self.site.space.fresh(size)
        if blocks > 1:
            parts = [
                self.site.space.fresh(size // blocks),
                self.site.pinned_axis(blocks, f"head sizes go in blocks of {blocks}"),
            ]
            self.site.space.product(whole, parts, self.site.node.name)
        return whole

    def merged(self, axis: Labels, query: bool, size: Labels | None = None) -> Labels:
        """Relate an axis that merges heads (and the head size) to its factors."""
        repeats = (
            [self.site.pinned_axis(self.repeats, "query heads of one key head")]
            if query
            else []
        )
        self.site.space.product(
            axis, [self.groups, *repeats, *([size] if size else [])], self.site.node.name
        )
        return axis

    def fresh(self, query: bool, size: Labels | None = None) -> Labels:
        """A new axis that merges heads (and the head size)."""
        repeats = self.repeats if query else 1
        return self.merged(
            self.site.space.fresh(self.key_heads * repeats * (size.size if size else 1)),
            query,
            size,
        )

    def same_batch(self, *axes: Labels) -> None:
        """Axes over samples, one of which is the query's."""
        for other in axes[1:]:
            if other.size == axes[0].size:
                self.site.space.tie(axes[0], other)
            else:
                self.site.pin(other, "one sample for all")

    def bias(self, slot: int, batch: Labels) -> None:
        """Say what is added to the scores (or masks them): `[batch, heads, queries, keys]`, axes of size 1 stretch."""
        names = (None, None, "heads", "samples")
        for name, each in zip(names, reversed(self.site.labels(slot)), strict=False):
            if each.size == 1 or name is None:
                self.site.pin(each, "mask of attention")
            elif name == "heads":
                self.merged(each, True)
            else:
                self.same_batch(batch, each)

    def cache(self, slots: Sequence[int], batch: Labels) -> None:
        """Keys and values of earlier steps: `[batch, key heads, steps, head size]`."""
        for slot, size in zip(slots, (self.size, self.value_size), strict=True):
            if self.site.has(slot):
                samples, groups, steps, width = self.site.labels(slot)
                self.same_batch(batch, samples)
                self.site.space.tie(groups, self.groups)
                self.site.space.tie(width, size)
                self.site.pin(steps, "steps of a cache")

    def set_output(self, batch: Labels, queries: Labels) -> None:
        """The further outputs: keys and values with those of earlier steps, and the scores."""
        node, site = self.site.node, self.site
        given = [slot for slot, output in enumerate(node.outputs) if output and slot]
        for slot in given:
            length = site.pinned_axis(
                site.out_shape(slot)[-1 if slot == 3 else -2], "steps of a cache"
            )
            if slot == 3:
                site.set_output([batch, self.fresh(True), queries, length], slot)
            else:
                site.set_output(
                    [
                        batch,
                        self.groups,
                        length,
                        self.size if slot == 1 else self.value_size,
                    ],
                    slot,
                )


def _propagate_attention(site: Site) -> None:
    """Attention of opset 23: inputs with 3 axes merge heads, with 4 they have an axis of their own."""
    attributes = site.node.attributes
    q, k, v = (site.labels(slot) for slot in range(3))
    flat = len(q) == 3
    query_heads = attributes["q_num_heads"] if flat else q[1].size
    key_heads = attributes["kv_num_heads"] if flat else k[1].size
    sizes = [
        x[-1].size // n if flat else x[-1].size
        for x, n in ((q, query_heads), (v, key_heads))
    ]
    heads = Heads(site, query_heads, key_heads, *sizes)
    parts = ((q, True, heads.size), (k, False, heads.size), (v, False, heads.value_size))
    for axes, query, size in parts:
        if flat:
            heads.merged(axes[-1], query, size)
        else:
            heads.merged(axes[1], query)
            site.space.tie(axes[-1], size)
    if flat:
        site.bind_attribute("q_num_heads", heads.groups, heads.repeats)
        site.bind_attribute("kv_num_heads", heads.groups)
    if site.has(3):
        heads.bias(3, q[0])
    heads.cache((4, 5), q[0])
    if site.has(6):
        for each in (*site.labels(6), q[0]):
            site.pin(each, "lengths of samples")
    windows = max(attributes.get(f"{side}_window_size", -1) for side in ("left", "right"))
    if (
        attributes.get("is_causal", 0)
        or windows >= 0
        or any(site.has(slot) for slot in (3, 4, 6))
    ):
        site.pin(q[-2], "position decides what is attended to")
    tie_sequences(site, q[0], (k[0], v[0]), (k[-2], v[-2]))
    site.reduces(0, [len(q) - 1], "sum")
    site.set_output(
        [*q[:-1], heads.fresh(True, heads.value_size) if flat else heads.value_size]
    )
    heads.set_output(q[0], q[-2])


def tie_sequences(
    site: Site, batch: Labels, others: Sequence[Labels], steps: Sequence[Labels]
) -> None:
    """One sample, and one step of keys and values, is the same in all of them."""
    for other in others:
        site.space.tie(batch, other)
    for other in steps[1:]:
        site.space.tie(steps[0], other)
    for each in steps[:1]:
        site.pin(each, "normalised together by softmax")


def fix_up_scale(edit: Edit) -> None:
    """The scale follows from the head size where it is not given; it keeps its value."""
    node = edit.node
    if node.attributes.get("scale", 0.0):
        return
    query = edit.shape_info.shapes[node.inputs[0]]
    if edit.is_cut(node.inputs[0], len(query) - 1):
        edit.set_attribute("scale", 1 / math.sqrt(head_size(node, query)))


def head_size(node: Node, query: Shape) -> int:
    """The head size of an attention with that shape of its query (and of keys and values, where those are missing)."""
    heads = node.attributes.get("q_num_heads") or node.attributes.get("num_heads")
    if not heads or len(query) != 3:
        return query[-1]
    return query[-1] // (
        heads if node.input(1) else heads + 2 * node.attributes["kv_num_heads"]
    )


#: Input slot of the cached keys.
CACHES = {"Attention": 4, "MultiHeadAttention": 6, "GroupQueryAttention": 3}


def attention_macs(node: Node, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    """Scores and weighted values: every query meets every key, over both head sizes."""
    keys = inputs[1][-2] if node.input(1) else inputs[0][1]
    if node.input(CACHES[node.op]):
        keys += inputs[CACHES[node.op]][2]
    query = math.prod(inputs[0]) if node.input(1) else math.prod(outputs[0])
    return (query + math.prod(outputs[0])) * keys


def _propagate_rotary(site: Site) -> None:
    """Pairs of a head are rotated together: halves of the head size, or neighbours."""
    attributes = site.node.attributes
    contrib, flat = bool(site.node.domain), len(site.shape(0)) == 3
    pair = "e 2" if attributes.get("interleaved", 0) else "2 e"
    if attributes.get("rotary_embedding_dim", 0):
        pair = "r"  # a part of each head is rotated: head sizes stay
    size = f"b s (h {pair})" if flat else f"b h s ({pair})"
    table = "*p" if pair == "r" else "*p e"
    others = f"*p?, {table}, {table}" if contrib else f"{table}, {table}, *p?"
    bound = {"num_heads": "h"} if flat and _heads_given(site) else {}
    by_pattern(
        f"{size}, {others} -> {size}", stays="positions", pinned="bsr", attributes=bound
    )(site)


def _heads_given(site: Site) -> bool:
    return bool(site.node.attributes.get("num_heads", 0))


register(
    "Attention",
    propagate=_propagate_attention,
    fix_up=fix_up_scale,
    macs=attention_macs,
    info=OperatorInfo(roles=("", "weight", "bias")),
)
register(
    "RotaryEmbedding", propagate=_propagate_rotary, info=OperatorInfo(shape="function")
)
register("RotaryEmbedding", propagate=_propagate_rotary, domain="com.microsoft")

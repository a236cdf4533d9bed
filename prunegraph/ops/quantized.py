"""Quantize and dequantize nodes: data passes, scales follow their axis."""

from __future__ import annotations

from prunegraph.ops.rule import Site, register


def _spread_qdq(site: Site) -> None:
    labels = site.labels(0)
    axis = site.node.attributes.get("axis", 1)
    for slot in (1, 2):
        if not site.has(slot) or not site.shape(slot) or site.shape(slot) == (1,):
            continue
        if site.node.attributes.get("block_size", 0):
            _tie_blocks(site, slot)
        else:
            site.space.tie(labels[axis % len(labels)], site.labels(slot)[0])
    site.give(labels)


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


register("QuantizeLinear", "DequantizeLinear", spread=_spread_qdq)

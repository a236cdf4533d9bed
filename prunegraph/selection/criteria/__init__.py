"""Criteria: one small function each, `(group, context) -> scores`, higher = keep."""

from prunegraph.selection.criteria import (
    apoz,
    bn_scale,
    chip,
    existing_se,
    fisher,
    fpgm,
    gfr,
    hrank,
    lamp,
    magnitude,
    obs,
    random,
    taylor,
    thinet,
    wanda,
    weight_stats,
)  # fmt: skip
from prunegraph.selection.criteria.base import CRITERIA, Context, Criterion, Gradients, criterion

__all__ = [
    "CRITERIA", "Context", "Criterion", "Gradients", "apoz", "bn_scale", "chip", "criterion", "existing_se", "fisher",
    "fpgm", "gfr", "hrank", "lamp", "magnitude", "obs", "random", "taylor", "thinet", "wanda", "weight_stats",
]  # fmt: skip

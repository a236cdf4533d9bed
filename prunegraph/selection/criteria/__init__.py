"""Criteria: one small function each, `(group, context) -> scores`, higher = keep."""

from prunegraph.selection.criteria import bn_scale, magnitude, obs, random
from prunegraph.selection.criteria.base import CRITERIA, Context, Criterion, criterion

__all__ = ["CRITERIA", "Context", "Criterion", "bn_scale", "criterion", "magnitude", "obs", "random"]

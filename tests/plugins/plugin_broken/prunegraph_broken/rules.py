"""A rule for an operator that has one."""

from prunegraph.ops.elementwise import spread_unary
from prunegraph.ops.rule import register

register("Relu", spread=spread_unary)

"""A rule for an operator that has one."""

from prunegraph.ops.elementwise import propagate_unary
from prunegraph.ops.rule import register

register("Relu", propagate=propagate_unary)

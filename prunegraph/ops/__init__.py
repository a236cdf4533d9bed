"""One file per operator family; each operator is one rule. See `ops.rule`.

Importing this package registers every rule.
"""

from prunegraph.ops import conv, elementwise, join, matmul, movement, norm, pool, quantized, reduce
from prunegraph.ops.rule import rule_for

__all__ = ["conv", "elementwise", "join", "matmul", "movement", "norm", "pool", "quantized", "reduce", "rule_for"]

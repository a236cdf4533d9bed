"""One file per operator family; each operator is one rule. See `ops.rule`.

Importing this package registers every rule.
"""

from prunegraph.ops import (
    attention,
    attention_fused,
    barriers,
    control,
    conv,
    elementwise,
    fused,
    indexing,
    join,
    matmul,
    moe,
    movement,
    norm,
    pool,
    quantized,
    recurrent,
    reduce,
)
from prunegraph.ops.rule import rule_for

__all__ = [
    "attention",
    "attention_fused",
    "barriers",
    "control",
    "conv",
    "elementwise",
    "fused",
    "indexing",
    "join",
    "matmul",
    "moe",
    "movement",
    "norm",
    "pool",
    "quantized",
    "recurrent",
    "reduce",
    "rule_for",
]

"""Converters of MXNet's operators, a family a module. Importing this package registers them."""

from prunegraph.frontends.mxnet.operators import (
    arithmetic,
    attention,
    constants,
    deformable,
    indexing,
    layers,
    norm,
    outputs,
    pool,
    recurrent,
    reduce,
    resize,
    shape,
    slicing,
    special,
    suppress,
    vision,
)
from prunegraph.frontends.mxnet.operators.base import OPERATORS, Call, label

__all__ = [
    "OPERATORS", "Call", "arithmetic", "attention", "constants", "deformable", "indexing", "label", "layers", "norm",
    "outputs",
    "pool", "recurrent", "reduce", "resize", "shape", "slicing", "special", "suppress", "vision",
]  # fmt: skip

"""Converters of MXNet's operators, a family a module. Importing this package registers them."""

from prunegraph.frontends.mxnet.operators import (
    arithmetic,
    attention,
    constants,
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
    suppress,
    vision,
)
from prunegraph.frontends.mxnet.operators.base import OPERATORS, Call, label

__all__ = [
    "OPERATORS", "Call", "arithmetic", "attention", "constants", "indexing", "label", "layers", "norm", "outputs",
    "pool", "recurrent", "reduce", "resize", "shape", "slicing", "suppress", "vision",
]  # fmt: skip

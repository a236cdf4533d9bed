"""Operators as functions on torch tensors: `table` holds them, one file a family fills it."""

from __future__ import annotations

from prunegraph.training.operators import (  # noqa: F401  (each registers its operators)
    attention,
    contrib,
    elementwise,
    indexing,
    layers,
    movement,
    norm,
    pool,
    quantized,
    recurrent,
    reduce,
    resize,
    sequence,
)

"""Operators that treat every element by itself, with broadcasting."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from prunegraph.labels.labels import Labels
from prunegraph.operators import OperatorInfo, describe
from prunegraph.ops.rule import Shape, Site, register


def broadcast(
    site: Site, operands: Sequence[tuple[Sequence[Labels], Shape]]
) -> list[Labels]:
    """Labels of operands broadcast together: axes align from the right, size 1 stretches."""
    rank = max([len(shape) for _, shape in operands], default=0)
    result: list[Labels] = []
    for back in range(1, rank + 1):
        here = [
            (labels, shape, len(shape) - back)
            for labels, shape in operands
            if len(shape) >= back
        ]
        wide = [labels[axis] for labels, shape, axis in here if shape[axis] != 1]
        for other in wide[1:]:
            site.space.tie(wide[0], other)
        labels, _, axis = here[0]
        result.append(wide[0] if wide else labels[axis])
    return result[::-1]


def propagate_nary(site: Site) -> None:
    """Operands broadcast together."""
    slots = [slot for slot in range(len(site.node.inputs)) if site.has(slot)]
    # Data first, so that a fresh weight axis follows the data and not the other way round.
    slots.sort(key=site.is_weight)
    site.set_output(
        broadcast(site, [(site.labels(slot), site.shape(slot)) for slot in slots])
    )


def propagate_unary(site: Site) -> None:
    """Labels pass; further inputs are scalars (bounds of a Clip, ratio of a Dropout)."""
    labels = site.labels(0)
    for slot, output in enumerate(site.node.outputs):
        if output and len(site.out_shape(slot)) == len(labels):
            site.set_output(labels, slot)


def _propagate_cast_like(site: Site) -> None:
    """The second input gives its type only."""
    site.labels(1)
    propagate_unary(site)


def _propagate_dropout(site: Site) -> None:
    """Labels pass, unless something is dropped: which elements is drawn by their places, and a cut moves these."""
    training = site.constant(2) if site.node.input(2) else np.asarray(False)
    ratio = site.constant(1) if site.node.input(1) else None
    if (training is None or training.any()) and (ratio is None or ratio.any()):
        for labels in site.labels(0):
            site.pin(labels, "elements are dropped at random")
    propagate_unary(site)


register(
    "Relu",
    "LeakyRelu",
    "ThresholdedRelu",
    "Elu",
    "Selu",
    "Celu",
    "Sigmoid",
    "HardSigmoid",
    "HardSwish",
    "Swish",
    "Tanh",
    "Erf",
    "Gelu",
    "Mish",
    "Softplus",
    "Softsign",
    "Exp",
    "Log",
    "Sqrt",
    "Abs",
    "Neg",
    "Reciprocal",
    "Floor",
    "Ceil",
    "Round",
    "Sign",
    "Sin",
    "Cos",
    "Tan",
    "Asin",
    "Acos",
    "Atan",
    "Sinh",
    "Cosh",
    "Asinh",
    "Acosh",
    "Atanh",
    "Not",
    "BitwiseNot",
    "IsNaN",
    "IsInf",
    "Clip",
    "Shrink",
    "Identity",
    "Cast",
    propagate=propagate_unary,
    blocks="apart",
)
register(
    "Dropout",
    propagate=_propagate_dropout,
    blocks="apart",
    info=OperatorInfo(
        kind="dropout",
        passes=("levels", "normals", "scores"),
        quantized="moves",
        numbers=(1, 2),
        mixes="alike",
    ),
)
register("CastLike", propagate=_propagate_cast_like, info=OperatorInfo(unread=(1,)))
register(
    "Add",
    "Sub",
    "Mul",
    "Div",
    "Pow",
    "Mod",
    "Min",
    "Max",
    "Sum",
    "Mean",
    "Equal",
    "Less",
    "LessOrEqual",
    "Greater",
    "GreaterOrEqual",
    "And",
    "Or",
    "Xor",
    "BitShift",
    "BitwiseAnd",
    "BitwiseOr",
    "BitwiseXor",
    "Where",
    "PRelu",
    "SwiGLU",
    propagate=propagate_nary,
    blocks="apart",
)

describe(
    OperatorInfo(shape="input"),
    "Abs",
    "Ceil",
    "Cos",
    "Elu",
    "Erf",
    "Exp",
    "Floor",
    "Gelu",
    "Log",
    "Reciprocal",
    "Round",
    "Sin",
    "Softplus",
    "Sqrt",
)
describe(OperatorInfo(shape="input", mixes="alike"), "Neg")
describe(
    OperatorInfo(
        kind="addition",
        passes=("scores",),
        quantized="computes",
        shape="broadcast",
        adds=True,
        mixes="sum",
    ),
    "Add",
)
describe(
    OperatorInfo(kind="cast", moves="all", passes=("weights", "scores"), mixes="alike"),
    "Cast",
)
describe(
    OperatorInfo(passes=("integers",), shape="input", is_bounded=True), "Clip", "HardSwish"
)
describe(OperatorInfo(passes=("scores",), shape="broadcast", mixes="quotient"), "Div")
describe(OperatorInfo(shape="input", is_flat=True, is_bounded=True), "HardSigmoid")
describe(
    OperatorInfo(
        kind="identity",
        moves="all",
        passes=("weights", "codes", "levels", "normals", "samples", "scores"),
        quantized="moves",
        shape="input",
        mixes="alike",
    ),
    "Identity",
)
describe(
    OperatorInfo(passes=("integers",), quantized="computes", shape="input"), "LeakyRelu"
)
describe(OperatorInfo(adds=True, mixes="sum"), "Mean", "Sum")
describe(
    OperatorInfo(
        kind="multiplication",
        passes=("scores",),
        quantized="computes",
        shape="broadcast",
        mixes="product",
    ),
    "Mul",
)
describe(OperatorInfo(roles=("", "slope"), passes=("integers",)), "PRelu")
describe(OperatorInfo(shape="broadcast", mixes="power"), "Pow")
describe(
    OperatorInfo(passes=("codes", "integers"), shape="input", bounds=(0.0, math.inf)),
    "Relu",
)
describe(
    OperatorInfo(quantized="computes", shape="input", is_flat=True, is_bounded=True),
    "Sigmoid",
)
describe(OperatorInfo(passes=("scores",), shape="broadcast", adds=True, mixes="sum"), "Sub")
describe(OperatorInfo(shape="input", is_bounded=True), "Tanh")
describe(OperatorInfo(moves="joins"), "Where")

"""The gamma function and its logarithm, of which ONNX has neither."""

from __future__ import annotations

import math

import numpy as np

from prunegraph.frontends.mxnet.builder import Value
from prunegraph.frontends.mxnet.operators.base import SymbolCall, operator

#: Lanczos' approximation with g = 7: nine terms, good to 15 digits (Godfrey's coefficients).
_G = 7
_TERMS = (
    0.99999999999980993,
    676.5203681218851,
    -1259.1392167224028,
    771.32342877765313,
    -176.61502916214059,
    12.507343278686905,
    -0.13857109526572012,
    9.9843695780195716e-6,
    1.5056327351493116e-7,
)


def _log_gamma(call: SymbolCall, x: Value) -> Value:
    """log(gamma(x)) for x >= 0.5, in float64."""
    build = call.builder
    below = build.emit("Sub", x, build.number(1.0, x))
    total = build.number(_TERMS[0], x)
    for k, term in enumerate(_TERMS[1:], 1):
        total = build.emit(
            "Add",
            total,
            build.emit(
                "Div", build.number(term, x), build.emit("Add", below, build.number(k, x))
            ),
        )
    base = build.emit("Add", below, build.number(_G + 0.5, x))
    power = build.emit(
        "Mul", build.emit("Add", below, build.number(0.5, x)), build.emit("Log", base)
    )
    result = build.emit("Add", build.emit("Sub", power, base), build.emit("Log", total))
    return build.emit("Add", result, build.number(0.5 * math.log(2 * math.pi), x))


@operator("gamma", "gammaln")
def gamma(call: SymbolCall) -> Value:
    """Below 0.5 by reflection: gamma(x) gamma(1 - x) = pi / sin(pi x)."""
    build = call.builder
    x = build.cast(call.x, np.float64)
    pruned = build.emit("Less", x, build.number(0.5, x))
    mirrored = build.emit("Where", pruned, build.emit("Sub", build.number(1.0, x), x), x)
    log = _log_gamma(call, mirrored)
    sine = build.emit("Sin", build.emit("Mul", build.number(math.pi, x), x))
    if call.node.op == "gamma":
        value = build.emit("Exp", log)
        other = build.emit("Div", build.number(math.pi, x), build.emit("Mul", sine, value))
    else:
        value = log
        other = build.emit(
            "Sub",
            build.number(math.log(math.pi), x),
            build.emit("Log", build.emit("Abs", sine)),
        )
        other = build.emit("Sub", other, log)
    return build.cast(build.emit("Where", pruned, other, value), call.x.dtype)

"""Products of 8-bit codes that leave 16 bits: which processors that happens on, and weights for which it cannot happen.

Processors without VNNI (AVX2, AVX-512 before it) multiply uint8 activations with int8 weights and add two
products in 16 bits, with saturation: 255 * 127 * 2 is more than 32,767 (`vpmaddubsw`, of which ONNX Runtime makes its
kernels there). Which two meet depends on the kernel. Codes of which no two of one output and one sign sum
to more than 128 are exact in each of them: 255 * 128 is 32,640.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import onnx
from onnx import helper, numpy_helper

from prunegraph.errors import UnknownNameError
from prunegraph.graph.onnx_io import from_model
from prunegraph.quantization.scheme import NATIVE, REDUCED, TYPES, IntType, Scheme
from prunegraph.runtime.session import run, session

Array = np.ndarray

#: What `reduce_range` may be.
CHOICES = ("auto", "yes", "no")

#: Rows, inputs and outputs of the product that is tried.
ROWS, INPUTS, OUTPUTS = 4, 16, 16


@dataclass(frozen=True)
class WeightRange:
    """The codes that int8 weights may have, and why.

    Args:
        limit: the largest magnitude: 64 where one of the bits is given up, else 127.
        reason: why, in a sentence.
        saturates: whether products of 8-bit codes saturate on this processor.
    """

    limit: int
    reason: str
    saturates: bool


@cache
def processor_saturates() -> bool:
    """Try whether ONNX Runtime's product of uint8 and int8 saturates on this processor, once a process."""
    x, w = np.full((ROWS, INPUTS), 255, np.uint8), np.full((INPUTS, OUTPUTS), 127, np.int8)
    declared = helper.make_tensor_value_info("x", onnx.TensorProto.UINT8, x.shape)
    result = helper.make_tensor_value_info("y", onnx.TensorProto.INT32, (ROWS, OUTPUTS))
    node = helper.make_node("MatMulInteger", ["x", "w"], ["y"])
    graph = helper.make_graph(
        [node], "probe", [declared], [result], [numpy_helper.from_array(w, "w")]
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8
    )
    product = run(session(from_model(model), name="probe", threads=1), {"x": x})[0]
    return bool(np.any(product != INPUTS * 255 * 127))


def reduction(asked: str | bool, target: str) -> bool | None:
    """Tell whether to reduce the range of weights: True, False, or None for the target's own rule.

    Raises:
        UnknownNameError: `asked` is neither a boolean nor one of `CHOICES`.
    """
    if isinstance(asked, bool):
        return asked
    if asked not in CHOICES:
        raise UnknownNameError("choice of reduce_range", asked, CHOICES)
    if asked == "auto":
        return processor_saturates() if target == NATIVE else None
    return asked == "yes"


def weight_range(scheme: Scheme, asked: str | bool, target: str) -> WeightRange | None:
    """The range of weights that a scheme has, and why; None where no 8-bit codes are multiplied."""
    if not scheme.multiplies_bytes:
        return None
    saturates = processor_saturates()
    return WeightRange(
        scheme.weight_limit, _reason(scheme, asked == "auto", target, saturates), saturates
    )


def _reason(scheme: Scheme, is_auto: bool, target: str, saturates: bool) -> str:
    if scheme.reduce_range and not is_auto:
        return "asked for"
    if target == NATIVE and is_auto:
        return f"products of all 8 bits {'saturate' if saturates else 'do not saturate'} on this processor"
    if scheme.reduce_range:
        here = "as here" if saturates else "not here: --target native uses them"
        return f"right on every processor; products of all 8 bits saturate without VNNI ({here})"
    if not scheme.target.saturates:
        return f"products of all 8 bits do not saturate on target {target}"
    return f"asked for; products of all 8 bits saturate without VNNI ({'as here' if saturates else 'not here'})"


def held_type(codes: Array, axis: int, scheme: Scheme) -> IntType:
    """The type that holds a weight's codes [..., outputs along `axis`, ...] where no product may saturate.

    That is the scheme's; but uint8 with zero point 128 for codes of scales from outside that need all 8
    bits: products of uint8 with uint8 are added in 32 bits everywhere, in about twice the time where there is VNNI.
    """
    if not (scheme.reduce_range and scheme.multiplies_bytes and can_saturate(codes, axis)):
        return scheme.weights
    return TYPES["uint8"]


def can_saturate(codes: Array, axis: int) -> bool:
    """Tell whether two codes of one output and one sign sum to more than twice `REDUCED`."""
    if not codes.size:
        return False
    rows = np.moveaxis(codes, axis, 0).reshape(codes.shape[axis], -1)
    largest = np.sort(rows, axis=1)
    ends = [np.maximum(largest[:, -2:], 0), np.maximum(-largest[:, :2], 0)]
    return bool(max(end.sum(axis=1).max() for end in ends) > 2 * REDUCED)

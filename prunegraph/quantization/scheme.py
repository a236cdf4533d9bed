"""Integer types, scales and zero points, and what execution providers take.

A real value is `r = scale * (q - zero_point)`; zero is always represented exactly. Source: ALGORITHMS 1.5 (Jacob et
al. 2018).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx

from prunegraph.errors import OptionError, UnknownNameError

Array = np.ndarray

#: Smaller scales are raised to this: the product of two must be a normal 32-bit float.
MIN_SCALE = 1e-18

#: Two products of a uint8 code and a weight's code up to this fit into 16 bits: 255 * 64 * 2 is 32,640.
REDUCED = 64


@dataclass(frozen=True)
class IntType:
    """An integer type by its name in ONNX, with the operator set that brought it to (De)QuantizeLinear."""

    name: str
    bits: int
    signed: bool
    opset: int

    @property
    def lowest(self) -> int:
        return -(2 ** (self.bits - 1)) if self.signed else 0

    @property
    def highest(self) -> int:
        return self.lowest + 2**self.bits - 1

    @property
    def onnx_type(self) -> int:
        return int(getattr(onnx.TensorProto, self.name.upper()))

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(self.onnx_type))


TYPES = {
    each.name: each
    for each in (
        IntType("int4", 4, True, 21),
        IntType("int8", 8, True, 10),
        IntType("uint8", 8, False, 10),
        IntType("int16", 16, True, 21),
        IntType("uint16", 16, False, 21),
    )
}

#: The type of biases, whose scale follows from those of the input and the weight.
BIAS = IntType("int32", 32, True, 10)


@dataclass(frozen=True)
class Target:
    """What an execution provider accepts.

    Args:
        activations: types of activations, the default first.
        weights: types of weights, the default first.
        symmetric: whether zero points of activations must be 0.
        integer_bias: whether biases are int32; else they stay in float.
        around: whether operators between layers are quantized too, and outputs of layers; else only what layers read.
        saturates: whether some of its processors add products of 8-bit codes in 16 bits.
    """

    activations: tuple[str, ...]
    weights: tuple[str, ...]
    symmetric: bool = False
    integer_bias: bool = True
    around: bool = True
    saturates: bool = False


#: ONNX Runtime on any processor.
_CPU = Target(
    ("uint8", "int8", "uint16", "none"), ("int8", "int4", "int16"), saturates=True
)

#: The target that is the processor prunegraph runs on.
NATIVE = "native"

#: "cpu", "native" and "openvino" are run by tests; the others follow the documentation of the providers.
TARGETS = {
    "cpu": _CPU,
    NATIVE: _CPU,
    "tensorrt": Target(
        ("int8", "none"), ("int8", "int4"), symmetric=True, integer_bias=False, around=False
    ),
    "openvino": Target(
        ("uint8", "int8", "none"), ("int8", "int4"), integer_bias=False, saturates=True
    ),
    "qnn": Target(("uint8", "uint16", "none"), ("int8",)),
}


@dataclass(frozen=True)
class Scheme:
    """What becomes integers, and of which type. `activations` is None where weights alone are quantized.

    `block` is how many inputs of an output share a scale of 4-bit weights; `reduce_range` leaves one bit of 8-bit
    weights unused, so that their products do not saturate on processors that add them in 16 bits.
    """

    weights: IntType
    activations: IntType | None
    target: Target
    block: int = 32
    reduce_range: bool = False

    @property
    def integer_bias(self) -> bool:
        """Tell whether biases are int32: where the target takes that, and adds them in integers."""
        if (
            self.activations is None
            or not self.target.integer_bias
            or self.weights.bits != 8
        ):
            return False
        return self.activations.bits == 8 or "uint16" in self.target.activations[:2]

    @property
    def weight_limit(self) -> int:
        """The largest magnitude of a weight's code: symmetric, so the lowest code is not used."""
        return (
            REDUCED
            if self.reduce_range and self.weights.bits == 8
            else self.weights.highest
        )

    @property
    def multiplies_bytes(self) -> bool:
        """Tell whether layers multiply 8-bit codes with 8-bit codes."""
        return (
            self.weights.bits == 8
            and self.activations is not None
            and self.activations.bits == 8
        )


def scheme(
    weights: str | None = None,
    activations: str | None = None,
    target: str = "cpu",
    *,
    block: int = 32,
    reduce_range: bool | None = None,
) -> Scheme:
    """A scheme by names; None takes the target's default.

    By default the range of weights is reduced where the target has processors that need it.

    Raises:
        UnknownNameError: no such type or target.
        OptionError: the target does not take that type, or the block is no positive number.
    """
    if target not in TARGETS:
        raise UnknownNameError("target", target, TARGETS)
    accepts = TARGETS[target]
    chosen = {}
    for what, given, known in (
        ("weights", weights, accepts.weights),
        ("activations", activations, accepts.activations),
    ):
        name = given or known[0]
        if name != "none" and name not in TYPES:
            raise UnknownNameError(f"type of {what}", name, known)
        if name not in known:
            raise OptionError(
                f"target {target!r} does not take {what} of type {name}; it takes {', '.join(known)}"
            )
        chosen[what] = TYPES.get(name)
    if block < 1:
        raise OptionError(f"block must be at least 1, got {block}")
    kind = chosen["weights"]
    assert kind is not None  # "none" is in no target's list
    whole = Scheme(kind, chosen["activations"], accepts, block)
    reduced = (
        accepts.saturates and whole.multiplies_bytes
        if reduce_range is None
        else reduce_range
    )
    return replace(whole, reduce_range=reduced)


@dataclass(frozen=True)
class Params:
    """Scale (positive) and zero point (within the type) of a tensor."""

    scale: float
    zero_point: int
    type: IntType

    @property
    def low(self) -> float:
        """The lowest value that has a code."""
        return self.scale * (self.type.lowest - self.zero_point)

    @property
    def high(self) -> float:
        """The highest value that has a code."""
        return self.scale * (self.type.highest - self.zero_point)

    def codes(self, x: Array) -> Array:
        """Codes of values, as QuantizeLinear gives them: rounded half to even, saturated."""
        scaled = (
            np.rint(np.asarray(x, np.float32) / np.float32(self.scale)) + self.zero_point
        )
        return np.clip(scaled, self.type.lowest, self.type.highest).astype(np.int64)

    def values(self, codes: Array) -> Array:
        """Values of codes."""
        return (
            (np.asarray(codes, np.int64) - self.zero_point) * np.float32(self.scale)
        ).astype(np.float32)


def params_of(low: float, high: float, kind: IntType, *, symmetric: bool = False) -> Params:
    """Scale and zero point for a range, which is widened to hold zero. A range of no width gets scale 1."""
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    if symmetric:
        middle = 0 if kind.signed else kind.highest // 2 + 1
        scale = max(-low, high) / (kind.highest - middle)
        return Params(_usable(scale), middle, kind)
    scale = _usable((high - low) / (kind.highest - kind.lowest))
    zero = int(np.clip(np.rint(kind.lowest - low / scale), kind.lowest, kind.highest))
    return Params(scale, zero, kind)


def _usable(scale: float) -> float:
    """A scale as 32-bit floats hold it, never zero."""
    return float(np.float32(max(scale, MIN_SCALE))) if scale > 0 else 1.0

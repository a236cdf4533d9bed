"""Operators that act on each element by itself."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as nnf

from prunegraph.training.operators.table import (
    DTYPES,
    STORED_ONLY,
    Call,
    Tensor,
    operator,
    scalar,
)

UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "Abs": torch.abs,
    "Acos": torch.acos,
    "Acosh": torch.acosh,
    "Asin": torch.asin,
    "Asinh": torch.asinh,
    "Atan": torch.atan,
    "Atanh": torch.atanh,
    "BitwiseNot": torch.bitwise_not,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Cosh": torch.cosh,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "HardSwish": nnf.hardswish,
    "Identity": lambda x: x,
    "IsNaN": torch.isnan,
    "Log": torch.log,
    "Mish": nnf.mish,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Reciprocal": torch.reciprocal,
    "Relu": torch.relu,
    "Round": torch.round,
    "Sigmoid": torch.sigmoid,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Sinh": torch.sinh,
    "Softplus": lambda x: nnf.softplus(x, threshold=100.0),
    "Softsign": nnf.softsign,
    "Sqrt": torch.sqrt,
    "Tan": torch.tan,
    "Tanh": torch.tanh,
}


def _divide(a: Tensor, b: Tensor) -> Tensor:
    """Whole numbers are rounded towards zero."""
    return torch.div(a, b, rounding_mode=None if a.is_floating_point() else "trunc")


def _power(a: Tensor, b: Tensor) -> Tensor:
    """The result has the type of the base."""
    if a.dtype == b.dtype or b.numel() != 1:
        return torch.pow(a, b).to(a.dtype)
    return torch.pow(a, b.item()).to(a.dtype)


def widened(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The function with unsigned types that torch only stores counted in int64."""

    @functools.wraps(function)
    def compute(*inputs: Tensor) -> Tensor:
        kind = next((x.dtype for x in inputs if x.dtype in STORED_ONLY), None)
        if kind is None:
            return function(*inputs)
        created = function(
            *(x.to(torch.int64) if x.dtype in STORED_ONLY else x for x in inputs)
        )
        # Comparisons stay, and a floating-point base keeps its type whatever its exponent is.
        return (
            created
            if created.dtype == torch.bool or created.is_floating_point()
            else created.to(kind)
        )

    return compute


BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Add": torch.add,
    "And": torch.logical_and,
    "BitwiseAnd": torch.bitwise_and,
    "BitwiseOr": torch.bitwise_or,
    "BitwiseXor": torch.bitwise_xor,
    "Div": _divide,
    "Equal": torch.eq,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Mul": torch.mul,
    "Or": torch.logical_or,
    "PRelu": lambda x, slope: torch.where(x >= 0, x, x * slope),
    "Pow": _power,
    "Sub": torch.sub,
    "Xor": torch.logical_xor,
}

VARIADIC: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Max": torch.maximum,
    "Min": torch.minimum,
    "Sum": torch.add,
}


def _aligned(call: Call, a: Tensor, b: Tensor) -> Tensor:
    """The second operand with axes as the `broadcast` and `axis` attributes of opset 6 and before say."""
    axis = call.get("axis")
    if axis is None or not call.get("broadcast", 0):
        return b
    return b.reshape((*b.shape, *[1] * (a.dim() - (axis % a.dim()) - b.dim())))


def _register() -> None:
    def unary(function: Callable[[Tensor], Tensor]) -> Callable[[Call, Tensor], Tensor]:
        wide = widened(function)
        return lambda call, x: wide(x) if isinstance(x, torch.Tensor) else x

    def binary(
        function: Callable[[Tensor, Tensor], Tensor],
    ) -> Callable[[Call, Tensor, Tensor], Tensor]:
        wide = widened(function)
        return lambda call, a, b: wide(a, _aligned(call, a, b))

    def variadic(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
        wide = widened(function)
        return lambda call, *inputs: functools.reduce(wide, inputs)

    for name, one in UNARY.items():
        operator(name)(unary(one))
    for name, two in BINARY.items():
        operator(name)(binary(two))
    for name, many in VARIADIC.items():
        operator(name)(variadic(many))


_register()


@operator("Mean")
def mean(call: Call, *inputs: Tensor) -> Tensor:
    return functools.reduce(torch.add, inputs) / len(inputs)


@operator("Mod")
def mod(call: Call, a: Tensor, b: Tensor) -> Tensor:
    return widened(torch.fmod if call.get("fmod", 0) else torch.remainder)(a, b)


@operator("BitShift")
def bit_shift(call: Call, a: Tensor, b: Tensor) -> Tensor:
    remaining = call.get("direction") == "LEFT"
    return widened(torch.bitwise_left_shift if remaining else torch.bitwise_right_shift)(
        a, b
    )


@operator("LeakyRelu")
def leaky_relu(call: Call, x: Tensor) -> Tensor:
    return nnf.leaky_relu(x, call.get("alpha", 0.01))


@operator("Elu")
def elu(call: Call, x: Tensor) -> Tensor:
    return nnf.elu(x, call.get("alpha", 1.0))


@operator("Celu")
def celu(call: Call, x: Tensor) -> Tensor:
    return nnf.celu(x, call.get("alpha", 1.0))


@operator("Selu")
def selu(call: Call, x: Tensor) -> Tensor:
    alpha, gamma = (
        call.get("alpha", 1.67326319217681884765625),
        call.get("gamma", 1.05070102214813232421875),
    )
    return gamma * nnf.elu(x, alpha)


@operator("ThresholdedRelu")
def thresholded_relu(call: Call, x: Tensor) -> Tensor:
    return torch.where(x > call.get("alpha", 1.0), x, torch.zeros_like(x))


@operator("HardSigmoid")
def hard_sigmoid(call: Call, x: Tensor) -> Tensor:
    return torch.clamp(call.get("alpha", 0.2) * x + call.get("beta", 0.5), 0, 1)


@operator("Gelu")
def gelu(call: Call, x: Tensor) -> Tensor:
    return nnf.gelu(x, approximate=call.get("approximate", "none"))


@operator("Swish")
def swish(call: Call, x: Tensor) -> Tensor:
    return x * torch.sigmoid(call.get("alpha", 1.0) * x)


@operator("SwiGLU")
def swiglu(call: Call, gate: Tensor, x: Tensor) -> Tensor:
    return swish(call, gate) * x


@operator("Shrink")
def shrink(call: Call, x: Tensor) -> Tensor:
    bias, limit = call.get("bias", 0.0), call.get("lambd", 0.5)
    shrunk = torch.where(
        x < -limit, x + bias, torch.where(x > limit, x - bias, torch.zeros_like(x))
    )
    return shrunk.to(x.dtype)


@operator("IsInf")
def is_inf(call: Call, x: Tensor) -> Tensor:
    positive, negative = call.get("detect_positive", 1), call.get("detect_negative", 1)
    return (torch.isposinf(x) & bool(positive)) | (torch.isneginf(x) & bool(negative))


@operator("Clip")
def clip(
    call: Call, x: Tensor, low: Tensor | None = None, high: Tensor | None = None
) -> Tensor:
    bounds: list[Any] = [low, high]
    if call.version < 11:
        bounds = [call.get("min"), call.get("max")]
    # Torch lets the upper bound win where they cross, as ONNX does.
    given = [
        scalar(b) if isinstance(b, torch.Tensor) and not b.requires_grad else b
        for b in bounds
    ]
    if given == [None, None]:
        return x
    if isinstance(given[0], torch.Tensor) or isinstance(given[1], torch.Tensor):
        # Learnt bounds: gradients reach them.
        x = (
            x
            if bounds[0] is None
            else torch.maximum(x, torch.as_tensor(bounds[0], dtype=x.dtype))
        )
        return (
            x
            if bounds[1] is None
            else torch.minimum(x, torch.as_tensor(bounds[1], dtype=x.dtype))
        )
    return widened(lambda v: torch.clamp(v, given[0], given[1]))(x)


@operator("Where")
def where(call: Call, condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(condition, a, b)


def convert(x: Tensor, dtype: torch.dtype) -> Tensor:
    """A tensor in another type; whole numbers wrap around."""
    if x.is_floating_point() and not dtype.is_floating_point and dtype != torch.bool:
        # Out of range C++ does as it likes: through int64 it is what ONNX Runtime does.
        return x.to(torch.int64).to(dtype)
    return x.to(dtype)


@operator("Cast")
def cast(call: Call, x: Tensor) -> Tensor:
    kind = call.get("to")
    if kind not in DTYPES:
        raise call.refuse(f"a cast to ONNX type {kind}")
    return convert(x, DTYPES[kind])


@operator("CastLike")
def cast_like(call: Call, x: Tensor, like: Tensor) -> Tensor:
    if call.code_type and call.code_type not in DTYPES:
        raise call.refuse(f"a cast to ONNX type {call.code_type}")
    return convert(x, like.dtype)

"""Elementwise operators: of one tensor, of two, of a tensor and a number."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from prunegraph.frontends.mxnet.builder import Builder, Value
from prunegraph.frontends.mxnet.operators.base import SymbolCall, operator

# -- of one tensor --------------------------------------------------------------------------

#: Operators that are one ONNX operator.
PLAIN = {
    "abs": "Abs",
    "arccos": "Acos",
    "arccosh": "Acosh",
    "arcsin": "Asin",
    "arcsinh": "Asinh",
    "arctan": "Atan",
    "arctanh": "Atanh",
    "ceil": "Ceil",
    "cos": "Cos",
    "cosh": "Cosh",
    "erf": "Erf",
    "exp": "Exp",
    "floor": "Floor",
    "log": "Log",
    "negative": "Neg",
    "reciprocal": "Reciprocal",
    "relu": "Relu",
    "sigmoid": "Sigmoid",
    "sign": "Sign",
    "sin": "Sin",
    "sinh": "Sinh",
    "softsign": "Softsign",
    "sqrt": "Sqrt",
    "tan": "Tan",
    "tanh": "Tanh",
}


def _plain(onnx_op: str) -> Callable[[SymbolCall], Value]:
    return lambda call: call.builder.emit(onnx_op, call.x)


for _name, _op in PLAIN.items():
    operator(_name)(_plain(_op))


def _signed(build: Builder, x: Value, size: Callable[[Value], Value]) -> Value:
    """A function of the absolute value, with the sign put back."""
    return build.emit("Mul", build.emit("Sign", x), size(build.emit("Abs", x)))


def _rint(build: Builder, x: Value) -> Value:
    """To the nearest; ties go down, unlike ONNX Round."""
    return build.emit("Ceil", build.emit("Sub", x, build.number(0.5, x)))


def _round(build: Builder, x: Value) -> Value:
    """To the nearest; ties go away from zero."""
    return _signed(
        build, x, lambda v: build.emit("Floor", build.emit("Add", v, build.number(0.5, x)))
    )


def _cbrt(build: Builder, x: Value) -> Value:
    return _signed(build, x, lambda v: build.emit("Pow", v, build.number(1 / 3, x)))


def _scaled(op: str | None, factor: float) -> Callable[[Builder, Value], Value]:
    def convert(build: Builder, x: Value) -> Value:
        return build.emit("Mul", build.emit(op, x) if op else x, build.number(factor, x))

    return convert


#: Operators that are several ONNX operators.
COMPOSED: dict[str, Callable[[Builder, Value], Value]] = {
    "rint": _rint,
    "round": _round,
    "fix": lambda build, x: _signed(build, x, lambda v: build.emit("Floor", v)),
    "trunc": lambda build, x: _signed(build, x, lambda v: build.emit("Floor", v)),
    "cbrt": _cbrt,
    "rcbrt": lambda build, x: build.emit("Reciprocal", _cbrt(build, x)),
    "rsqrt": lambda build, x: build.emit("Reciprocal", build.emit("Sqrt", x)),
    "square": lambda build, x: build.emit("Mul", x, x),
    "log1p": lambda build, x: build.emit("Log", build.emit("Add", x, build.number(1, x))),
    "expm1": lambda build, x: build.emit("Sub", build.emit("Exp", x), build.number(1, x)),
    "log2": _scaled("Log", 1 / np.log(2)),
    "log10": _scaled("Log", 1 / np.log(10)),
    "degrees": _scaled(None, 180 / np.pi),
    "radians": _scaled(None, np.pi / 180),
    "logical_not": lambda build, x: build.cast(
        build.emit("Not", build.cast(x, np.bool_)), x.dtype
    ),
}


def _composed(convert: Callable[[Builder, Value], Value]) -> Callable[[SymbolCall], Value]:
    return lambda call: convert(call.builder, call.x)


for _name, _convert in COMPOSED.items():
    operator(_name)(_composed(_convert))


@operator("hard_sigmoid")
def hard_sigmoid(call: SymbolCall) -> Value:
    return call.builder.emit(
        "HardSigmoid", call.x, alpha=call.real("alpha", 0.2), beta=call.real("beta", 0.5)
    )


@operator("clip")
def clip(call: SymbolCall) -> Value:
    low, high = (
        call.builder.number(call.real(name), call.x) for name in ("a_min", "a_max")
    )
    return call.builder.emit("Clip", call.x, low, high)


@operator("smooth_l1")
def smooth_l1(call: SymbolCall) -> Value:
    """0.5 (s x)^2 where |x| < 1 / s^2, else |x| - 0.5 / s^2."""
    build, x = call.builder, call.x
    squared = call.real("scalar", 1.0) ** 2
    size = build.emit("Abs", x)
    inner = build.emit("Mul", build.emit("Mul", x, x), build.number(0.5 * squared, x))
    outer = build.emit("Sub", size, build.number(0.5 / squared, x))
    return build.emit(
        "Where", build.emit("Less", size, build.number(1 / squared, x)), inner, outer
    )


@operator("Cast", "amp_cast")
def cast(call: SymbolCall) -> Value:
    kind = call.dtype()
    return (
        call.builder.cast(call.x, kind)
        if kind != call.x.dtype
        else call.builder.emit("Identity", call.x)
    )


@operator("amp_multicast")
def amp_multicast(call: SymbolCall) -> list[Value]:
    kinds = [value.dtype for value in call.inputs]
    wanted = (
        min(kinds, key=lambda k: k.itemsize)
        if call.flag("cast_narrow")
        else np.result_type(*kinds)
    )
    return [call.builder.cast(value, wanted) for value in call.inputs]


# -- of two tensors -------------------------------------------------------------------------


def _hypot(build: Builder, a: Value, b: Value) -> Value:
    return build.emit(
        "Sqrt", build.emit("Add", build.emit("Mul", a, a), build.emit("Mul", b, b))
    )


def _mod(build: Builder, a: Value, b: Value) -> Value:
    """The remainder with the divisor's sign; by 0 it is 0."""
    once = build.emit("Mod", a, b, fmod=1)
    result = build.emit("Mod", build.emit("Add", once, b), b, fmod=1)
    zero = build.number(0, b)
    return build.emit("Where", build.emit("Equal", b, zero), zero, result)


Pair = Callable[[Builder, Value, Value], Value]


def _one(op: str) -> Pair:
    return lambda build, a, b: build.emit(op, a, b)


#: Function of two tensors, by the stem of MXNet's names.
ARITHMETIC: dict[str, Pair] = {
    "add": _one("Add"),
    "sub": _one("Sub"),
    "mul": _one("Mul"),
    "div": _one("Div"),
    "power": _one("Pow"),
    "maximum": _one("Max"),
    "minimum": _one("Min"),
    "mod": _mod,
    "hypot": _hypot,
}


def _not_equal(build: Builder, a: Value, b: Value) -> Value:
    return build.emit("Not", build.emit("Equal", a, b))


def _truth(op: str) -> Pair:
    return lambda build, a, b: build.emit(
        op, build.cast(a, np.bool_), build.cast(b, np.bool_)
    )


#: Comparisons and logic: their results are truth values, which MXNet gives as 0 and 1 in the type of the input.
TRUTH: dict[str, Pair] = {
    "equal": _one("Equal"),
    "not_equal": _not_equal,
    "greater": _one("Greater"),
    "lesser": _one("Less"),
    "greater_equal": _one("GreaterOrEqual"),
    "lesser_equal": _one("LessOrEqual"),
    "logical_and": _truth("And"),
    "logical_or": _truth("Or"),
    "logical_xor": _truth("Xor"),
}

#: Stem to the name of the operator with a number, and of the one with the operands swapped.
SCALAR = {
    "add": ("_plus_scalar", ""),
    "sub": ("_minus_scalar", "_rminus_scalar"),
    "mul": ("_mul_scalar", ""),
    "div": ("_div_scalar", "_rdiv_scalar"),
    "power": ("_power_scalar", "_rpower_scalar"),
    "mod": ("_mod_scalar", "_rmod_scalar"),
    "maximum": ("_maximum_scalar", ""),
    "minimum": ("_minimum_scalar", ""),
    "hypot": ("_hypot_scalar", ""),
}

#: The numpy front end's comparisons, whose results are booleans.
NUMPY_TRUTH = {
    "equal": "equal",
    "not_equal": "not_equal",
    "greater": "greater",
    "less": "lesser",
    "greater_equal": "greater_equal",
    "less_equal": "lesser_equal",
}


def _binary(function: Pair, truth: bool) -> Callable[[SymbolCall], Value]:
    def convert(call: SymbolCall) -> Value:
        a, b = call.inputs[:2]
        if a.dtype != b.dtype:
            call.fail(f"its inputs have different types, {a.dtype} and {b.dtype}")
        result = function(call.builder, a, b)
        return call.builder.cast(result, a.dtype) if truth else result

    return convert


def _with_number(
    function: Pair, truth: bool, swapped: bool
) -> Callable[[SymbolCall], Value]:
    def convert(call: SymbolCall) -> Value:
        x, value = call.x, call.real("scalar", 1.0)
        if call.is_numpy and x.dtype.kind != "f" and not value.is_integer():
            call.fail(f"a {x.dtype} tensor and {value} give another type in numpy")
        # MXNet casts the number to the tensor's type: 1.5 is 1 beside int32.
        number = call.builder.number(value, x)
        result = (
            function(call.builder, number, x)
            if swapped
            else function(call.builder, x, number)
        )
        return call.builder.cast(result, x.dtype) if truth else result

    return convert


def _numpy_comparison(function: Pair, with_number: bool) -> Callable[[SymbolCall], Value]:
    def convert(call: SymbolCall) -> Value:
        other = (
            call.builder.number(call.real("scalar"), call.x)
            if with_number
            else call.inputs[1]
        )
        return function(call.builder, call.x, other)

    return convert


def _register() -> None:
    for stem, function in ARITHMETIC.items():
        short = {"add", "sub", "mul", "div"}
        names = [f"broadcast_{stem}", f"elemwise_{stem}" if stem in short else f"_{stem}"]
        operator(*names)(_binary(function, truth=False))
        plain, swapped = SCALAR[stem]
        operator(plain)(_with_number(function, truth=False, swapped=False))
        if swapped:
            operator(swapped)(_with_number(function, truth=False, swapped=True))
    for stem, function in TRUTH.items():
        operator(f"broadcast_{stem}", f"_{stem}")(_binary(function, truth=True))
        operator(f"_{stem}_scalar")(_with_number(function, truth=True, swapped=False))
    for stem, known in NUMPY_TRUTH.items():
        operator(f"_npi_{stem}")(_numpy_comparison(TRUTH[known], with_number=False))
        operator(f"_npi_{stem}_scalar")(_numpy_comparison(TRUTH[known], with_number=True))


_register()


@operator("add_n")
def add_n(call: SymbolCall) -> Value:
    return call.builder.emit("Sum", *call.inputs)


@operator("_contrib_div_sqrt_dim")
def div_sqrt_dim(call: SymbolCall) -> Value:
    return call.builder.emit(
        "Div", call.x, call.builder.number(np.sqrt(call.x.size(-1)), call.x)
    )


@operator("_np_cumsum")
def cumsum(call: SymbolCall) -> Value:
    build, x = call.builder, call.x
    x, axis = (x, call.axis()) if call.has("axis") else (build.emit("Reshape", x, [-1]), 0)
    x = build.cast(x, call.dtype()) if call.has("dtype") else x
    return build.emit("CumSum", x, np.array(axis, np.int64))

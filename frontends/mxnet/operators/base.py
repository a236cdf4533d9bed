"""What a converter of an operator is given, and the register of converters."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

import numpy as np

from prunegraph.errors import ModelError
from prunegraph.frontends.mxnet.builder import Builder, Value
from prunegraph.frontends.mxnet.symbol import SymbolNode
from prunegraph.frontends.mxnet.values import Parsed, parse, whole, wholes
from prunegraph.registry import Registry

#: Element types by MXNet's names.
DTYPES = (
    "float16",
    "float32",
    "float64",
    "uint8",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint16",
    "uint32",
    "uint64",
    "bool",
)

#: Elements of a constant that an attribute may ask for.
MAX_ELEMENTS = 2**28


@dataclass(frozen=True)
class SymbolCall:
    """One operator of the symbol on its way to ONNX: its inputs are converted already.

    `numpy_shapes` says that full reductions have rank 0. The getters read attributes in all
    spellings; each raises ModelError where a value is not what it must be.
    """

    builder: Builder
    node: SymbolNode
    inputs: tuple[Value, ...]
    numpy_shapes: bool = False

    @property
    def x(self) -> Value:
        return self.inputs[0]

    @property
    def is_numpy(self) -> bool:
        return self.node.written.startswith(("_np_", "_npi_", "_npx_"))

    def optional(self, position: int) -> Value | None:
        return self.inputs[position] if position < len(self.inputs) else None

    def fail(self, why: str) -> NoReturn:
        raise ModelError(f"{label(self.node)}: {why}")

    def _raw(self, name: str) -> Parsed:
        return parse(self.node.attributes[name]) if name in self.node.attributes else None

    def has(self, name: str) -> bool:
        """Tell whether an attribute is there, and not None or empty."""
        return self._raw(name) not in (None, ())

    def integer(self, name: str, default: int | None = None) -> int:
        value = self._raw(name)
        if value is None:
            if default is None:
                self.fail(f"attribute {name!r} is missing")
            return default
        try:
            return whole(value)
        except ValueError as error:
            self.fail(f"attribute {name!r}: {error}")

    def flag(self, name: str, default: bool = False) -> bool:
        return bool(self.integer(name, int(default)))

    def integers(
        self, name: str, default: Sequence[int] | None = None, length: int | None = None
    ) -> tuple[int, ...]:
        """A tuple of whole numbers; () counts as absent. With `length`, of that length."""
        value = self._raw(name)
        if value in (None, ()):
            if default is None:
                self.fail(f"attribute {name!r} is missing")
            return tuple(default)
        try:
            result = wholes(value)
        except ValueError as error:
            self.fail(f"attribute {name!r}: {error}")
        if length is not None and len(result) != length:
            self.fail(f"attribute {name!r} must have {length} numbers")
        return result

    def items(self, name: str) -> tuple[int | None, ...]:
        """A tuple of whole numbers or None."""
        value = self._raw(name)
        items = value if isinstance(value, tuple) else (value,)
        try:
            return tuple(None if item is None else whole(item) for item in items)
        except ValueError as error:
            self.fail(f"attribute {name!r}: {error}")

    def real(self, name: str, default: float | None = None) -> float:
        value = self._raw(name)
        if value is None:
            if default is None:
                self.fail(f"attribute {name!r} is missing")
            return default
        if not isinstance(value, int | float):
            self.fail(f"attribute {name!r} must be a number, not {value!r}")
        return float(value)

    def reals(self, name: str, default: Sequence[float]) -> tuple[float, ...]:
        value = self._raw(name)
        items = (
            default
            if value in (None, ())
            else value
            if isinstance(value, tuple)
            else (value,)
        )
        if not all(isinstance(item, int | float) for item in items):
            self.fail(f"attribute {name!r} must hold numbers, not {value!r}")
        return tuple(float(item) for item in items)  # type: ignore[arg-type]

    def word(self, name: str, default: str, known: Sequence[str] = ()) -> str:
        match = self.node.attributes.get(name, default)
        match = default if match == "None" else match
        if known and match not in known:
            self.fail(f"{name}={match!r} is not supported; there are {', '.join(known)}")
        return match

    def dtype(self, name: str = "dtype", default: str = "float32") -> np.dtype:
        return np.dtype(self.word(name, default, DTYPES))

    def affordable(self, *sizes: float) -> None:
        """Raise ModelError where sizes make a constant that is too large to hold."""
        if math.prod(sizes) > MAX_ELEMENTS:
            self.fail(f"it makes a constant of {math.prod(sizes):.0f} elements")

    def axis(
        self, name: str = "axis", default: int | None = None, rank: int | None = None
    ) -> int:
        """An axis of the first input (or of `rank`), counted from the front."""
        rank = self.x.rank if rank is None else rank
        result = self.integer(name, default)
        if not -rank <= result < rank:
            self.fail(f"{name}={result} is no axis of a tensor of rank {rank}")
        return result % rank

    def axes(self, name: str = "axis") -> list[int]:
        """Axes of the first input, sorted; all of them where the attribute is not there."""
        rank = self.x.rank
        result = self.integers(name, range(rank))
        if any(not -rank <= axis < rank for axis in result):
            self.fail(f"{name}={result} are no axes of a tensor of rank {rank}")
        return sorted({axis % rank for axis in result})

    def refuse(self, name: str, default: str, why: str) -> None:
        """Raise ModelError where an attribute is not its default."""
        if self.has(name) and self._raw(name) != parse(default):
            self.fail(f"{name}={self.node.attributes[name]}: {why}")


Converter = Callable[[SymbolCall], Value | Sequence[Value]]
OPERATORS: Registry[Converter] = Registry("MXNet operator", parameters=("call",))


def operator(*names: str) -> Callable[[Converter], Converter]:
    """Decorator that registers the converter of operators of those canonical names."""

    def store(converter: Converter) -> Converter:
        for name in names:
            OPERATORS.register(name)(converter)
        return converter

    return store


def label(node: SymbolNode) -> str:
    """An operator, its node and its attributes, for messages."""
    own = {
        name: value for name, value in node.attributes.items() if not name.startswith("__")
    }
    messages = ", ".join(f"{name}={value}" for name, value in own.items())
    return f"MXNet operator {node.written!r}, node {node.name!r} ({messages or 'no attributes'})"

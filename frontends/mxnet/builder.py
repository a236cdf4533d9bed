"""ONNX nodes one by one, each with the shapes and element types of its results."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from prunegraph.errors import ModelError

OPSET = 17
IR_VERSION = 8

#: Attribute values of nodes are small; larger constants are not given to shape inference.
_SMALL = 64

Shape = tuple[int | None, ...]
Fold = Callable[..., np.ndarray]


class UnknownShapeError(Exception):
    """An operator needs sizes that do not follow from what is known of the inputs."""


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor of the network. `shape` may have unknown sizes (None); `data` is there for constants.

    `label` is the name to prefer. `origin` says how a constant follows from others: the function
    that moves elements, and what it takes; `stored`, that it is a parameter of the file.
    """

    key: str
    shape: Shape
    dtype: np.dtype
    data: np.ndarray | None = None
    label: str = ""
    origin: tuple[Fold, tuple[Value, ...]] | None = None
    stored: bool = False

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The shape where all of it is known. Raises UnknownShapeError."""
        return tuple(self.size(axis) for axis in range(self.rank))

    def size(self, axis: int) -> int:
        """The size of an axis. Raises UnknownShapeError."""
        size = self.shape[axis]
        if size is None:
            raise UnknownShapeError(f"the size of axis {axis % self.rank} of its input")
        return size


@dataclass
class BuiltNode:
    """A node of the result, with the MXNet node it is part of."""

    op: str
    inputs: list[Value | None]
    outputs: list[Value]
    attributes: dict[str, Any]
    origin: str


Operand = Value | np.ndarray | Sequence[int] | None


@dataclass
class Builder:
    """The network so far. `origin` is the MXNet node that is being converted."""

    entries: list[BuiltNode] = field(default_factory=list)
    origin: str = ""
    _keys: itertools.count[int] = field(default_factory=itertools.count)

    def key(self) -> str:
        return f"v{next(self._keys)}"

    def input(self, name: str, shape: Shape, dtype: np.dtype) -> Value:
        return Value(self.key(), shape, dtype, None, name)

    def parameter(self, data: np.ndarray, name: str) -> Value:
        return Value(self.key(), data.shape, data.dtype, data, name, None, stored=True)

    def constant(self, data: np.ndarray, label: str = "") -> Value:
        return Value(
            self.key(), data.shape, data.dtype, data, label or f"{self.origin}/constant"
        )

    def fold(
        self, move: Fold, *values: Value, label: str = "", trace: Fold | None = None
    ) -> Value:
        """A constant that follows from others by moving elements.

        `trace` is what happens to positions of elements where `move` does more than that.
        """
        data = move(*(value.data for value in values))
        name = label or (values[0].label if len(values) == 1 else "") or self.origin
        return Value(
            self.key(), data.shape, data.dtype, data, name, (trace or move, values)
        )

    def emit(self, op: str, *operands: Operand, **attributes: Any) -> Value:
        """A node with one result."""
        return self.emit_many(op, *operands, count=1, **attributes)[0]

    def emit_many(
        self, op: str, *operands: Operand, count: int, **attributes: Any
    ) -> list[Value]:
        """A node with `count` results. Raises ModelError where shapes do not fit."""
        inputs = [self._operand(operand) for operand in operands]
        attributes = {
            name: value for name, value in attributes.items() if value is not None
        }
        keys = [self.key() for _ in range(count)]
        outputs = [
            Value(key, shape, dtype)
            for key, (shape, dtype) in zip(
                keys, self._infer(op, inputs, keys, attributes), strict=True
            )
        ]
        move = _movement(op, inputs, outputs, attributes)
        if move is not None:
            return [
                self.fold(
                    move,
                    *(
                        value
                        for value in inputs[: _operands(op, inputs)]
                        if value is not None
                    ),
                )
            ]
        self.entries.append(BuiltNode(op, inputs, outputs, attributes, self.origin))
        return outputs

    def emit_as(
        self, op: str, inputs: list[Value], shape: Shape, dtype: np.dtype, **attributes: Any
    ) -> Value:
        """A node whose one result has this shape and type: one with a subgraph, say."""
        result = Value(self.key(), shape, dtype)
        self.entries.append(BuiltNode(op, [*inputs], [result], attributes, self.origin))
        return result

    def _operand(self, operand: Operand) -> Value | None:
        if operand is None or isinstance(operand, Value):
            return operand
        data = operand if isinstance(operand, np.ndarray) else np.array(operand, np.int64)
        return self.constant(data)

    def _infer(
        self,
        op: str,
        inputs: Sequence[Value | None],
        keys: Sequence[str],
        attributes: dict[str, Any],
    ) -> list[tuple[Shape, np.dtype]]:
        names = [value.key if value is not None else "" for value in inputs]
        node = helper.make_node(op, names, list(keys), **attributes)
        present = [value for value in inputs if value is not None]
        types = {value.key: _type(value) for value in present}
        data = {
            v.key: numpy_helper.from_array(v.data, v.key)
            for v in present
            if v.data is not None and v.data.size <= _SMALL
        }
        try:
            result = onnx.shape_inference.infer_node_outputs(
                onnx.defs.get_schema(op, OPSET),
                node,
                types,
                data,
                opset_imports=[helper.make_opsetid("", OPSET)],
                ir_version=IR_VERSION,
            )
        except (
            onnx.shape_inference.InferenceError,
            onnx.checker.ValidationError,
            RuntimeError,
            ValueError,
        ) as error:
            shapes = ", ".join(str(value.shape) for value in present)
            raise ModelError(
                f"shapes do not fit ONNX {op} of {shapes}: {' '.join(str(error).split())}"
            ) from error
        return [_read_type(result.get(key), op) for key in keys]

    # -- what many operators need -----------------------------------------------------------

    def transpose(self, value: Value, axes: Sequence[int]) -> Value:
        return (
            value
            if list(axes) == list(range(len(axes)))
            else self.emit("Transpose", value, perm=list(axes))
        )

    def cast(self, value: Value, dtype: Any) -> Value:
        kind = np.dtype(dtype)
        return (
            value
            if value.dtype == kind
            else self.emit("Cast", value, to=helper.np_dtype_to_tensor_dtype(kind))
        )

    def number(self, value: float, like: Value) -> Value:
        """A constant of rank 0, of the element type of another value. Raises ModelError."""
        if like.dtype.kind in "iu" and not abs(value) < 2**63:
            raise ModelError(f"{value} is no number of type {like.dtype}")
        return self.constant(np.array(value).astype(like.dtype))


def _type(value: Value) -> onnx.TypeProto:
    return helper.make_tensor_type_proto(
        helper.np_dtype_to_tensor_dtype(value.dtype), list(value.shape)
    )


def _read_type(result: onnx.TypeProto | None, op: str) -> tuple[Shape, np.dtype]:
    if result is None or not result.tensor_type.HasField("shape"):
        raise UnknownShapeError(f"more than is known to say what shape ONNX {op} gives")
    tensor = result.tensor_type
    shape = tuple(
        dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim
    )
    return shape, helper.tensor_dtype_to_np_dtype(tensor.elem_type)


def _operands(op: str, inputs: Sequence[Value | None]) -> int:
    return len(inputs) if op == "Concat" else 1


def _movement(
    op: str,
    inputs: Sequence[Value | None],
    outputs: Sequence[Value],
    attributes: dict[str, Any],
) -> Fold | None:
    """How a node moves elements, where it does only that and reads only constants."""
    if any(value is None or value.data is None for value in inputs) or len(outputs) != 1:
        return None
    if (
        op in ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
        and None not in outputs[0].shape
    ):
        return lambda array: array.reshape(outputs[0].sizes)
    if op == "Transpose":
        return lambda array: array.transpose(attributes["perm"])
    if op == "Concat":
        return lambda *arrays: np.concatenate(arrays, attributes["axis"])
    return None


def elements(value: Value) -> int:
    """Number of elements. Raises UnknownShapeError."""
    return math.prod(value.sizes)

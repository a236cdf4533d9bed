"""Binary weights in a file: eight to a byte, and the nodes that unpack them.

A byte is looked up in a table of 256 rows of eight values. All inputs are constants, so ONNX Runtime runs these nodes
once, when it makes a session. Of what was tried this is the fastest and takes the least memory: the values of a row
are copied at once, and nothing in between is larger than the result.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from prunegraph.training.binary.nodes import NodeWriter
from prunegraph.training.binary.whole import WholeWeight

Array = np.ndarray

#: Weight i of eight is bit i of their byte.
MASKS = np.left_shift(1, np.arange(8)).astype(np.uint8)[None]


class Unpacking:
    """Writes nodes that unpack weights; the tables are written once."""

    def __init__(self, writer: NodeWriter):
        self._writer = writer
        self._bits = ""
        self._tables: dict[tuple[str, float, float], str] = {}

    def whole(self, weight: WholeWeight, dtype: type[Any], factor: int = 1) -> str:
        """Name what holds a layer's whole numbers, times a factor, as floats or signed bytes.

        As unsigned bytes they are around `centre(weight)`.
        """
        centre = self.centre(weight) if dtype is np.uint8 else 0
        if not weight.has_groups:
            pair = (dtype(centre - factor), dtype(centre + factor))
            return self.weight(weight.positive, pair)
        op, tensor = self._writer.op, self._writer.tensor
        shape, sizes = weight.layout
        stored = tensor((sizes * factor).astype(np.int8))
        if centre:
            wide, zero = (
                op("Cast", stored, to=onnx.TensorProto.INT32),
                tensor(np.int32(centre)),
            )
            pair = (self._writer.add(zero, wide), op("Sub", zero, wide))
            high, low = (op("Cast", each, to=onnx.TensorProto.UINT8) for each in pair)
        else:
            floats = dtype is np.float32
            high = op("Cast", stored, to=onnx.TensorProto.FLOAT) if floats else stored
            low = op("Neg", high)
        bits = self._flat(weight.positive)
        bits = op("Reshape", bits, tensor(np.array(shape)))
        values = op("Where", bits, high, low)
        return op("Reshape", values, tensor(np.array(weight.positive.shape)))

    @staticmethod
    def centre(weight: WholeWeight) -> int:
        """The unsigned byte that stands for 0."""
        return weight.largest + weight.has_groups

    def weight(self, positive: Array, values: tuple[Any, Any]) -> str:
        """Name what holds `values[1]` where `positive` is true, else `values[0]`, in its shape."""
        result = self._flat(positive, values)
        return self._writer.op(
            "Reshape", result, self._writer.tensor(np.array(positive.shape))
        )

    def _flat(self, positive: Array, values: tuple[Any, Any] | None = None) -> str:
        """One of two values for each bit, or the bits themselves, one after the other."""
        writer = self._writer
        packed = np.packbits(positive.reshape(-1), bitorder="little")
        rows = writer.op("Cast", writer.tensor(packed), to=onnx.TensorProto.INT32)
        table = self._signs() if values is None else self._table(values)
        result = writer.op("Gather", table, rows)
        if positive.size % 8:
            result = writer.op("Reshape", result, writer.tensor(np.array([-1])))
            ends = (np.array([0]), np.array([positive.size]))
            result = writer.op("Slice", result, *(writer.tensor(end) for end in ends))
        return result

    def _signs(self) -> str:
        """The table of bits themselves."""
        if not self._bits:
            every = self._writer.tensor(np.arange(256, dtype=np.uint8)[:, None])
            bits = self._writer.op("BitwiseAnd", every, self._writer.tensor(MASKS))
            self._bits = self._writer.op("Cast", bits, to=onnx.TensorProto.BOOL)
        return self._bits

    def _table(self, values: tuple[Any, Any]) -> str:
        low, high = values
        bits = self._signs()
        key = (low.dtype.name, float(low), float(high))
        if key not in self._tables:
            pair = (self._writer.tensor(value) for value in (high, low))
            self._tables[key] = self._writer.op("Where", bits, *pair)
        return self._tables[key]

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

Array = np.ndarray

#: Weight i of eight is bit i of their byte.
MASKS = np.left_shift(1, np.arange(8)).astype(np.uint8)[None]


class Unpacking:
    """Writes nodes that unpack weights; the tables are written once."""

    def __init__(self, writer: NodeWriter):
        self._writer = writer
        self._bits = ""
        self._tables: dict[tuple[str, float, float], str] = {}

    def weight(self, positive: Array, values: tuple[Any, Any]) -> str:
        """Name what holds `values[1]` where `positive` is true, else `values[0]`, in its shape."""
        writer = self._writer
        packed = np.packbits(positive.reshape(-1), bitorder="little")
        rows = writer.op("Cast", writer.tensor(packed), to=onnx.TensorProto.INT32)
        result = writer.op("Gather", self._table(values), rows)
        if positive.size % 8:
            result = writer.op("Reshape", result, writer.tensor(np.array([-1])))
            ends = (np.array([0]), np.array([positive.size]))
            result = writer.op("Slice", result, *(writer.tensor(end) for end in ends))
        return writer.op("Reshape", result, writer.tensor(np.array(positive.shape)))

    def _table(self, values: tuple[Any, Any]) -> str:
        low, high = values
        if not self._bits:
            every = self._writer.tensor(np.arange(256, dtype=np.uint8)[:, None])
            bits = self._writer.op("BitwiseAnd", every, self._writer.tensor(MASKS))
            self._bits = self._writer.op("Cast", bits, to=onnx.TensorProto.BOOL)
        key = (low.dtype.name, float(low), float(high))
        if key not in self._tables:
            pair = (self._writer.tensor(value) for value in (high, low))
            self._tables[key] = self._writer.op("Where", self._bits, *pair)
        return self._tables[key]

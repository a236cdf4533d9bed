"""New nodes and tensors of a graph that is rewritten, with names that are short since they are part of the file."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from prunegraph.rewriting.rewriter import Rewriter

Array = np.ndarray


class NodeWriter:
    """Collects nodes until they are taken; tensors go into the graph at once, equal ones once."""

    def __init__(self, rewriter: Rewriter):
        self._rewriter = rewriter
        self._nodes: list[onnx.NodeProto] = []
        self._shared: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    def take(self) -> list[onnx.NodeProto]:
        """The nodes since the last call, in the order in which they were written."""
        nodes, self._nodes = self._nodes, []
        return nodes

    def op(
        self,
        op: str,
        *inputs: str,
        output: str = "",
        name: str = "",
        **attributes: int | float,
    ) -> str:
        """Add a node of ONNX's own domain, and name its output."""
        output = output or self._rewriter.names.short()
        proto = helper.make_node(op, inputs, [output], name or None)
        proto.attribute.extend(
            helper.make_attribute(key, value) for key, value in attributes.items()
        )
        self._nodes.append(proto)
        return output

    def add(self, value: str, other: str, output: str = "") -> str:
        """Add a sum of two values, and name it."""
        return self.op("Add", value, other, output=output)

    def like(self, node: onnx.NodeProto, op: str, *inputs: str, output: str = "") -> str:
        """Add a node with the name and the attributes of another one, and name its output."""
        output = output or self._rewriter.names.short()
        proto = helper.make_node(op, inputs, [output], name=node.name)
        proto.attribute.extend(node.attribute)
        self._nodes.append(proto)
        return output

    def tensor(self, values: Array | np.generic | float) -> str:
        """Name an initializer, in single precision where it was in double."""
        array = np.asarray(values)
        array = np.ascontiguousarray(
            array.astype(np.float32) if array.dtype == np.float64 else array
        ).reshape(array.shape)
        key = (array.dtype.name, array.shape, array.tobytes())
        if key not in self._shared:
            self._shared[key] = self._rewriter.names.short()
            self._rewriter.add_tensor(numpy_helper.from_array(array, self._shared[key]))
        return self._shared[key]

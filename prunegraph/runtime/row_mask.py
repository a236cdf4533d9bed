"""Which positions of the samples count: an input such as `attention_mask` says that the others are padding.

What a network computes at padding reaches no output. Statistics and fits leave out rows where the mask is 0,
in values whose first axes are the mask's.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx

from prunegraph.errors import DataError, UnknownNameError
from prunegraph.graph.inference import shape_info_at
from prunegraph.graph.model import Graph
from prunegraph.graph.shapes import shape_info
from prunegraph.graph.sizes import input_shapes

Array = np.ndarray

#: The input that is the mask where nobody says which one it is.
USUAL = "attention_mask"

#: In place of an input's name: no mask, not even the usual one.
NONE = "none"

#: Batch and other symbolic sizes at which the shapes of values are compared with the mask's.
PROBES = ((2, 19), (3, 23))

_WHOLE = frozenset(
    {
        onnx.TensorProto.BOOL,
        onnx.TensorProto.INT8,
        onnx.TensorProto.UINT8,
        onnx.TensorProto.INT32,
        onnx.TensorProto.INT64,
    }
)


@dataclass(frozen=True)
class RowMask:
    """An input that is 0 at positions that do not count.

    Args:
        input: its name.
        values: the values of the graph whose first axes are the mask's.
    """

    input: str
    values: frozenset[str] = field(repr=False)

    def of(self, value: str) -> str:
        """The mask's name for a value whose first axes are the mask's, else ""."""
        return self.input if value in self.values else ""


def find_mask(graph: Graph, wanted: str | None = None) -> RowMask | None:
    """The mask of a graph's rows: the input of that name, by default an integer or boolean `attention_mask`.

    Where sizes are symbolic, a value has the mask's axes if its first axes grow with them.

    Raises:
        UnknownNameError: there is no such input.
        DataError: the input is a scalar, or no integer or boolean.
    """
    if wanted == NONE and NONE not in graph.inputs:
        return None
    name = wanted or USUAL
    if name not in graph.inputs:
        if wanted is None:
            return None
        raise UnknownNameError("input", name, graph.inputs)
    kinds = {each.name: each.type.tensor_type.elem_type for each in graph.model.graph.input}
    rank = len(shape_info(graph).sizes[name])
    if kinds[name] not in _WHOLE or rank < 1:
        if wanted is None:
            return None
        raise DataError(
            f"input {name!r} cannot be the mask of rows: that is an integer or boolean for each position"
        )
    key = ("row mask", name)
    if key not in graph.cache:
        graph.cache[key] = RowMask(name, _masked(graph, name))
    result: RowMask = graph.cache[key]
    return result


def _masked(graph: Graph, name: str) -> frozenset[str]:
    """Values with more axes than the mask, the first of which are the mask's at any sizes."""
    result: set[str] | None = None
    dead = shape_info(graph).dead
    for batch, size in PROBES:
        sizes = input_shapes(graph, batch, size)
        lead = tuple(sizes[name])
        shapes = shape_info_at(graph, sizes, dead=dead).shapes
        here = {
            value
            for value, shape in shapes.items()
            if len(shape) > len(lead) and tuple(shape[: len(lead)]) == lead
        }
        result = here if result is None else result & here
    return frozenset(result or ())


def counted(mask: Array, value: Array) -> Array | None:
    """Where a value counts, in the shape of the mask; None everywhere, as where its sizes are not the mask's."""
    fits = value.shape[: mask.ndim] == mask.shape and value.ndim > mask.ndim
    return mask != 0 if fits else None

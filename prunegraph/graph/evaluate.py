"""A small numpy evaluator for shape arithmetic.

Exporters compute sizes at run time (Shape, Gather, Concat, ...). With concrete input
sizes the results are plain numbers; `evaluate` gives them. Only operators that occur in
such chains are here, anything else is simply not known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import numpy as np
import onnx

from prunegraph.errors import MISFIT
from prunegraph.graph.model import Node

Array = np.ndarray
Function = Callable[[Node, Sequence[Array | None]], Any]

#: Larger tensors are data, not shape arithmetic.
MAX_ELEMENTS = 8192


def _axes(
    node: Node, inputs: Sequence[Array | None], slot: int = 1
) -> tuple[int, ...] | None:
    given = inputs[slot] if len(inputs) > slot else None
    axes = node.attributes.get("axes") if given is None else given
    return None if axes is None else tuple(int(a) for a in axes)


def _unsqueeze(node: Node, inputs: Sequence[Array | None]) -> Array:
    return np.expand_dims(inputs[0], _axes(node, inputs) or ())  # type: ignore[arg-type]


def _slice(node: Node, inputs: Sequence[Array | None]) -> Array:
    data = inputs[0]
    assert data is not None
    return data[slice_index(node, inputs, data.ndim)]


def slice_index(node: Node, inputs: Sequence[Any], rank: int) -> tuple[slice, ...]:
    """The index that a Slice node applies, from attributes (opset < 10) or known inputs."""
    if node.version < 10:
        starts, ends = node.attributes["starts"], node.attributes["ends"]
        axes = node.attributes.get("axes", range(len(starts)))
        steps = [1] * len(starts)
    else:
        starts, ends = inputs[1], inputs[2]
        given = inputs[3] if len(inputs) > 3 else None
        axes = range(len(starts)) if given is None else given
        given = inputs[4] if len(inputs) > 4 else None
        steps = [1] * len(starts) if given is None else given
    index = [slice(None)] * rank
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        stop: int | None = int(end)
        if step < 0 and end < -(2**30):
            stop = None
        index[int(axis)] = slice(int(start), stop, int(step))
    return tuple(index)


def _reshape(node: Node, inputs: Sequence[Array | None]) -> Array:
    data, shape = inputs[0], inputs[1]
    assert data is not None and shape is not None
    target = resolve_reshape(
        data.shape, shape.tolist(), bool(node.attributes.get("allowzero", 0))
    )
    return np.reshape(data, target)


def resolve_reshape(
    source: Sequence[int], target: Sequence[int], allowzero: bool = False
) -> tuple[int, ...]:
    """The shape a Reshape gives: 0 copies the source's axis, -1 takes what is left."""
    shape = [
        int(source[i]) if t == 0 and not allowzero else int(t) for i, t in enumerate(target)
    ]
    if -1 in shape:
        rest = math.prod(s for s in shape if s != -1)
        shape[shape.index(-1)] = math.prod(source) // rest if rest else 0
    return tuple(shape)


def _divide(node: Node, inputs: Sequence[Array | None]) -> Array:
    first, second = inputs[0], inputs[1]
    assert first is not None and second is not None
    if np.issubdtype(first.dtype, np.integer):
        # ONNX integer division truncates towards zero.
        return (np.sign(first) * np.sign(second) * (abs(first) // abs(second))).astype(
            first.dtype
        )
    return np.divide(first, second)


def _cast(node: Node, inputs: Sequence[Array | None]) -> Array:
    assert inputs[0] is not None
    return inputs[0].astype(onnx.helper.tensor_dtype_to_np_dtype(node.attributes["to"]))


def _constant_of_shape(node: Node, inputs: Sequence[Array | None]) -> Array | None:
    assert inputs[0] is not None
    if math.prod(inputs[0].tolist()) > MAX_ELEMENTS:
        return None
    tensor = node.attributes.get("value")
    value = (
        np.zeros(1, np.float32) if tensor is None else onnx.numpy_helper.to_array(tensor)
    )
    return np.full(inputs[0].tolist(), value[0])


def _expand(node: Node, inputs: Sequence[Array | None]) -> Array | None:
    data, shape = inputs[0], inputs[1]
    assert data is not None and shape is not None
    target = np.broadcast_shapes(data.shape, tuple(int(s) for s in shape))
    return np.broadcast_to(data, target) if math.prod(target) <= MAX_ELEMENTS else None


def _range(node: Node, inputs: Sequence[Array | None]) -> Array | None:
    start, limit, delta = (np.asarray(v).item() for v in inputs)
    if delta == 0 or (limit - start) / delta > MAX_ELEMENTS:
        return None
    return np.arange(start, limit, delta, dtype=np.asarray(inputs[0]).dtype)


def _reduce(function: Callable[..., Any]) -> Function:
    def run(node: Node, inputs: Sequence[Array | None]) -> Array:
        return np.asarray(
            function(
                inputs[0],
                axis=_axes(node, inputs),
                keepdims=bool(node.attributes.get("keepdims", 1)),
            )
        )

    return run


def _plain(function: Any) -> Function:
    return lambda node, inputs: function(*inputs)


FUNCTIONS: dict[str, Function] = {
    "Identity": _plain(lambda x: x),
    "Clip": _plain(lambda x, low=None, high=None: np.clip(x, low, high).astype(x.dtype)),
    "Gather": lambda node, v: np.take(v[0], v[1], axis=node.attributes.get("axis", 0)),  # type: ignore[arg-type]
    "Concat": lambda node, v: np.concatenate(v, axis=node.attributes["axis"]),  # type: ignore[arg-type]
    "Unsqueeze": _unsqueeze,
    "Squeeze": lambda node, v: np.squeeze(v[0], _axes(node, v)),  # type: ignore[arg-type]
    "Slice": _slice,
    "Reshape": _reshape,
    "Transpose": lambda node, v: np.transpose(v[0], node.attributes.get("perm")),  # type: ignore[arg-type]
    "Cast": _cast,
    "CastLike": lambda node, v: v[0].astype(v[1].dtype),  # type: ignore[union-attr]
    "Div": _divide,
    "Mod": lambda node, v: np.fmod(*v) if node.attributes.get("fmod") else np.mod(*v),  # type: ignore[arg-type]
    "ConstantOfShape": _constant_of_shape,
    "Expand": _expand,
    "Range": _range,
    "ReduceProd": _reduce(np.prod),
    "ReduceSum": _reduce(np.sum),
    "ReduceMax": _reduce(np.max),
    "ReduceMin": _reduce(np.min),
    # A third argument of NumPy's own functions is where they write.
    "Min": lambda node, v: reduce(np.minimum, v),  # type: ignore[arg-type]
    "Max": lambda node, v: reduce(np.maximum, v),  # type: ignore[arg-type]
    "Pow": lambda node, v: np.power(v[0], v[1]).astype(v[0].dtype),  # type: ignore[arg-type, union-attr]
    **{
        op: _plain(function)
        for op, function in {
            "Add": np.add,
            "Sub": np.subtract,
            "Mul": np.multiply,
            "Equal": np.equal,
            "Greater": np.greater,
            "Less": np.less,
            "GreaterOrEqual": np.greater_equal,
            "LessOrEqual": np.less_equal,
            "And": np.logical_and,
            "Or": np.logical_or,
            "Not": np.logical_not,
            "Neg": np.negative,
            "Abs": np.abs,
            "Floor": np.floor,
            "Ceil": np.ceil,
            "Round": np.rint,
            "Sqrt": np.sqrt,
            "Reciprocal": np.reciprocal,
            "Sign": np.sign,
            "Where": np.where,
        }.items()
    },
}


def is_arithmetic(node: Node) -> bool:
    """Tell whether `evaluate` knows the node's operator."""
    return node.op in FUNCTIONS and not node.domain


def evaluate(node: Node, inputs: Sequence[Array | None]) -> Array | None:
    """The node's first output, or None where it is not shape arithmetic or does not compute."""
    function = FUNCTIONS.get(node.op)
    if function is None or node.domain:
        return None
    try:
        with np.errstate(all="ignore"):
            result = function(node, inputs)
    except MISFIT:
        return None
    return None if result is None or np.size(result) > MAX_ELEMENTS else np.asarray(result)

"""JAX functions and Flax modules, by jax2onnx. JAX is an extra and imported when it is needed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from prunegraph.errors import ModelError
from prunegraph.frontends.base import frontend
from prunegraph.frontends.converters import converting, need
from prunegraph.frontends.fold import fold

#: The first one with Gelu; every supported ONNX Runtime reads it.
OPSET = 20

#: What the free first axis is called.
BATCH = "batch"


@frontend("jaxlib._jax.PjitFunction")
def load(source: Callable[..., Any], *, inputs: Any = None) -> onnx.ModelProto:
    """An ONNX model of a function that `jax.jit` returned; arrays that it holds are the weights.

    Args:
        source: the function of arrays; parameters are bound before (`functools.partial`, a closure).
        inputs: example inputs: an array, a sequence of arguments, or a mapping by parameter. The first axis is the
            batch and stays free. In place of an array its shape, `("batch", 32, 32, 3)`: names are free axes, numbers
            are fixed, and the values are float32.

    Raises:
        ModelError: there are no inputs, or it cannot be converted with them.
        MissingExtraError: jax2onnx is not installed.
    """
    name = getattr(source, "__name__", type(source).__name__)
    return _convert(source, f"the JAX function {name!r}", inputs)


@frontend("flax.nnx.module.Module")
def load_module(source: Any, *, inputs: Any = None) -> onnx.ModelProto:
    """An ONNX model of a Flax NNX module in evaluation mode; the module is left as it is. For the rest see `load`."""
    from flax import nnx

    module = nnx.clone(source)
    module.eval()
    return _convert(module, f"the Flax module {type(source).__name__}", inputs)


def _convert(function: Callable[..., Any], label: str, inputs: Any) -> onnx.ModelProto:
    need("a JAX function", "jax", "jax", "jax2onnx")
    if inputs is None:
        raise ModelError(
            f"{label}: give inputs, example arrays or shapes: it is traced with them"
        )
    with converting(label):
        from jax2onnx import to_onnx

        names, given = _arguments(function, inputs)
        model = to_onnx(
            function,
            [_described(each) for each in given],
            opset=OPSET,
            input_names=names,
            model_name=label.split()[-1].strip("'"),
        )
        return fold(model, {}, {})[0]


def _arguments(
    function: Callable[..., Any], inputs: Any
) -> tuple[list[str] | None, list[Any]]:
    """Names of a function's parameters, if they have some, and what each is given, in their order.

    Raises TypeError where the inputs do not fit the parameters.
    """
    signature = inspect.signature(function)
    if isinstance(inputs, Mapping):
        bound = signature.bind(**inputs)
    else:
        several = isinstance(inputs, list | tuple) and not _is_shape(inputs)
        bound = signature.bind(*(inputs if several else [inputs]))
    if bound.kwargs:
        raise TypeError(f"keyword-only parameters are not converted: {list(bound.kwargs)}")
    names = list(bound.arguments)
    return (names if len(names) == len(bound.args) else None), list(bound.args)


def _is_shape(value: Sequence[Any]) -> bool:
    return bool(value) and all(isinstance(each, int | str) for each in value)


def _described(value: Any) -> Any:
    """Shape and type of an input, the first axis of an array free."""
    import jax

    if isinstance(value, list | tuple) and _is_shape(value):
        return jax.ShapeDtypeStruct(tuple(value), np.float32)
    if isinstance(value, jax.ShapeDtypeStruct):
        return value
    array = np.asarray(value)
    dtype = jax.dtypes.canonicalize_dtype(array.dtype)
    shape = (BATCH, *array.shape[1:]) if array.ndim else ()
    return jax.ShapeDtypeStruct(shape, dtype)

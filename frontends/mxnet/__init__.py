"""MXNet's symbol files with their parameters, read without MXNet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx

from prunegraph.errors import ModelError
from prunegraph.frontends.base import frontend
from prunegraph.frontends.mxnet import symbol as symbol_file
from prunegraph.frontends.mxnet.bind import SUFFIX, find_params, read_params
from prunegraph.frontends.mxnet.conversion import Converted, convert
from prunegraph.frontends.mxnet.write import apply, store

__all__ = ["Converted", "apply", "convert", "load", "read", "store"]


@frontend(SUFFIX)
def load(
    source: str,
    *,
    params_file: str | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
) -> onnx.ModelProto:
    """An ONNX model (opset 17) from an MXNet symbol file and its parameters.

    Args:
        source: path of NAME-symbol.json.
        params_file: the parameters; by default NAME-NNNN.params with the highest number, else NAME.params.
        input_shapes: shapes of inputs by name, as MXNet wants them. Needed where the file does not
            say them and an operator depends on them.

    Raises ModelError: a file cannot be read, an operator is not known, or a shape is needed.
    """
    return read(source, params_file=params_file, input_shapes=input_shapes).model


def read(
    source: str,
    *,
    params_file: str | None = None,
    input_shapes: Mapping[str, Sequence[int | None]] | None = None,
) -> Converted:
    """As `load`, with what became of the symbol. Raises ModelError."""
    path = Path(source)
    result = symbol_file.load(path)
    beside = Path(params_file) if params_file is not None else find_params(path)
    if params_file is not None and not Path(params_file).is_file():
        raise ModelError(f"{params_file}: no such file")
    return convert(
        result, read_params(beside, result), input_shapes, path.name.removesuffix(SUFFIX)
    )

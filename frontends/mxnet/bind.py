"""Which variable is what: parameters from the file, inputs with their shapes and types, labels."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prunegraph.errors import ModelError
from prunegraph.frontends.mxnet import params as params_file
from prunegraph.frontends.mxnet.builder import Shape
from prunegraph.frontends.mxnet.symbol import NORMALISATIONS, Symbol, SymbolNode

SUFFIX = "-symbol.json"

#: Prefixes of names in checkpoints: arguments and auxiliary states.
PREFIXES = ("arg:", "aux:")

#: Layers, whose inputs after the first are parameters.
LAYERS = (
    "Convolution",
    "Convolution_v1",
    "Deconvolution",
    "FullyConnected",
    "Embedding",
    "InstanceNorm",
    "LayerNorm",
    "GroupNorm",
    "_contrib_DeformableConvolution",
    *NORMALISATIONS,
)

#: Operators whose first input holds indices, whatever type the table has.
LOOKUPS = ("Embedding", "take", "one_hot", "Cast", "amp_cast")


@dataclass(frozen=True)
class Input:
    """An input of the network; sizes that are not known are None."""

    name: str
    shape: Shape
    dtype: np.dtype


def find_params(symbol: Path) -> Path | None:
    """The parameter file beside a symbol file: that of the last epoch, else NAME.params."""
    stem = symbol.name.removesuffix(SUFFIX)
    epochs = {
        int(match[1]): path
        for path in symbol.parent.glob("*.params")
        if (match := re.fullmatch(rf"{re.escape(stem)}-(\d+)\.params", path.name))
    }
    plain = symbol.parent / f"{stem}.params"
    return epochs[max(epochs)] if epochs else plain if plain.is_file() else None


def read_params(path: Path | None, symbol: Symbol) -> dict[str, np.ndarray]:
    """Parameters by the names of variables. Raises ModelError."""
    if path is None:
        return {}
    raw = params_file.load(path)
    variables = set(symbol.variables())
    if raw and not any(_bare(name) in variables for name in raw):
        known = next(iter(raw))
        raise ModelError(
            f"{path}: no entry is a variable of {symbol.source} (the first is {known!r}); files of "
            "save_parameters() and nd.save() name them differently: write the network with export()"
        )
    return {_bare(name): array for name, array in raw.items()}


def _bare(name: str) -> str:
    return next(
        (name.removeprefix(prefix) for prefix in PREFIXES if name.startswith(prefix)), name
    )


def find_inputs(
    symbol: Symbol,
    params: Mapping[str, np.ndarray],
    shapes: Mapping[str, Sequence[int | None]],
) -> list[Input]:
    """The inputs of the network. Raises ModelError for parameters that are missing, and unknown names."""
    labels = symbol.labels() - set(params)
    open_names = [
        name for name in symbol.variables() if name not in params and name not in labels
    ]
    wrong = [name for name in shapes if name not in open_names and name not in labels]
    if wrong:
        raise ModelError(
            f"{symbol.source} has no input {wrong[0]!r}; its inputs are {', '.join(open_names) or 'none'}"
        )
    missing = [
        name for name in open_names if name not in shapes and _is_parameter(symbol, name)
    ]
    if missing:
        listed = ", ".join(missing[:5]) + (
            f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        )
        raise ModelError(
            f"{symbol.source}: the parameter file has no {listed}; give the right one with --params-file"
        )
    return [_input(symbol, name, params, shapes) for name in open_names]


def _is_parameter(symbol: Symbol, name: str) -> bool:
    return any(
        node.op in LAYERS and position > 0 for node, position in symbol.readers(name)
    )


def _input(
    symbol: Symbol,
    name: str,
    params: Mapping[str, np.ndarray],
    shapes: Mapping[str, Sequence[int | None]],
) -> Input:
    readers = symbol.readers(name)
    given = shapes.get(name) or symbol.shape(name) or _guess(symbol, readers, params)
    if given is None:
        raise ModelError(f"{symbol.source}: {needs_shape(name)}")
    shape = tuple(size if size is not None and size > 0 else None for size in given)
    return Input(name, shape, _dtype(symbol, name, readers, params))


def needs_shape(name: str) -> str:
    return (
        f"the shape of input {name!r} is needed and not known: give it with --input-shape {name}=1,3,224,224 "
        f"(its own numbers), or input_shapes={{{name!r}: (1, 3, 224, 224)}}"
    )


def _guess(
    symbol: Symbol,
    readers: Sequence[tuple[SymbolNode, int]],
    params: Mapping[str, np.ndarray],
) -> Shape | None:
    """Say what the first layer's weight tells: rank and channels."""
    for node, position in readers:
        weight = params.get(_variable(symbol, node, 1) or "")
        if position or weight is None:
            continue
        if node.op.startswith("Convolution"):
            groups = int(node.attributes.get("num_group", 1))
            return (None, weight.shape[1] * groups, *[None] * (weight.ndim - 2))
        if node.op == "FullyConnected" and weight.ndim == 2:
            return (None, weight.shape[1])
    return None


def _variable(symbol: Symbol, node: SymbolNode, position: int) -> str | None:
    """The name of the variable at an input of a node."""
    if position >= len(node.inputs):
        return None
    result = symbol.nodes[node.inputs[position].node]
    return result.name if result.is_variable else None


def _dtype(
    symbol: Symbol,
    name: str,
    readers: Sequence[tuple[SymbolNode, int]],
    params: Mapping[str, np.ndarray],
) -> np.dtype:
    """An input's type: what the file says, else that of the parameters beside it."""
    for node in symbol.nodes:
        flag = (
            node.attributes.get("__dtype__", "")
            if node.is_variable and node.name == name
            else ""
        )
        if flag.isdigit() and int(flag) in params_file.DTYPES:
            return params_file.DTYPES[int(flag)]
    for node, position in readers:
        beside = (
            params.get(_variable(symbol, node, 1) or "")
            if position == 0 and node.op not in LOOKUPS
            else None
        )
        if beside is not None and beside.dtype.kind == "f":
            return beside.dtype
    return np.dtype(np.float32)

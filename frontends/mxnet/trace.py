"""Cuts of the ONNX model's weights as cuts of MXNet's parameters.

Most initializers are a parameter as it is. Others were put together at import: gates in another
order, matrices out of a packed vector, numbers repeated by group. What was done to elements is
done again to their positions; the positions that are left say what stays of each parameter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from prunegraph.errors import ModelError
from prunegraph.frontends.mxnet.builder import Value

#: For a parameter, the indices that stay along each axis.
Kept = list[np.ndarray]


def kept_indices(shape: Sequence[int], removed: Mapping[int, Iterable[int]]) -> Kept:
    """Say what stays of an array along each axis. Raises ModelError for indices it does not have."""
    kept = []
    for axis, size in enumerate(shape):
        gone = set(removed.get(axis, ()))
        if any(not 0 <= index < size for index in gone):
            raise ModelError(f"a cut removes index {max(gone)} of an axis of {size}")
        kept.append(
            np.array([index for index in range(size) if index not in gone], np.int64)
        )
    return kept


def back_to_params(
    weights: Mapping[str, Value], cuts: Mapping[str, Mapping[int, Sequence[int]]]
) -> dict[str, Kept]:
    """Say what stays of each parameter that loses something.

    Args:
        weights: initializers by name, with what they were made from.
        cuts: by initializer and axis, the indices removed.

    Raises ModelError: what is left of a parameter is no array.
    """
    unknown = sorted(set(cuts) - set(weights))
    if unknown:
        raise ModelError(
            f"the plan cuts {unknown[0]!r}, which is no weight of the converted model"
        )
    sources = {name: _parameters(value) for name, value in weights.items()}
    touched = {match.key for name in cuts for match in sources[name]}
    positions = _numbered(
        [match for name in weights for match in sources[name] if match.key in touched]
    )
    alive = {key: np.zeros(ids.size, bool) for key, ids in positions.items()}
    gone = {key: np.zeros(ids.size, bool) for key, ids in positions.items()}
    params = {match.key: match for name in weights for match in sources[name]}
    for name, value in weights.items():
        if any(match.key in touched for match in sources[name]):
            positions |= _numbered(
                [match for match in sources[name] if match.key not in positions], positions
            )
            _note(
                value, kept_indices(value.sizes, cuts.get(name, {})), positions, alive, gone
            )
    return {params[key].label: _grid(params[key], alive[key], gone[key]) for key in touched}


def params_from(
    weights: Mapping[str, Value],
    values: Mapping[str, np.ndarray],
    stored: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """Parameters with the values that initializers have now.

    Args:
        weights: initializers by name, with what they were made from; parameters alone.
        values: of these initializers.
        stored: parameters as they were, by their names.
    """
    result = dict(stored)
    for name, value in weights.items():
        for param in _parameters(value):
            start = _numbered(_parameters(value))
            ids, first = (
                _positions(value, start),
                int(start[param.key].flat[0]) if start[param.key].size else 0,
            )
            inside = (ids >= first) & (ids < first + start[param.key].size)
            array = np.array(result[param.label])
            array.reshape(-1)[ids[inside] - first] = values[name][inside]
            result[param.label] = array
    return result


def _parameters(value: Value) -> list[Value]:
    """The parameters that a constant was made from."""
    if value.origin is None:
        return [value]
    return [match for part in value.origin[1] for match in _parameters(part)]


def _numbered(
    values: Sequence[Value], after: Mapping[str, np.ndarray] | None = None
) -> dict[str, np.ndarray]:
    """Arrays of unique numbers in the shapes of parameters."""
    start = sum(ids.size for ids in (after or {}).values())
    result: dict[str, np.ndarray] = {}
    for value in values:
        if value.key not in result:
            size = int(np.prod(value.sizes))
            result[value.key] = np.arange(start, start + size).reshape(value.sizes)
            start += size
    return result


def _positions(value: Value, numbered: Mapping[str, np.ndarray]) -> np.ndarray:
    if value.origin is None:
        return numbered[value.key]
    move, parts = value.origin
    return move(*(_positions(part, numbered) for part in parts))


def _note(
    value: Value,
    kept: Kept,
    numbered: Mapping[str, np.ndarray],
    alive: Mapping[str, np.ndarray],
    gone: Mapping[str, np.ndarray],
) -> None:
    """Mark which elements of parameters an initializer keeps, and which it loses."""
    ids = _positions(value, numbered)
    values = np.zeros(ids.shape, bool)
    values[np.ix_(*kept)] = True
    for key in alive:
        first, size = (
            int(numbered[key].flat[0]) if numbered[key].size else 0,
            numbered[key].size,
        )
        inside = (ids >= first) & (ids < first + size)
        alive[key][ids[inside & values] - first] = True
        gone[key][ids[inside & ~values] - first] = True


def _grid(param: Value, alive: np.ndarray, gone: np.ndarray) -> Kept:
    """The indices along each axis whose combinations are the elements that stay."""
    # An element that one initializer repeats stays while any of the copies does; unused ones stay.
    stays = (alive | ~gone).reshape(param.sizes)
    kept = [
        np.flatnonzero(stays.any(tuple(k for k in range(param.rank) if k != axis)))
        for axis in range(param.rank)
    ]
    if not stays[np.ix_(*kept)].all():
        raise ModelError(
            f"what the plan leaves of parameter {param.label!r} is no array; MXNet cannot hold it"
        )
    return kept

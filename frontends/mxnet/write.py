"""A pruned network back as MXNet's own files: parameters cut, attributes of the symbol edited."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from prunegraph.errors import ModelError, PlanError
from prunegraph.frontends.mxnet import params as params_file
from prunegraph.frontends.mxnet import symbol as symbol_file
from prunegraph.frontends.mxnet.bind import PREFIXES, SUFFIX, find_params
from prunegraph.frontends.mxnet.check import same_network
from prunegraph.frontends.mxnet.conversion import Converted, convert
from prunegraph.frontends.mxnet.edit import Pruned, edits, zero_states
from prunegraph.frontends.mxnet.trace import back_to_params, params_from
from prunegraph.graph.model import Graph
from prunegraph.graph.onnx_io import from_model, write_whole

if TYPE_CHECKING:
    from prunegraph.selection.plan import Plan


def apply(
    source: str,
    plan: Plan,
    pruned: Graph,
    out_symbol: str,
    out_params: str,
    *,
    params_file: str | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    repaired: Graph | None = None,
) -> onnx.ModelProto:
    """Write the symbol and the parameters of a pruned network, which MXNet itself loads.

    Args:
        source: path of NAME-symbol.json, from which the network was converted.
        plan: a plan that was made for the converted model; cuts that it leaves out are derived.
        small: the pruned graph; it says what became of groups, splits and reshapes.
        out_symbol: path of the new symbol file; its name ends in -symbol.json.
        out_params: path of the new parameter file.
        params_file: the parameters, where they do not lie beside the symbol.
        input_shapes: as for `load`; the same as when the network was converted.
        repaired: the pruned graph with other weights, which are written in place of those of `small`.

    Returns the ONNX model that the new files convert to. Its weights and shapes are those of
    `small`, or of `repaired`: nothing is written where they differ.

    Raises:
        ModelError: an operator cannot take the cut, or a file cannot be read or written.
        PlanError: a plan without cuts is for another model, or names what is not there; or it says what a symbol file
            cannot be written with: branches that go, blocks that lose channels of their own.
    """
    if not out_symbol.endswith(SUFFIX):
        raise ModelError(f"{out_symbol}: the name of a symbol file ends in {SUFFIX}")
    if plan.branches:
        raise PlanError(
            f"the plan drops branch {plan.branches[0]!r}, which a symbol file cannot be written without: write an "
            "ONNX model, or use --depth never"
        )
    path = Path(source)
    stored, prefixes = _stored(Path(params_file) if params_file else find_params(path))
    symbol = symbol_file.load(path)
    # By the name that `load` gives the model: a plan knows it by its digest.
    converted = convert(symbol, stored, input_shapes, path.name.removesuffix(SUFFIX))
    if not plan.cuts:
        plan = plan.complete(from_model(converted.model, source=source))
    kept = back_to_params(converted.weights, _by_weight(plan, converted.weights))
    fresh = {
        name: np.ascontiguousarray(array[np.ix_(*kept[name])]) if name in kept else array
        for name, array in stored.items()
    }
    changes = edits(symbol, converted, Pruned(pruned.model), fresh)
    fresh |= zero_states(symbol, changes, fresh)
    content = _edited(path, changes)
    edited = symbol_file.parse(content, out_symbol)
    again = convert(edited, fresh, input_shapes)
    created = again.model
    same_network(created, pruned.model)
    if repaired is not None:
        fresh = _trained(again, repaired, fresh, source)
        created = convert(edited, fresh, input_shapes).model
        same_network(created, repaired.model)
    _write(
        content,
        out_symbol,
        {prefixes[name] + name: array for name, array in fresh.items()},
        out_params,
    )
    return created


def store(
    source: str,
    trained: Graph,
    out_params: str,
    *,
    params_file: str | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
) -> onnx.ModelProto:
    """Write the weights of a trained graph as a network's parameters, which MXNet itself loads with the same symbol.

    Args:
        source: path of NAME-symbol.json, from which the graph was converted; a pruned one comes from `apply`.
        trained: the graph with other weights.
        out_params: path of the new parameter file.
        params_file: the parameters, where they do not lie beside the symbol.
        input_shapes: as for `load`; the same as when the network was converted.

    Returns the ONNX model that symbol and new parameters convert to. Its weights are those of `trained`: nothing is
    written where they differ.

    Raises ModelError: the graph is of another network, a weight changed that is no parameter (a gamma that `fix_gamma`
    holds at 1), or a file cannot be read or written.
    """
    path = Path(source)
    stored, prefixes = _stored(Path(params_file) if params_file else find_params(path))
    symbol = symbol_file.load(path)
    converted = convert(symbol, stored, input_shapes)
    fresh = _trained(converted, trained, stored, source)
    created = convert(symbol, fresh, input_shapes).model
    same_network(created, trained.model)
    _save({prefixes[name] + name: array for name, array in fresh.items()}, out_params)
    return created


def _trained(
    converted: Converted, trained: Graph, stored: Mapping[str, np.ndarray], source: str
) -> dict[str, np.ndarray]:
    """Parameters by name with the weights of a graph that has other ones. Raises ModelError."""
    values = {name: weight.read() for name, weight in trained.weights.items()}
    for name, value in values.items():
        held = converted.weights.get(name)
        if held is None or held.shape != value.shape:
            raise ModelError(
                f"{trained.source}: {name!r} of shape {list(value.shape)} is no weight of {source}"
            )
    weights = {
        name: value
        for name, value in converted.weights.items()
        if name in values and is_stored(value)
    }
    return params_from(weights, values, stored)


def _stored(path: Path | None) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Parameters by bare name, and the prefix of each."""
    raw = params_file.load(path) if path is not None else {}
    prefixes = {}
    arrays = {}
    for name, array in raw.items():
        prefix = next((known for known in PREFIXES if name.startswith(known)), "arg:")
        bare = name.removeprefix(prefix)
        prefixes[bare], arrays[bare] = prefix, array
    return arrays, prefixes


def _by_weight(plan: Plan, weights: Mapping[str, Any]) -> dict[str, dict[int, list[int]]]:
    """Cuts of what came from parameters; those of constants follow from attributes.

    Raises:
        PlanError: blocks of a weight lose channels of their own.
    """
    result: dict[str, dict[int, list[int]]] = defaultdict(dict)
    for cut in plan.cuts:
        if cut.over is not None:
            raise PlanError(
                f"weight {cut.weight!r} would lose other channels in each block, which no parameter file is written "
                "with: write an ONNX model, or use --blocks alike"
            )
        result[cut.weight][cut.axis] = list(cut.removed)
    return {
        name: axes
        for name, axes in result.items()
        if name not in weights or is_stored(weights[name])
    }


def is_stored(value: Any) -> bool:
    """Tell whether a constant holds parameters, rather than numbers that an operator brought."""
    if value.origin is None:
        return bool(value.stored)
    return all(is_stored(part) for part in value.origin[1])


def _edited(path: Path, changes: Mapping[int, Mapping[str, str]]) -> dict[str, Any]:
    """The symbol file's content with new attributes, by the position of a node."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    for index, attributes in changes.items():
        if index >= len(content["nodes"]):
            continue  # states that the file leaves out
        node = content["nodes"][index]
        for name, value in attributes.items():
            holder = next(
                (
                    key
                    for key in reversed(symbol_file.ATTRIBUTES)
                    if name in (node.get(key) or {})
                ),
                None,
            )
            holder = holder or next(
                (key for key in reversed(symbol_file.ATTRIBUTES) if key in node), "attrs"
            )
            node.setdefault(holder, {})[name] = value
    return content


def _write(
    content: Mapping[str, Any], symbol: str, arrays: Mapping[str, np.ndarray], params: str
) -> None:
    """Both files; the parameters first, so that a symbol is never there without them."""
    _save(arrays, params)
    write_whole(Path(symbol), [(json.dumps(content, indent=2) + "\n").encode()])


def _save(arrays: Mapping[str, np.ndarray], path: str) -> None:
    # By a name of its own: in the functions above `params_file` is a path.
    params_file.save(arrays, path)

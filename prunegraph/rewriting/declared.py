"""Shapes that a file declares of its values, as a cut leaves them.

They are rewritten, not dropped: of many operators (Einsum, GroupNormalization, those of ONNX Runtime)
nobody could infer them again, and a Scan or a strict reader needs them.
"""

from __future__ import annotations

import onnx

from prunegraph.coupling.survivors import Survivors
from prunegraph.graph.inference import elements


def declare_values(graph: onnx.GraphProto, survivors: Survivors) -> None:
    """Rewrite what a graph says of the values its nodes make, in place; what no node makes any more goes."""
    created = {output for node in graph.node for output in node.output}
    weights = survivors.coupling.graph.weights
    entries = [
        declare(e, e.name, survivors)
        for e in graph.value_info
        if e.name in created and e.name not in weights
    ]
    copies = [
        onnx.ValueInfoProto.FromString(e.SerializeToString())
        for e in entries
        if e is not None
    ]
    del graph.value_info[:]
    graph.value_info.extend(copies)


def declare_interface(graph: onnx.GraphProto, survivors: Survivors) -> None:
    """Rewrite what a graph says of those of its inputs and outputs that may change, in place."""
    for entry in (*graph.input, *graph.output):
        if entry.name in survivors.coupling.allow_io:
            new = declare(entry, entry.name, survivors)
            if new is not None:
                entry.CopyFrom(new)


def declare(
    entry: onnx.ValueInfoProto, value: str, survivors: Survivors
) -> onnx.ValueInfoProto | None:
    """Say what an entry says of a value, with the sizes that a cut leaves; symbols stay.

    Args:
        entry: what the file declares.
        value: the value's name in the graph.
        survivors: what is left of every axis.

    Returns:
        The entry for the cut graph, or None where nothing can be said: of a sequence that is cut, of
        numbers computed from sizes, or where the file declares a wrong rank.
    """
    coupling = survivors.coupling
    if value in coupling.shape_info.known and coupling.shape_info.known[value].ndim:
        return None  # numbers computed from sizes: as many as the sizes say
    if any(_is_cut(name, survivors) for name in elements(value, coupling.labels)):
        return None
    kept = survivors.value(value)
    if not any(each is not None for each in kept):
        return entry
    dims = entry.type.tensor_type.shape.dim
    copy = onnx.ValueInfoProto.FromString(entry.SerializeToString())
    if not entry.type.tensor_type.HasField("shape"):
        return copy
    if len(dims) != len(kept):
        return None
    for dim, each in zip(copy.type.tensor_type.shape.dim, kept, strict=True):
        if each is None:
            continue
        if dim.dim_value > 0:
            dim.dim_value = len(each)
        else:  # a symbol is one size wherever it stands, and this one has changed
            dim.ClearField("dim_param")
    return copy


def _is_cut(value: str, survivors: Survivors) -> bool:
    return any(each is not None for each in survivors.value(value))

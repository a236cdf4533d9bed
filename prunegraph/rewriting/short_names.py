"""The same graph in a smaller file: short names inside, and nothing said that holds by default.

Small models are mostly weights, and the rest is mostly names. Inputs and outputs keep theirs; what refers to a layer or
an inner value by name (comparing layer by layer, a plan made before) no longer finds it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import count, product

import onnx

from prunegraph.graph.model import Graph
from prunegraph.graph.order import subgraphs
from prunegraph.operators import is_convolution

#: Metadata of this project, which refer to values by name.
OWN = "prunegraph."

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"


def compact(graph: Graph) -> Graph:
    """A graph with the same numbers, inputs and outputs, and short names for all else; `graph` is not touched."""
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    notes = [entry for entry in model.metadata_props if not entry.key.startswith(OWN)]
    del model.metadata_props[:]
    model.metadata_props.extend(notes)
    kept = {value.name for value in (*model.graph.input, *model.graph.output)}
    _shorten(model.graph, _Names(kept))
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    for proto in _nodes(model.graph):
        _drop_defaults(proto, opsets)
    return Graph(model, folder=graph.folder, source=graph.source, keeps=graph)


class _Names(dict[str, str]):
    """Short names by the names they replace; those that are kept, and the empty one, stand for themselves."""

    def __init__(self, kept: Iterable[str]):
        super().__init__({name: name for name in (*kept, "")})
        self.free = (name for name in _words() if name not in self)

    def __missing__(self, name: str) -> str:
        self[name] = next(self.free)
        return self[name]


def _words() -> Iterator[str]:
    for length in count(1):
        yield from ("".join(letters) for letters in product(LETTERS, repeat=length))


def _shorten(graph: onnx.GraphProto, names: _Names) -> None:
    """Rename all values of a graph and of the graphs inside its nodes; names of nodes and shapes of values go."""
    for value in (*graph.input, *graph.output):
        value.name = names[value.name]
    for proto in graph.node:
        proto.ClearField("name")
        proto.ClearField("doc_string")
        for slots in (proto.input, proto.output):
            for slot, name in enumerate(slots):
                slots[slot] = names[name]
        for subgraph in subgraphs(proto):
            _shorten(subgraph, names)
    for tensor in (
        *graph.initializer,
        *(sparse.values for sparse in graph.sparse_initializer),
    ):
        tensor.name = names[tensor.name]
        tensor.ClearField("doc_string")
    for note in graph.quantization_annotation:
        note.tensor_name = names[note.tensor_name]
        for entry in note.quant_parameter_tensor_names:
            entry.value = names[entry.value]
    graph.ClearField("value_info")


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for proto in graph.node:
        yield proto
        for subgraph in subgraphs(proto):
            yield from _nodes(subgraph)


def _drop_defaults(proto: onnx.NodeProto, opsets: dict[str, int]) -> None:
    """Remove attributes that hold what their absence means."""
    known = _defaults(proto, opsets)
    kept = [
        each
        for each in proto.attribute
        if not (_is_default(each, known) or _is_idle(proto, each))
    ]
    if len(kept) < len(proto.attribute):
        del proto.attribute[:]
        proto.attribute.extend(kept)


def _defaults(
    proto: onnx.NodeProto, opsets: dict[str, int]
) -> dict[str, onnx.AttributeProto]:
    """Defaults of an operator's attributes; none where the operator is not ONNX's."""
    try:
        schema = onnx.defs.get_schema(
            proto.op_type, opsets.get(proto.domain, 1), proto.domain
        )
    except onnx.defs.SchemaError:
        return {}
    return {name: each.default_value for name, each in schema.attributes.items()}


def _is_default(
    attribute: onnx.AttributeProto, known: dict[str, onnx.AttributeProto]
) -> bool:
    default = known.get(attribute.name)
    if (
        default is None
        or not default.type
        or default.type != attribute.type
        or attribute.ref_attr_name
    ):
        return False
    value: object = onnx.helper.get_attribute_value(attribute)
    return value == onnx.helper.get_attribute_value(default)


def _is_idle(proto: onnx.NodeProto, attribute: onnx.AttributeProto) -> bool:
    """Defaults that schemas describe in words only: strides and dilations of 1, padding of 0."""
    if not is_convolution(proto) or proto.domain not in ("", "ai.onnx"):
        return False
    idle = {"strides": 1, "dilations": 1, "pads": 0}.get(attribute.name)
    return (
        idle is not None
        and not attribute.ref_attr_name
        and all(each == idle for each in attribute.ints)
    )

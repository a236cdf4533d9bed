"""The bridge to onnx-graphsurgeon, with an overlay for the facts it drops."""

from __future__ import annotations

import onnx
import onnx_graphsurgeon as gs

from prunegraph.graph import stored
from prunegraph.graph.model import Graph


def to_graphsurgeon(graph: Graph) -> gs.Graph:
    """The model as an onnx-graphsurgeon graph (a copy). See `from_graphsurgeon`."""
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    if graph.folder is not None:
        stored.take_in(list(stored.tensors(model.graph)), graph.folder, graph.source)
    return gs.import_onnx(model)


def from_graphsurgeon(surgeon: gs.Graph, like: Graph | None = None) -> Graph:
    """A Graph from an onnx-graphsurgeon graph.

    `like` is the graph it was made from: model-level facts that onnx-graphsurgeon drops
    (metadata, doc strings, model version) are taken over from there.
    """
    model = gs.export_onnx(surgeon, do_type_check=False)
    if like is not None:
        _overlay(model, like.model)
    return Graph(model, source=like.source if like else "graphsurgeon")


def _overlay(model: onnx.ModelProto, original: onnx.ModelProto) -> None:
    for name in (
        "domain",
        "model_version",
        "doc_string",
        "producer_name",
        "producer_version",
        "ir_version",
    ):
        setattr(model, name, getattr(original, name))
    model.graph.doc_string = original.graph.doc_string
    _replace(model.metadata_props, original.metadata_props)
    _replace(model.graph.metadata_props, original.graph.metadata_props)
    _replace(model.graph.quantization_annotation, original.graph.quantization_annotation)
    by_output = {tuple(node.output): node for node in original.graph.node}
    for node in model.graph.node:
        twin = by_output.get(tuple(node.output))
        if twin is not None:
            node.doc_string = twin.doc_string
            _replace(node.metadata_props, twin.metadata_props)


def _replace(target: object, source: object) -> None:
    del target[:]  # type: ignore[attr-defined]
    target.extend(source)  # type: ignore[attr-defined]

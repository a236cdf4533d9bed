"""A newer operator set, where a type or operator needs it."""

from __future__ import annotations

from onnx import version_converter

from prunegraph.errors import ModelError
from prunegraph.graph.model import Graph
from prunegraph.graph.onnx_io import from_model, has_external


def raise_opset(graph: Graph, version: int) -> Graph:
    """The same graph in a newer operator set of ONNX, by ONNX's own converter; as it is where it is new enough.

    Raises:
        ModelError: the converter cannot do it.
    """
    if graph.opsets.get("", 1) >= version:
        return graph
    what = f"{graph.source}: cannot be raised from operator set {graph.opsets.get('', 1)} to {version}"
    if has_external(graph):
        raise ModelError(f"{what}: its weights are in external files; export it again with that operator set")
    try:
        model = version_converter.convert_version(graph.model, version)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"{what}: {reason}; export it again with that operator set") from error
    return from_model(model, source=graph.source)

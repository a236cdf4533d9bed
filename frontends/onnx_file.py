"""ONNX files."""

from __future__ import annotations

from prunegraph.frontends.base import ONNX, frontend
from prunegraph.graph.model import Graph
from prunegraph.graph.onnx_io import load as read


@frontend(ONNX)
def load(source: str) -> Graph:
    """A Graph from the path of an ONNX file. Raises ModelError."""
    return read(source)

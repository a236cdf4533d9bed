"""Modules beside ONNX Runtime."""

from __future__ import annotations

import numpy as np
import torch

from prunegraph.graph.model import Graph
from prunegraph.runtime import session
from prunegraph.training.module import GraphModule

Array = np.ndarray


def reference(graph: Graph, inputs: dict[str, Array]) -> list[Array]:
    return session.run(session.session(graph, threads=1), inputs)


def run(module: GraphModule, inputs: dict[str, Array]) -> list[Array]:
    with torch.no_grad():
        return [y.numpy() for y in module(inputs)]


def difference(result: Array, wanted: Array) -> float:
    """Largest difference as a share of the largest value."""
    assert result.shape == wanted.shape and result.dtype == wanted.dtype
    if not wanted.size:
        return 0.0
    top = max(np.abs(wanted.astype(np.float64)).max(), 1e-30)
    return float(np.abs(result.astype(np.float64) - wanted.astype(np.float64)).max() / top)

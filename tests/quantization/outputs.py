"""What quantized graphs compute and hold."""

from __future__ import annotations

import numpy as np

from prunegraph.graph.model import Graph
from prunegraph.measuring.sqnr import decibels
from prunegraph.runtime.session import run, session


def outputs(graph: Graph, inputs: dict[str, np.ndarray]) -> np.ndarray:
    return run(session(graph), inputs)[0]


def decibels_of(graph: Graph, created: Graph, inputs: dict[str, np.ndarray]) -> float:
    x, y = outputs(graph, inputs), outputs(created, inputs)
    return decibels(float(np.square(x).sum()), float(np.square(x - y).sum()))


def scales(graph: Graph) -> dict[str, tuple[float, int]]:
    """Scale and zero point behind every value of a quantized graph."""
    result = {}
    for node in graph.nodes:
        if node.op == "QuantizeLinear":
            scale, zero = (graph.weights[node.inputs[slot]].read() for slot in (1, 2))
            result[node.inputs[0]] = float(scale), int(zero)
    return result

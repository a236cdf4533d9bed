"""What a graph's values look like, from the statistics in its BatchNormalization nodes alone.

On the training distribution the output of a BatchNormalization has mean beta and standard deviation |gamma|
in every channel. Samples of such normal numbers, drawn for each channel of each node by itself,
go through the operators behind: activations, sums of branches, pooling. What comes out are
samples of every channel there: for a ReLU their mean is the closed form
`gamma phi(beta/gamma) + beta Phi(beta/gamma)`. Layers without a BatchNormalization end it.
Sources: Nagel et al. 2019 (bias correction without data); ALGORITHMS 6.4.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import onnx

from prunegraph.errors import DataError
from prunegraph.graph.model import FLOAT_TYPES, Graph, Node
from prunegraph.graph.shape_info import ShapeInfo
from prunegraph.operators import is_batch_normalization, is_concat, is_flatten, passes
from prunegraph.ops import elementwise, rule_for
from prunegraph.runtime.piece import run_piece

Array = np.ndarray

#: Samples of a channel. They are quantiles in random order, so means are nearly exact.
SAMPLES = 512


def check(graph: Graph) -> None:
    """Raise DataError for a graph that has nothing to go by."""
    if not any(is_batch_normalization(node) for node in graph.nodes):
        raise DataError(
            f"{graph.source} has no BatchNormalization to go by: give --data, or repair 'none'"
        )


def samples(graph: Graph, shape_info: ShapeInfo, seed: int = 0) -> dict[str, Array]:
    """Samples of values by name [samples, channels, 1, ...]; values that nothing is known of are left out.

    Raises:
        DataError: the graph has no BatchNormalization.
    """
    check(graph)
    given = {
        node.outputs[0]: _normal(
            graph,
            node,
            len(shape_info.shapes[node.outputs[0]]),
            np.random.default_rng([seed, i]),
        )
        for i, node in enumerate(graph.nodes)
        if is_batch_normalization(node) and _is_known(graph, node)
    }
    known, protos = set(given), []
    for node in graph.nodes:
        if node.outputs[0] not in known and _follows(graph, shape_info, node, known):
            known.add(node.outputs[0])
            protos.append(_as_run(node))
    created = [proto.output[0] for proto in protos]
    return {**given, **(run_piece(graph, protos, given, created) if created else {})}


def _is_known(graph: Graph, node: Node) -> bool:
    return all(
        graph.weight_behind(value) for value in node.inputs[1:3]
    ) and not node.attributes.get("training_mode")


def _normal(graph: Graph, node: Node, rank: int, rng: np.random.Generator) -> Array:
    """Outputs of a BatchNormalization, every channel in an order of its own."""
    scale, shift = (
        graph.weights[str(graph.weight_behind(value))].read() for value in node.inputs[1:3]
    )
    points = np.asarray([NormalDist().inv_cdf((i + 0.5) / SAMPLES) for i in range(SAMPLES)])
    drawn = (
        rng.permuted(np.repeat(points[:, None], len(scale), axis=1), axis=0) * scale + shift
    )
    return drawn.astype(scale.dtype).reshape(SAMPLES, -1, *[1] * (rank - 2))


def _follows(graph: Graph, shape_info: ShapeInfo, node: Node, known: set[str]) -> bool:
    """Tell whether a node's output follows from samples of its inputs."""
    inputs = [value for value in node.inputs if value]
    if node.domain or not any(value in known for value in inputs) or len(node.outputs) != 1:
        return False
    if passes(node, "samples"):
        return node.inputs[0] in known
    if any(value not in known and value not in graph.weights for value in inputs):
        return False
    if is_flatten(node):  # of single positions only: else channels are repeated
        before = shape_info.shapes.get(node.inputs[0], ())
        return len(before) > 1 and shape_info.shapes.get(node.outputs[0]) == before[:2]
    if is_concat(node):
        return node.attributes["axis"] == 1 and all(value in known for value in inputs)
    rule = rule_for(node)
    by_element = rule is not None and rule.propagate in (
        elementwise.propagate_unary,
        elementwise.propagate_nary,
    )
    return by_element and shape_info.types.get(node.outputs[0]) in FLOAT_TYPES


def _as_run(node: Node) -> onnx.NodeProto:
    if not passes(node, "samples"):
        return node.proto
    return onnx.helper.make_node("Identity", [node.inputs[0]], [node.outputs[0]])

"""A graph in other bases: weights that make the channels of a space times its matrix, readers times the inverse."""

from __future__ import annotations

import numpy as np

from prunegraph.errors import PlanError
from prunegraph.graph.model import Graph
from prunegraph.rewriting.fold import fold
from prunegraph.rewriting.fold_scales import fold_scales
from prunegraph.rewriting.rewriter import Rewriter
from prunegraph.rotation.spaces import Space, WeightPart, find_spaces
from prunegraph.selection.rotation import Rotation

Array = np.ndarray


def key(space: Space) -> tuple[str, int]:
    """What tells a space from all others: its first layer, and the place of its first channel there."""
    part = next(part for part in space.weights if not part.reads)
    return part.node.name, int(part.columns[0, 0])


def folded(graph: Graph, outputs: tuple[str, ...]) -> Graph:
    """The graph with those nodes, by their first outputs, folded into the layers before or behind them."""
    if not outputs:
        return graph
    others = {output for node in graph.nodes for output in node.outputs} - set(outputs)
    return fold_scales(fold(graph, keep=others), keep=others)


def rotate(graph: Graph, rotation: Rotation) -> Graph:
    """The graph in the bases of a rotation: the same function, with other weights.

    Its digest follows from those of the graph and of the rotation.

    Raises:
        PlanError: the rotation is not for this graph.
    """
    original, graph = graph, folded(graph, rotation.folded)
    spaces = {key(space): space for space in find_spaces(graph)}
    mixed: dict[str, list[tuple[WeightPart, Array]]] = {}
    for turn in rotation.turns:
        space = spaces.get(turn.key)
        if space is None or space.size != len(turn.matrix):
            raise PlanError(
                f"the plan rotates {len(turn.matrix)} channels of layer {turn.layer!r}, which the model does not "
                "have, or cannot rotate"
            )
        matrix = turn.matrix.astype(np.float64)
        inverse = matrix.T if space.is_rigid else np.linalg.inv(matrix)
        for part in space.weights:
            # On the dual side the inverse's transpose takes the matrix's place.
            direct = part.reads == part.dual
            mixed.setdefault(part.weight, []).append(
                (part, matrix if direct else inverse.T)
            )
    rewriter = Rewriter(graph)
    for name, parts in mixed.items():
        weight = graph.weights[name]
        values = weight.read().astype(np.float64)
        for part, matrix in parts:
            values = _mixed(values, part, matrix)
        rewriter.set_weight(name, values.astype(weight.dtype))
    result = rewriter.finish()
    result.identify(original.sha256, rotation.sha256)
    return result


def inside(graph: Graph, rotation: Rotation) -> frozenset[str]:
    """Values that a rotation changes: those that hold rotated channels, and what layers made before folding."""
    turned = {turn.key for turn in rotation.turns}
    spaces = find_spaces(folded(graph, rotation.folded))
    values = [space.inside for space in spaces if key(space) in turned]
    before = (graph.nodes[graph.producer[output]].inputs for output in rotation.folded)
    return frozenset().union(*values, rotation.folded, *before)


def _mixed(values: Array, part: WeightPart, matrix: Array) -> Array:
    """A weight whose vectors on a part's columns are multiplied by a matrix from the right."""
    rest = range(values.ndim - len(part.axes), values.ndim)
    moved = np.moveaxis(values, part.axes, rest)
    rows = moved.reshape(
        -1, int(np.prod(moved.shape[values.ndim - len(part.axes) :]))
    ).copy()
    for columns in part.columns:
        rows[:, columns] = rows[:, columns] @ matrix
    return np.moveaxis(rows.reshape(moved.shape), rest, part.axes)

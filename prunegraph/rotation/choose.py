"""Which spaces get another basis, and which one: from data, or from weights alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from prunegraph.graph import symmetric
from prunegraph.graph.linear import LinearLayer, groups
from prunegraph.graph.model import Graph, Node
from prunegraph.graph.shapes import shape_info
from prunegraph.operators import info, is_softmax
from prunegraph.rewriting.fold import fold
from prunegraph.rewriting.fold_scales import fold_scales
from prunegraph.rotation.basis import best_basis, mean_of
from prunegraph.rotation.moments import SpaceMoments
from prunegraph.rotation.rotate import folded, key
from prunegraph.rotation.spaces import Space, ValuePart, WeightPart, find_spaces
from prunegraph.runtime.statistics import Statistics
from prunegraph.selection.rotation import Rotation, Turn

Array = np.ndarray


def prepare(
    graph: Graph, *, scales: bool = True
) -> tuple[Graph, tuple[str, ...], tuple[Space, ...]]:
    """Fold what stands between layers and spaces into the layers.

    A BatchNormalization acts on single channels; folded into the layer before it, it is none of theirs. So does the
    scale behind an RMS normalisation, which the layers behind it take.

    Args:
        graph: the model.
        scales: whether these scales are folded, too, so that streams between normalisations are spaces.

    Returns:
        The graph, the first outputs of the nodes that were folded, and the graph's spaces.
    """
    whole = fold(graph)
    scaled = fold_scales(whole) if scales else whole
    if scaled is graph:
        return graph, (), find_spaces(graph)
    spaces = find_spaces(scaled)
    makers = {
        part.node.outputs[0]: None
        for space in spaces
        for part in space.weights
        if not part.reads and info(part.node).folds
    }
    held = frozenset().union(*(space.inside for space in spaces))
    gone = [
        node.outputs[0]
        for node in whole.nodes
        if node.outputs
        and node.outputs[0] not in scaled.producer
        and not held.isdisjoint(node.inputs)
    ]
    outputs = tuple(
        dict.fromkeys([*(o for each in makers for o in _folded_into(graph, each)), *gone])
    )
    result = folded(graph, outputs)
    return result, outputs, find_spaces(result)


def _folded_into(graph: Graph, output: str) -> list[str]:
    """First outputs of the nodes from a layer down to a value, without that of the layer."""
    result: list[str] = []
    while not info(node := graph.nodes[graph.producer[output]]).folds:
        result.append(output)
        output = next(
            value
            for value in node.inputs
            if value in graph.producer and graph.weight_behind(value) is None
        )
    return result[::-1]


def choose_rotation(
    graph: Graph, spaces: Sequence[Space], statistics: Statistics | None = None
) -> Rotation:
    """The best basis of each space.

    Args:
        graph: a graph that `prepare` gave.
        spaces: those of it that are rotated.
        statistics: what data show of that graph; None takes weights alone.
    """
    moments = SpaceMoments(spaces, statistics) if statistics is not None else None
    turns = []
    for space in spaces:
        makers = _made(graph, space, moments)
        readers = _read(graph, space, moments, statistics)
        basis = best_basis(makers, readers, rigid=space.is_rigid)
        turns.append(Turn(*key(space), basis.matrix.astype(np.float32)))
    return Rotation(tuple(turns))


def _made(graph: Graph, space: Space, moments: SpaceMoments | None) -> Array:
    """Covariance of a space's channels, or what its layers make of inputs that are all alike.

    Where both sides of a contraction are there, second moments of the first side.
    """
    parts = [part for part in space.values if not part.dual]
    if moments is not None and parts:
        pairs = any(part.partner for part in space.values)
        return mean_of(
            [
                each
                for part in parts
                for each in (
                    _factor(graph, part, moments) if pairs else moments.covariance(part)
                )
            ]
        )
    return _of_weights(graph, space, dual=False)


def _read(
    graph: Graph,
    space: Space,
    moments: SpaceMoments | None,
    statistics: Statistics | None,
) -> Array:
    """What is read of a space's channels: what errors of them do at the outputs, as far as that is known.

    Else each layer's errors count relative to the energy of its outputs.
    """
    result = np.zeros((space.size, space.size))
    duals = [part for part in space.values if part.dual]
    if duals and moments is not None:
        if (known := _slopes(space, statistics)) is not None:
            return known
        return mean_of([each for part in duals for each in _factor(graph, part, moments)])
    if duals:
        return _of_weights(graph, space, dual=True)
    layers = {part.node.index: part for part in space.weights if part.reads}
    roots = {
        node: _metric_root(layers[node].node, statistics)
        for node in {part.node.index for part in space.values if not part.partner}
        if node in layers
    }
    is_known = all(each is not None for each in roots.values())
    for part in space.values:
        if part.node.index not in roots:
            continue
        weights = _vectors(graph, layers[part.node.index])
        metric = roots[part.node.index] if is_known else None
        if metric is not None:
            weights = _weighted(weights, metric)
        each = np.einsum("vip,vjp->vij", weights, weights)
        energy = 1.0
        if moments is not None and not is_known:
            energy = float(np.einsum("vij,vji->", moments.covariance(part), each))
        total = each.sum(axis=0)
        result += total / (energy if energy > 0 else 1.0)
    return result if result.any() else np.eye(space.size)


def _slopes(space: Space, statistics: Statistics | None) -> Array | None:
    """Second moments of the outputs' gradients by the first side of a contraction [channels, channels].

    They say what the other side does with an error, behind the Softmax and all that follows. None where they are not
    known.
    """
    makers = [
        part
        for part in space.weights
        if not part.reads and not part.dual and part.node.input(1) == part.weight
    ]
    if len(makers) != 1 or statistics is None:
        return None
    metric = statistics.error_metric(makers[0].node)
    if metric is None:
        return None
    return mean_of([metric[np.ix_(each, each)] for each in makers[0].columns])


def _metric_root(node: Node, statistics: Statistics | None) -> Array | None:
    """A factor of what errors of a layer do at the outputs [outputs, outputs]; None where that is not known."""
    metric = statistics.error_metric(node) if statistics is not None else None
    if metric is None or groups(node) > 1:
        return None
    return symmetric.root(metric)


def _weighted(vectors: Array, root: Array) -> Array:
    """A layer's weights by channel [vectors, channels, outputs x kernel], outputs times a factor."""
    shape = vectors.shape
    apart = vectors.reshape(*shape[:2], len(root), -1)
    return np.einsum("vcok,op->vcpk", apart, root, optimize=True).reshape(shape)


def _factor(graph: Graph, part: ValuePart, moments: SpaceMoments) -> Array:
    """Second moments of one side of a contraction [vectors, channels, channels].

    What is the same for all keys of a query does nothing behind a Softmax over the keys: their mean does not count.
    """
    node = part.node
    is_key = part.value == node.inputs[1]
    of = moments.covariance if is_key and _is_normalised(graph, node) else moments.second
    return of(part)


def _is_normalised(graph: Graph, node: Node) -> bool:
    """Tell whether the last axis of a product goes through factors and sums to a Softmax over it, and nowhere else."""
    readers = graph.consumers.get(node.outputs[0], ())
    while len(readers) == 1 and node.outputs[0] not in graph.outputs:
        value, node = node.outputs[0], graph.nodes[readers[0][0]]
        if is_softmax(node):
            last = node.attributes.get("axis", -1 if node.version >= 13 else 1)
            return bool(last in (-1, len(shape_info(graph).shapes[value]) - 1))
        if info(node).mixes in ("product", "quotient"):
            other = node.inputs[1 - node.inputs.index(value)]
            if int(np.prod(shape_info(graph).shapes.get(other, (2,)))) != 1:
                return False
        elif info(node).mixes not in ("alike", "sum"):
            return False
        readers = graph.consumers.get(node.outputs[0], ())
    return False


def _of_weights(graph: Graph, space: Space, *, dual: bool) -> Array:
    """Products of the weights that make a space's channels on one side, each relative to its own."""
    result = np.zeros((space.size, space.size))
    for part in space.weights:
        if part.reads or part.dual != dual or part.node.input(1) != part.weight:
            continue
        weights = _vectors(graph, part)
        each = np.einsum("vip,vjp->ij", weights, weights)
        result += each / max(float(np.trace(each)), np.finfo(np.float64).tiny)
    return result if result.any() else np.eye(space.size)


def _vectors(graph: Graph, part: WeightPart) -> Array:
    """A weight's values by channel [vectors, channels, others]."""
    layer = LinearLayer(graph, part.node)
    values = layer.weighted()
    rows = np.moveaxis(values, part.axes, range(len(part.axes)))
    rows = rows.reshape(int(np.prod(rows.shape[: len(part.axes)])), -1)
    return rows[part.columns]

"""How far outputs are from the original's, for many versions that run side by side.

Scores of words (a last layer with a vocabulary of outputs) are compared by the divergence of their
probabilities, at some positions, and that layer runs for these alone. Outputs that are probabilities are
compared in the same way. All else by the squared error, relative to the outputs' variation: for embeddings of
length one that says the same as 1 - cosine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from prunegraph.graph import linear
from prunegraph.graph.model import Graph, Node
from prunegraph.measuring import metrics
from prunegraph.measuring.metrics import Seen
from prunegraph.ops.rule import Shape
from prunegraph.tuning.relay import Arrays, Version

Array = np.ndarray

#: A last layer with at least this many outputs for each position makes scores of words.
VOCABULARY = 4096

#: Positions at which scores of words are compared.
POSITIONS = 128

#: How far a row of probabilities may be from a sum of 1.
SUM = 1e-3


@dataclass(frozen=True)
class Judge:
    """Compares the wanted values of versions with the original's.

    Args:
        graph: the original.
        wanted: names of the values that are compared.
        last: the layer behind the wanted value that makes scores of words; None where there is none.
    """

    graph: Graph
    wanted: tuple[str, ...]
    last: Node | None = None

    def damage(self, expected: Mapping[str, Arrays], version: Version) -> float:
        """How far a version is from the original: 0 is the same.

        Raises:
            DataError: no output is a number.
        """
        if not version.values.keys() & set(self.wanted) and (
            self.last is None or self.last.index not in version.nodes
        ):
            return 0.0
        with np.errstate(all="ignore"):
            value = self._measured(expected, version)
        return value if np.isfinite(value) else metrics.USELESS

    def _measured(self, expected: Mapping[str, Arrays], version: Version) -> float:
        if self.last is not None:
            return metrics.kl(self._scored(expected[self.wanted[0]], version))
        seen = list(self._seen(expected, version))
        if all(_are_probabilities(each.expected) for each in seen):
            return metrics.kl(seen)
        return metrics.error(seen)

    def _seen(self, expected: Mapping[str, Arrays], version: Version) -> Iterator[Seen]:
        count = len(next(iter(expected.values())))
        for batch in range(count):
            first = {name: expected[name][batch] for name in self.wanted}
            second = {
                name: version.values.get(name, expected[name])[batch]
                for name in self.wanted
            }
            yield Seen({}, first, second)

    def _scored(self, expected: Arrays, version: Version) -> Iterator[Seen]:
        """Scores of words at some positions, by the original's last layer and the version's."""
        assert self.last is not None
        old = linear.LinearLayer(self.graph, self.last)
        matrix = linear.scaled_matrix(self.graph, self.last)[0]
        intercept = old.vector()
        own, added = matrix, intercept
        if self.last.index in version.nodes:
            revision = version.revise({self.last.index})
            own, added = revision.matrix(self.last)[0], revision.intercept(self.last)
        first, second = (
            _positions(rows)
            for rows in (expected, version.values.get(self.wanted[0], expected))
        )
        dtype = np.float32
        scores = (
            rows.astype(dtype) @ weight.astype(dtype) + shift.astype(dtype)
            for rows, weight, shift in ((first, matrix, intercept), (second, own, added))
        )
        yield Seen({}, {"scores": next(scores)}, {"scores": next(scores)})


def judged_by(graph: Graph, shapes: Mapping[str, Shape]) -> Judge:
    """What compares the outputs of a graph's versions."""
    last = _vocabulary(graph, shapes)
    wanted = tuple(graph.outputs) if last is None else (last.inputs[0],)
    return Judge(graph, wanted, last)


def _vocabulary(graph: Graph, shapes: Mapping[str, Shape]) -> Node | None:
    """The layer that makes the graph's only output, if that holds scores of words."""
    output = graph.outputs[0]
    if len(graph.outputs) > 1 or output not in graph.producer:
        return None
    node = graph.nodes[graph.producer[output]]
    if (
        not linear.is_linear(graph, node)
        or linear.LinearLayer(graph, node).rest
        or len(shapes.get(output, ())) != 3
        or shapes[output][-1] < VOCABULARY
        or node.inputs[0] not in graph.producer
    ):
        return None
    return node


def _positions(rows: Sequence[Array]) -> Array:
    """Some rows [positions, inputs], evenly from all batches."""
    flat = np.concatenate([each.reshape(-1, each.shape[-1]) for each in rows])
    chosen = np.linspace(0, len(flat) - 1, min(POSITIONS, len(flat))).astype(np.int64)
    result: Array = flat[chosen]
    return result


def _are_probabilities(outputs: Mapping[str, Array]) -> bool:
    """Tell whether there is one output, of probabilities along its last axis."""
    first = next(iter(outputs.values()))
    return (
        len(outputs) == 1
        and metrics.has_classes(first)
        and bool((first >= 0).all())
        and bool((abs(first.sum(axis=-1) - 1) < SUM).all())
    )

"""How far outputs are from the original's, for many versions that run side by side.

Scores of words (a last layer with a vocabulary of outputs) are compared by the divergence of their
probabilities, at some positions, and that layer runs for these alone. Outputs that are probabilities are
compared in the same way. All else by the squared error, relative to the outputs' variation: for embeddings of
length one that says the same as 1 - cosine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

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

#: Share of all probability that the words have which are looked at: the rest is most of a vocabulary.
LIKELY = 0.99

#: Scores that rise by more count as if they rose by that: its exponential is still a number of single precision.
LARGEST = 80

#: How far a row of probabilities may be from a sum of 1.
SUM = 1e-3


@dataclass(frozen=True)
class Judge:
    """Says what of versions is compared with the original.

    Args:
        graph: the original.
        wanted: names of the values that are compared.
        last: the layer behind the wanted value that makes scores of words; None where there is none.
    """

    graph: Graph
    wanted: tuple[str, ...]
    last: Node | None = None

    def against(self, expected: Mapping[str, Arrays]) -> Reference:
        """What compares versions with the original, whose wanted values are `expected`, by name and batch."""
        return Reference(self, expected)


@dataclass(frozen=True)
class Reference:
    """The original's wanted values, with which versions are compared.

    Args:
        judge: says what is compared.
        expected: the original's wanted values, by name and batch.
    """

    judge: Judge
    expected: Mapping[str, Arrays]

    def damage(self, version: Version) -> float:
        """How far a version is from the original: 0 is the same.

        Raises:
            DataError: no output is a number.
        """
        last = self.judge.last
        if not version.values.keys() & set(self.judge.wanted) and (
            last is None or last.index not in version.nodes
        ):
            return 0.0
        with np.errstate(all="ignore"):
            value = self._measured(version)
        return value if np.isfinite(value) else metrics.USELESS

    def _measured(self, version: Version) -> float:
        if self.judge.last is not None:
            return self._divergence(self.judge.last, version)
        seen = list(self._seen(version))
        if all(_are_probabilities(each.expected) for each in seen):
            return metrics.kl(seen)
        return metrics.error(seen)

    def _seen(self, version: Version) -> Iterator[Seen]:
        count = len(next(iter(self.expected.values())))
        for batch in range(count):
            first = {name: self.expected[name][batch] for name in self.judge.wanted}
            second = {
                name: version.values.get(name, self.expected[name])[batch]
                for name in self.judge.wanted
            }
            yield Seen({}, first, second)

    def _divergence(self, last: Node, version: Version) -> float:
        """The mean divergence of words' probabilities from the original's, in nats; as `metrics.kl` says it.

        With p the original's probabilities and d what scores differ by, it is log(sum p exp(d - sum p d)). Words that
        hardly ever come (`LIKELY`) are left out.
        """
        words, name = self._words, self.judge.wanted[0]
        rows = _positions(version.values.get(name, self.expected[name]))
        if last.index in version.nodes:
            revision = version.revise({last.index})
            moved = revision.matrix(last)[0][:, words.chosen].astype(np.float32)
            shift = revision.intercept(last)[words.chosen].astype(np.float32)
            moves = rows @ moved + shift - words.scores
            common = np.einsum("pw,pw->p", words.chances, moves)
        else:
            step = rows - words.rows
            moves = step @ words.matrix
            common = np.einsum("pi,pi->p", words.means, step)
        # What all words of a position move by says nothing, and would be most of what is rounded.
        moves -= common[:, None]
        np.exp(np.minimum(moves, LARGEST, out=moves), out=moves)
        moves -= 1
        gained = np.einsum("pw,pw->p", words.chances, moves)
        return float(np.log1p(gained).mean(dtype=np.float64))

    @cached_property
    def _words(self) -> Words:
        graph, last = self.judge.graph, self.judge.last
        assert last is not None
        layer = linear.LinearLayer(graph, last)
        matrix = linear.scaled_matrix(graph, last, np.float32)[0]
        rows = _positions(self.expected[self.judge.wanted[0]])
        scores = rows @ matrix + layer.vector().astype(np.float32)
        chances = np.exp(scores - scores.max(axis=-1, keepdims=True))
        chances /= chances.sum(axis=-1, keepdims=True, dtype=np.float64).astype(np.float32)
        share = chances.mean(axis=0, dtype=np.float64)
        order = np.argsort(-share, kind="stable")
        count = int(np.searchsorted(np.cumsum(share[order]), LIKELY)) + 1
        chosen = np.sort(order[:count])
        chances = chances[:, chosen]
        chances /= chances.sum(axis=-1, keepdims=True)
        narrow = np.ascontiguousarray(matrix[:, chosen])
        return Words(chosen, rows, narrow, scores[:, chosen], chances, chances @ narrow.T)


@dataclass(frozen=True)
class Words:
    """What the original says of the words that come at all.

    Args:
        chosen: their numbers.
        rows: what the last layer reads [positions, inputs].
        matrix: the last layer's [inputs, words].
        scores: what it makes of the rows [positions, words].
        chances: probabilities among them [positions, words].
        means: what the matrix is on average, by these [positions, inputs].
    """

    chosen: Array
    rows: Array
    matrix: Array
    scores: Array
    chances: Array
    means: Array


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
    result: Array = flat[chosen].astype(np.float32, copy=False)
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

"""Graph -> Graph: a smaller vocabulary. Rows of the embedding go, and with them what the model says of those tokens.

The ids that stay are numbered anew, in their old order. Either the inputs take new ids, or (`old_ids`) they take the
old ones, which a table in the graph translates. Outputs along the vocabulary are in the new order in any case.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from prunegraph.coupling.analysis import analyze
from prunegraph.coupling.coupling import Coupling
from prunegraph.coupling.places import places
from prunegraph.coupling.sample import complete
from prunegraph.coupling.survivors import Survivors
from prunegraph.errors import ModelError
from prunegraph.graph.indices import table_of, table_uses
from prunegraph.graph.intake import GONE, Intake, Renumbering
from prunegraph.graph.model import Graph, Node
from prunegraph.graph.shapes import shape_info
from prunegraph.operators import is_gather, measures, moves_data
from prunegraph.rewriting.cut import cut
from prunegraph.rewriting.rewriter import Rewriter

Array = np.ndarray

#: Types of inputs that hold ids.
INTEGERS = (onnx.TensorProto.INT32, onnx.TensorProto.INT64)


@dataclass(frozen=True)
class Vocabulary:
    """A graph with a smaller vocabulary.

    Args:
        original: the graph it was made from.
        model: the graph with fewer tokens.
        table: the weight whose rows are tokens.
        kept: old ids in the order of their new numbers.
        size: how many tokens there were.
        inputs: inputs that hold ids.
        outputs: outputs whose last axis is the vocabulary.
        old_ids: whether the inputs still take old ids.
        survivors: what is left of every axis.
    """

    original: Graph = field(repr=False)
    model: Graph = field(repr=False)
    table: str
    kept: tuple[int, ...] = field(repr=False)
    size: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    old_ids: bool
    survivors: Survivors = field(repr=False)


def shrink_vocabulary(
    graph: Graph,
    keep: Sequence[int],
    *,
    old_ids: bool = False,
    scratch: Path | None = None,
) -> Vocabulary:
    """Take all tokens but some out of a graph; the graph itself is not touched.

    The table of the vocabulary is the largest weight whose rows an input of whole numbers picks. What is tied to
    it goes along: an output layer that shares it, or the last axis of any output that is as long.

    Args:
        graph: the model.
        keep: ids that stay.
        old_ids: whether the inputs go on to take old ids; one that is gone is then read as the lowest that is kept
            (in most vocabularies the unknown token, or padding).
        scratch: where to put weights of a model that has them in external files.

    Raises:
        ModelError: the graph has no such table, or something else depends on its rows; or an id is none of it.
    """
    complete(graph, shape_info(graph))
    table, inputs = _find_table(graph)
    size = graph.weights[table].shape[0]
    kept = _checked(graph, keep, size)
    coupling = analyze(graph, allow_io=_last_axes(graph, size), tables=[table])
    outputs = tuple(_outputs(coupling, table, size))
    survivors = _survivors(coupling, table, outputs, kept)
    pruned = cut(survivors, scratch)
    if len(kept) < size:
        pruned = _translated(pruned, table, inputs, kept, size, old_ids)
    ids = tuple(kept.tolist())
    return Vocabulary(graph, pruned, table, ids, size, inputs, outputs, old_ids, survivors)


def _find_table(graph: Graph) -> tuple[str, tuple[str, ...]]:
    """The weight whose rows are tokens, and the inputs that pick them. Raises ModelError."""
    uses = [(use.table, use.input) for use in table_uses(graph)] or list(_computed(graph))
    if not uses:
        raise ModelError(
            f"{graph.source}: no input of ids picks rows of a weight by a Gather: there is no vocabulary to prune"
        )
    table = max((each for each, _ in uses), key=lambda name: graph.weights[name].shape[0])
    return table, tuple(dict.fromkeys(name for each, name in uses if each == table))


def _computed(graph: Graph) -> Iterator[tuple[str, str]]:
    """Weights whose rows are picked by what is computed from a single input of whole numbers, with that input."""
    types = shape_info(graph).types
    for node in graph.nodes:
        if (table := table_of(graph, node)) is None:
            continue
        names, seen = [node.inputs[1]], {node.inputs[1]}
        for value in names:
            if value in graph.producer:
                read = graph.nodes[graph.producer[value]].inputs
                names += [each for each in dict.fromkeys(read) if each not in seen]
                seen.update(read)
        inputs = [name for name in names if name in graph.inputs]
        if len(inputs) == 1 and types[inputs[0]] in INTEGERS:
            yield table, inputs[0]


def _checked(graph: Graph, keep: Sequence[int], size: int) -> Array:
    """The ids that stay, ascending. Raises ModelError for one that the vocabulary does not have."""
    kept = np.unique(np.asarray(list(keep), np.int64))
    if not len(kept):
        raise ModelError(f"{graph.source}: no token is kept; name at least one id")
    wrong = kept[(kept < 0) | (kept >= size)]
    if len(wrong):
        raise ModelError(
            f"{graph.source}: id {wrong[0]} is out of range: the vocabulary has ids 0 to {size - 1}"
        )
    return kept


def _last_axes(graph: Graph, size: int) -> list[str]:
    """Outputs whose last axis is as long as the vocabulary."""
    shapes = shape_info(graph).shapes
    return [
        name
        for name in graph.outputs
        if len(shapes.get(name, ())) > 1 and shapes[name][-1] == size
    ]


def _outputs(coupling: Coupling, table: str, size: int) -> Iterator[str]:
    """Outputs along the vocabulary: as long as it, and not along the columns of its table."""
    labels = coupling.value_labels(table)
    assert labels is not None
    columns = [coupling.channels.root(each) for each in labels[1:]]
    for name in _last_axes(coupling.graph, size):
        own = coupling.value_labels(name)
        if own is not None and coupling.channels.root(own[-1]) not in columns:
            yield name


def _survivors(
    coupling: Coupling, table: str, outputs: Sequence[str], kept: Array
) -> Survivors:
    """What is left when all rows of the table but some go, and the same of the outputs. Raises ModelError."""
    size = coupling.graph.weights[table].shape[0]
    remove: dict[str, set[int]] = {}
    for group in coupling.groups:
        axes = [m.positions for m in group.members if (m.weight, m.axis) == (table, 0)]
        axes += [
            place.positions
            for place in places(coupling)[group.id]
            if place.value in outputs
            and place.axis == len(coupling.shape_info.shapes[place.value]) - 1
        ]
        for positions in axes:
            gone = np.flatnonzero(~np.isin(positions, kept).any(axis=1))
            remove.setdefault(group.id, set()).update(gone.tolist())
    survivors = Survivors(coupling, {g: sorted(c) for g, c in remove.items()})
    labels = coupling.value_labels(table)
    assert labels is not None
    for name, axis in [(table, labels[0])] + [
        (name, coupling.labels[name][-1]) for name in outputs
    ]:
        stays = survivors.kept(axis)
        if not np.array_equal(np.arange(size) if stays is None else stays, kept):
            reason = coupling.channels.reason(axis)
            raise ModelError(
                f"{coupling.graph.source}: the vocabulary along {name!r} cannot be pruned: "
                f"{reason.text} ({reason.because})"
            )
    return survivors


# -- who reads ids --------------------------------------------------------------------------


def _translated(
    graph: Graph,
    table: str,
    inputs: Sequence[str],
    kept: Array,
    size: int,
    old_ids: bool,
) -> Graph:
    """The cut graph with every reader of ids given the ids it needs."""
    reader = _IdReaders(graph, table, kept, size)
    if old_ids:
        for node in reader.lookups:
            reader.read_new(node)
        return reader.rewriter.finish()
    reader.renumber(inputs)
    result = reader.rewriter.finish() if not reader.rewriter.is_idle else graph
    new = np.full(size, GONE, np.int64)
    new[kept] = np.arange(len(kept))
    intake = graph.intake.then({name: Renumbering(new) for name in inputs})
    return _taking(result, intake)


def _taking(graph: Graph, intake: Intake) -> Graph:
    return Graph(
        graph.model, folder=graph.folder, source=graph.source, keeps=graph, intake=intake
    )


class _IdReaders:
    """Readers of ids in a cut graph: lookups in the table read new ids, all others old ones.

    Args:
        graph: the cut graph.
        table: the weight whose rows are tokens.
        kept: old ids in the order of their new numbers.
        size: how many tokens there were.
    """

    def __init__(self, graph: Graph, table: str, kept: Array, size: int):
        self.graph, self.kept, self.size = graph, kept, size
        self.rewriter = Rewriter(graph)
        self.lookups = [node for node in graph.nodes if table_of(graph, node) == table]
        self._numbers: dict[tuple[str, int], str] = {}
        self._read: set[int] = set()

    def renumber(self, names: Sequence[str]) -> None:
        """Let inputs hold new ids: what reads them in another way than as rows of the table gets the old ones."""
        lookups = {node.index for node in self.lookups}
        reached, queue = set(names), list(names)
        while queue:
            value = queue.pop()
            if value not in names and value in self.graph.outputs:
                raise self._refusal(value, "it is an output of the model")
            for index, slot in self.graph.consumers.get(value, ()):
                node = self.graph.nodes[index]
                if index in lookups and slot == 1:
                    self._read.add(index)
                elif slot == 0 and moves_data(node) and not is_gather(node):
                    new = [each for each in node.outputs if each not in reached]
                    reached.update(new)
                    queue += new
                elif not measures(node):
                    self._read_old(node, slot, value)
        for node in self.lookups:
            if node.index not in self._read:
                self.read_new(node)

    def read_new(self, node: Node) -> None:
        """Let a lookup in the table translate the old ids that it gets; one that is gone is read as the first kept."""
        new = np.zeros(self.size, np.int64)
        new[self.kept] = np.arange(len(self.kept))
        self._put(node, 1, node.inputs[1], new, "new_ids")
        self._read.add(node.index)

    def _read_old(self, node: Node, slot: int, value: str) -> None:
        self._put(node, slot, value, self.kept, "old_ids")

    def _put(self, node: Node, slot: int, value: str, numbers: Array, what: str) -> None:
        """Let a node read a value through a table of numbers. Raises ModelError where it cannot be put there."""
        if node.subgraph is not None or slot >= len(node.inputs) or node.subgraphs:
            raise self._refusal(value, f"it is read in a subgraph of node {node.name!r}")
        kind = shape_info(self.graph).types[value]
        dtype = helper.tensor_dtype_to_np_dtype(kind)
        key = what, kind
        if key not in self._numbers:
            self._numbers[key] = self.rewriter.add_initializer(what, numbers.astype(dtype))
        name = self.rewriter.names.new(f"{value}/{what}")
        self.rewriter.insert_before(
            node, helper.make_node("Gather", [self._numbers[key], value], [name], name=name)
        )
        self.rewriter.set_input(node, slot, name)

    def _refusal(self, value: str, why: str) -> ModelError:
        return ModelError(
            f"{self.graph.source}: ids at {value!r} cannot be numbered anew: {why}; keep the old ids at the inputs"
        )

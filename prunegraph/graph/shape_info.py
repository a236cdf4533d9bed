"""Knowledge of every value before anything runs: shape, type, and small constants."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from prunegraph.graph.control import Subgraph
from prunegraph.graph.evaluate import MAX_ELEMENTS
from prunegraph.graph.model import Graph, Node, Weight

Shape = tuple[int, ...]

#: How often a Loop runs for which that is decided at run time.
ITERATIONS = 3

#: More floats than these are no list of scales or bounds: they are not read from the file as numbers.
MAX_FLOAT = 16

INT_TYPES = (np.dtype(np.int64), np.dtype(np.int32), np.dtype(np.bool_))


def is_small(weight: Weight) -> bool:
    """Tell whether a constant of the file may be a list of numbers that an operator reads."""
    if weight.is_float:
        return weight.size <= MAX_FLOAT
    return weight.dtype in INT_TYPES and weight.size <= MAX_ELEMENTS


@dataclass
class ShapeInfo:
    """Shapes of values (concrete), and values of shape arithmetic.

    `known` holds results of chains such as Shape-Gather-Concat, `folded` several numbers computed
    from float constants alone (scales of a Resize: the constants keep their labels). Floats are
    there if an operator reads them as numbers (see `graph.numbers`), or if it is only one.
    `constant` reads both, and small constants of the file. The elements of
    a sequence are named by `element`. Of control flow: `dead` are subgraphs that never run, `varying`
    values whose shape changes from iteration to iteration, `iterations` how often a subgraph runs, where that is
    known; for the `guessed` others `guess` is taken. `is_whole` once every node was visited; `elsewhere` is the
    same at other sizes, once `graph.varying` has asked for it.
    """

    shapes: dict[str, Shape]
    types: dict[str, int]
    known: dict[str, np.ndarray]
    sizes: dict[str, Shape]
    graph: Graph = field(repr=False)
    folded: dict[str, np.ndarray] = field(default_factory=dict)
    dead: frozenset[Subgraph] = frozenset()
    varying: set[str] = field(default_factory=set)
    iterations: dict[Subgraph, int] = field(default_factory=dict)
    guess: int = ITERATIONS
    guessed: set[Subgraph] = field(default_factory=set)
    is_whole: bool = field(default=False, repr=False)
    elsewhere: ShapeInfo | None = field(default=None, repr=False)
    _read: dict[str, np.ndarray | None] = field(default_factory=dict, repr=False)

    def constant(self, value: str) -> np.ndarray | None:
        """The number(s) behind a value: shape arithmetic, or a small constant of the file."""
        match = self.known.get(value)
        if match is None:
            match = self.folded.get(value)
        if match is not None:
            return match
        if value not in self._read:
            weight = self.graph.weights.get(value)
            self._read[value] = (
                weight.read() if weight is not None and is_small(weight) else None
            )
        return self._read[value]

    def is_dead(self, node: Node) -> bool:
        """Tell whether a node is in a subgraph that never runs."""
        subgraph = node.subgraph if self.dead else None
        while subgraph is not None and subgraph not in self.dead:
            subgraph = subgraph.parent
        return subgraph is not None

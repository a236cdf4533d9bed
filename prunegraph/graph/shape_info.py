"""What is known of every value before anything runs: shape, type, and small constants.

Symbolic sizes are made concrete (batch 1, other axes a common image size), so that every
later stage works on plain numbers. Declared shapes of inner values and outputs are
ignored: files in the wild declare wrong ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from prunegraph.graph import flow
from prunegraph.graph.control import Subgraph
from prunegraph.graph.inference import infer_all, is_small, visit
from prunegraph.graph.model import Graph, Node
from prunegraph.graph.sizes import candidate_sizes, symbolic_axes

Shape = tuple[int, ...]

#: How often a Loop runs for which that is decided at run time.
ITERATIONS = 3


#: Operators whose outputs depend on more than their inputs.
CONTROL = frozenset({"If", "Loop", "Scan", "SequenceMap"})


@dataclass
class ShapeInfo:
    """Shapes of values (concrete), and values of shape arithmetic.

    `known` holds results of chains such as Shape-Gather-Concat, `folded` several numbers computed
    from float constants alone (scales of a Resize: the constants keep their labels). Floats are
    there if an operator reads them as numbers (see `graph.numbers`), or if it is only one.
    `constant` reads both, and small constants of the file. The elements of
    a sequence are named by `element`. Of control flow: `dead` are subgraphs that never run, `varying`
    values whose shape changes from iteration to iteration, `turns` how often a subgraph runs, where that is known;
    for the `guessed` others `guess` is taken.
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
    _read: dict[str, np.ndarray | None] = field(default_factory=dict, repr=False)
    _other: ShapeInfo | None = field(default=None, repr=False)
    _is_whole: bool = field(default=False, repr=False)

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
        """Whether a node is in a subgraph that never runs."""
        subgraph = node.subgraph if self.dead else None
        while subgraph is not None and subgraph not in self.dead:
            subgraph = subgraph.parent
        return subgraph is not None

    def varies(self, value: str) -> np.ndarray:
        """Which elements of a known value depend on sizes that are only known at run time."""
        here = self.known.get(value)
        symbolic = symbolic_axes(self.graph)
        if here is None or not (self.guessed or any(symbolic.values())):
            constant = self.constant(value)
            return np.zeros(() if constant is None else constant.shape, bool)
        there = self._elsewhere(value, symbolic)
        if there is None or there.shape != here.shape:
            return np.ones(here.shape, bool)
        return np.asarray(here != there)

    def _elsewhere(
        self, value: str, symbolic: Mapping[str, list[int]]
    ) -> np.ndarray | None:
        """A known value at other sizes of the symbolic axes. Only nodes it is computed from are looked at."""
        if self._other is None:
            sizes = max(
                candidate_sizes(self.graph, batch=3),
                key=lambda s: self._differing(s, symbolic),
            )
            # Through subgraphs of control flow values do not travel one by one.
            whole = bool(self.graph.subgraphs)
            self._other = (
                shape_info_at(self.graph, sizes, ITERATIONS + 1)
                if whole
                else _given(self.graph, sizes)
            )
        if not self._other._is_whole:
            above = _above(self.graph, value, self._other)
            for node in above:
                visit(node, self._other, {})
            if self._other.constant(value) is None or any(
                node.op in CONTROL for node in above
            ):
                self._other = shape_info_at(self.graph, self._other.sizes)
        return self._other.constant(value)

    def _differing(
        self, sizes: Mapping[str, Shape], symbolic: Mapping[str, list[int]]
    ) -> int:
        """How many symbolic axes of the inputs have another size than here."""
        return sum(
            sizes[n][axis] != self.sizes[n][axis]
            for n, axes in symbolic.items()
            for axis in axes
        )


def shape_info(graph: Graph) -> ShapeInfo:
    """Facts at the smallest sizes that fit (cached on the graph)."""
    if "facts" not in graph.cache:
        best = _best_facts(graph)
        # What a dead branch does not blur may show that another one is dead.
        while graph.subgraphs and (dead := flow.dead_branches(best)) != best.dead:
            graph.cache["dead"] = dead
            best = _best_facts(graph)
        graph.cache["facts"] = best
    result: ShapeInfo = graph.cache["facts"]
    return result


def _best_facts(graph: Graph) -> ShapeInfo:
    """Facts at the first sizes at which all shapes are known, else at those that tell most."""
    best: ShapeInfo | None = None
    for sizes in candidate_sizes(graph):
        info = shape_info_at(graph, sizes)
        if best is None or len(info.shapes) > len(best.shapes):
            best = info
        unknown = [
            v for v in graph.producer.keys() - info.shapes.keys() if graph.is_read(v)
        ]
        if all(
            _is_left_open(graph.nodes[graph.producer[output]], info) for output in unknown
        ):
            break
    assert best is not None
    return best


def _is_left_open(node: Node, info: ShapeInfo) -> bool:
    """Whether other sizes would not tell more about a node."""
    return node.op == "If" or flow.is_control(node) or info.is_dead(node)


def shape_info_at(
    graph: Graph, sizes: Mapping[str, Shape], iterations: int = ITERATIONS
) -> ShapeInfo:
    """Facts for given shapes of the graph's inputs, and turns of a Loop that ends when it likes."""
    result = _given(graph, sizes, iterations)
    inferred = infer_all(graph, sizes)
    for node in graph.nodes:
        if not result.is_dead(node):
            visit(node, result, inferred)
    result._is_whole = True
    return result


def stepwise(
    graph: Graph, sizes: Mapping[str, Shape]
) -> tuple[ShapeInfo, Callable[[Node], None]]:
    """Facts of weights and inputs alone, and a function that adds those of a node's outputs.

    The function is called node by node, in the graph's order; shapes may be corrected in between.
    """
    result = _given(graph, sizes)
    return result, lambda node: visit(node, result, {})


def _given(
    graph: Graph, sizes: Mapping[str, Shape], iterations: int = ITERATIONS
) -> ShapeInfo:
    """What is known of weights and inputs, before any node is visited."""
    result = ShapeInfo(
        {},
        {},
        {},
        dict(sizes),
        graph,
        dead=graph.cache.get("dead", frozenset()),
        guess=iterations,
    )
    for weight in graph.weights.values():
        result.shapes[weight.name] = weight.shape
        result.types[weight.name] = weight.tensor.data_type
    for sparse in graph.model.graph.sparse_initializer:
        result.shapes[sparse.values.name] = graph.sparse[sparse.values.name]
        result.types[sparse.values.name] = sparse.values.data_type
    for entry in graph.model.graph.input:
        if entry.name in sizes:
            result.shapes[entry.name] = tuple(sizes[entry.name])
            result.types[entry.name] = entry.type.tensor_type.elem_type
    return result


def _above(graph: Graph, value: str, known: ShapeInfo) -> list[Node]:
    """Nodes that a value is computed from and that have not been visited, in topological order."""
    result: set[int] = set()
    queue = [graph.producer[value]]
    while queue:
        index = queue.pop()
        if index not in result and not all(
            o in known.shapes for o in graph.nodes[index].outputs if o
        ):
            result.add(index)
            queue += (parent for parent, _ in graph.nodes[index].parents)
    return [graph.nodes[index] for index in sorted(result)]

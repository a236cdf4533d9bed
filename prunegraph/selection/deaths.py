"""Which nodes and weights go with residual branches, for solvers that ask often."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cached_property

from prunegraph.coupling.coupling import Coupling
from prunegraph.graph.model import Node, Weight


class Deaths:
    """Says what goes with some of a few branches.

    Args:
        coupling: the analysis of the graph.
        branches: ids of the branches.
    """

    def __init__(self, coupling: Coupling, branches: Sequence[str]):
        self._coupling, self._branches = coupling, tuple(branches)

    @cached_property
    def weights(self) -> list[str]:
        """Names of the weights that go where all branches do."""
        graph = self._coupling.graph
        if not self._branches:
            return []
        return [
            name
            for name, weight in graph.weights.items()
            if self.goes(weight, self._branches)
        ]

    def of(self, counted: Node | Weight) -> tuple[str, ...]:
        """The branches on which it depends whether a node or weight goes."""
        if not self._branches or not self.goes(counted, self._branches):
            return ()
        alone = tuple(each for each in self._branches if self.goes(counted, [each]))
        others = [each for each in self._branches if each not in alone]
        # What several branches share goes with the last of them.
        return self._branches if self.goes(counted, others) else alone

    def goes(self, counted: Node | Weight, branches: Collection[str]) -> bool:
        """Tell whether a node or weight goes with some branches."""
        by_id = self._coupling.branches_by_id
        nodes = self._coupling.nodes_without([by_id[each] for each in branches])
        if isinstance(counted, Node):
            return counted.index in nodes
        graph = self._coupling.graph
        readers = graph.consumers.get(counted.name, ())
        return (
            bool(readers)
            and counted.name not in graph.outputs
            and nodes.issuperset(node for node, _ in readers)
        )

"""Names for what is added to a graph."""

from __future__ import annotations

import numpy as np

from prunegraph.graph.model import Graph


class Names:
    """Gives names that nothing in a graph has, and none twice."""

    def __init__(self, graph: Graph):
        self._taken = {*graph.weights, *graph.producer, *graph.inputs, *(node.name for node in graph.nodes)}
        self._count = 0

    def new(self, wanted: str) -> str:
        """The name that is wanted, with underscores behind it where something has it."""
        while wanted in self._taken:
            wanted += "_"
        self._taken.add(wanted)
        return wanted

    def numbered(self, prefix: str) -> str:
        """The prefix with the next number."""
        self._count += 1
        return self.new(f"{prefix}{self._count}")

    def short(self) -> str:
        """The first free one of 0, 1, ... z, 10, ... (base 36): in a small model names are much of the file."""
        while (name := np.base_repr(self._count, 36).lower()) in self._taken:
            self._count += 1
        self._taken.add(name)
        return name

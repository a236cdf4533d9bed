"""How much is pruned and how much decomposed: mixes of both under one budget, tried and measured.

A mix goes a share of the way to the bound (in logarithms) by pruning, the rest by decomposition. Each is recovered on
three quarters of the data and measured on the others; the error decides.
"""

from __future__ import annotations

from dataclasses import dataclass

from prunegraph.errors import BudgetError
from prunegraph.graph.model import Graph
from prunegraph.ops.cost import Cost
from prunegraph.runtime import division
from prunegraph.runtime.data import Data, random_inputs

#: Shares of the way that are pruned: from decomposition alone to pruning alone.
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)

#: Where branches may go: shares of the way that are pruned, and which part of these by branches.
DEPTHS = ((1.0, 0.5), (1.0, 1.0), (0.5, 1.0))

#: Random inputs that are measured on where there are no data.
RANDOM = 8


@dataclass(frozen=True)
class Mix:
    """A way to meet the budget.

    `pruned` is the share of the way that is pruned; with `together` channels and ranks share the whole way in one
    allocation, as in `prune`. `depth` is the part of what is pruned that goes by residual branches. `error` is the
    squared error of the outputs by their variation on samples that nothing was fitted to; None where it was not
    measured. `reason` says why a mix is impossible.
    """

    pruned: float
    cost: Cost | None = None
    error: float | None = None
    reason: str = ""
    together: bool = False
    depth: float = 0.0


def parts(graph: Graph, data: Data | None) -> tuple[Data | None, Data]:
    """Say what is fitted to and what is measured on.

    Every fourth sample is measured on. Both are all of the data where a quarter would not fill a batch, and random
    inputs are measured on where there are no data.
    """
    if data is None:
        return None, Data.feeds(
            [random_inputs(graph, seed=seed, batch=1) for seed in range(RANDOM)]
        )
    return division.parts(graph, data)


def best(mixes: list[Mix]) -> Mix:
    """The mix of the least error; with one that is possible, that. Raises BudgetError where none is."""
    possible = [mix for mix in mixes if not mix.reason]
    if not possible:
        raise BudgetError("; ".join(dict.fromkeys(mix.reason for mix in mixes)))
    return min(possible, key=lambda mix: 0.0 if mix.error is None else mix.error)

"""A smaller graph from both means: channels cut, layers decomposed, then all of it recovered at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from prunegraph.coupling.coupling import Coupling
from prunegraph.graph.model import Graph
from prunegraph.options import base_name
from prunegraph.pipeline import Cutting, cut_and_prove
from prunegraph.recovery import repairs
from prunegraph.rewriting.decompose import DecomposeResult
from prunegraph.runtime.data import Data
from prunegraph.selection.plan import Plan, survivors

Progress = Callable[[str], None]

#: Decomposes a graph that has been cut, on data or without.
Second = Callable[[Graph, Data | None], DecomposeResult]


@dataclass(frozen=True)
class Built:
    """What came of a plan: the cut with its proof, the decomposition (None where there was none), the graph."""

    cutting: Cutting
    decomposed: DecomposeResult | None
    graph: Graph


def build(
    coupling: Coupling,
    plan: Plan,
    second: Second | None,
    data: Data | None,
    repair: str,
    *,
    check: bool,
    seed: int,
    progress: Progress,
) -> Built:
    """Cut, decompose and recover.

    Least squares go last, over the whole chain: the last part of a decomposed layer is fitted to what the original
    layer makes, from what the smaller network gives it, so that it makes up for everything before it. Other repairs
    set right what the cut has changed, before the decomposition.

    Args:
        found: coupling of the original.
        plan: what is cut; it may be empty.
        second: decomposes the cut graph; None leaves it.
        data: unlabelled inputs to fit to.
        repair: name of a repair.
        check: whether the cut is proved, if anything is cut.
        seed: of the proof's inputs.
        progress: told what goes on.

    Raises:
        BudgetError: `second` cannot meet its budget.
        ExactnessError: no part of the plan holds.
    """
    cutting = cut_and_prove(
        coupling,
        plan,
        data,
        check=check and bool(plan.remove),
        seed=seed,
        progress=progress,
    )
    remaining, graph, decomposed = survivors(coupling, cutting.plan), cutting.small, None
    _, recover = repairs.find(repair, data, coupling.graph)
    is_last = base_name(repair) == "least-squares"
    if not is_last:
        graph = recover(remaining, graph, data, progress)
    if second is not None:
        progress("decompose")
        decomposed = second(graph, data)
        graph = decomposed.graph
    if is_last:
        graph = recover(remaining, graph, data, progress)
    return Built(cutting, decomposed, graph)

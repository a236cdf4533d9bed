"""Choices carried out: cut, decomposed, repaired on a part of the data and compared on the rest.

Damage at the outputs is measured before the repair. That one makes up for more where layers have low rank than where
channels are gone, and for more of some channels than of others, so that what is nearly as good before it may be better
behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from prunegraph.coupling.coupling import Coupling
from prunegraph.execution import ExecutionOptions, execute
from prunegraph.measuring.deviation import deviation
from prunegraph.recovery import repairs
from prunegraph.runtime.data import Data
from prunegraph.runtime.division import parts
from prunegraph.selection.plan import make_plan
from prunegraph.selection.units import Contender

#: Samples that choices are fitted to before they are compared, and that they are compared on, at most.
FITTED, HELD = 512, 256


@dataclass(frozen=True)
class RepairTrial:
    """Measures choices as they will be.

    Args:
        coupling: what can be pruned.
        data: unlabelled inputs.
        repair: the name of the repair.
        progress: told what goes on.
    """

    coupling: Coupling
    data: Data
    repair: str
    progress: Callable[[str], None] = field(default=lambda stage: None, repr=False)

    def __call__(self, candidates: Sequence[Contender]) -> list[float]:
        """Squared error of the outputs by their variation, of each candidate after its repair."""
        fitted, held = parts(self.coupling.graph, self.data)
        return [
            self._error(each, number, fitted.head(FITTED), held.head(HELD))
            for number, each in enumerate(candidates, 1)
        ]

    def _error(self, candidate: Contender, number: int, fitted: Data, held: Data) -> float:
        graph = self.coupling.graph
        self.progress(f"trial {number}: cut and repaired")
        plan = replace(make_plan(self.coupling, candidate.removal), ranks=candidate.ranks)
        bound = repairs.find(self.repair, fitted, graph)
        result = execute(self.coupling, plan, fitted, ExecutionOptions(bound, verify=False))
        return deviation(graph, result.model, held)

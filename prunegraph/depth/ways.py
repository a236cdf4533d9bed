"""Plans of any strength in which residual branches go a part of the way, for those who measure several of them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property, partial

from prunegraph.depth.choose import Depth, ordered
from prunegraph.errors import BudgetError
from prunegraph.ops.cost import Cost
from prunegraph.selection.budget import Budget, Meter, unmet
from prunegraph.selection.plan import Plan, make_plan
from prunegraph.selection.select import Ranking
from prunegraph.tuning.search import Way

#: Shares of the way that branches go where they are weighed against channels; none is channels alone.
SHARES = (0.0, 0.5, 1.0)


@dataclass(frozen=True)
class BranchWays:
    """Plans without some branches, for any bound on what is counted.

    The order of the branches is measured once. Which channels go beside them is chosen with the scores of the whole.

    Args:
        depth: which branches may go, and what they are measured on.
        ranking: scored channels.
    """

    depth: Depth
    ranking: Ranking

    def plan(self, share: float, budget: Budget) -> Plan:
        """The plan that meets a budget, a share of the way by branches: 0 is channels alone, 1 is branches alone.

        Raises:
            BudgetError: the budget cannot be met like that.
            DataError: the data do not fit the model.
        """
        if not share:
            return self.ranking.plan(budget)
        gone = self._branches(share, budget)
        coupling = self.ranking.coupling
        if share < 1:
            rest = replace(self.ranking, coupling=coupling.without(gone))
            return rest.plan(budget)
        origin = {**self.ranking.choice.provenance(), "budget": budget.given()}
        alone = {"algorithm": None, "allocation": None}
        return make_plan(coupling, dict.fromkeys(gone, (0,)), {**origin, **alone})

    def ways(self) -> list[Way]:
        """Ways to a budget: with depth "auto" some of channels and branches, with "only" branches alone."""
        shares = SHARES if self.depth.choice.depth == "auto" else (1.0,)
        if not self.depth.branches and self.depth.choice.depth == "auto":
            shares = (0.0,)
        return [partial(self.plan, share) for share in shares]

    @cached_property
    def _order(self) -> list[str]:
        return ordered(self.depth, lambda gone: False)

    @cached_property
    def _meter(self) -> Meter:
        return Meter(self.ranking.coupling)

    def _branches(self, share: float, budget: Budget) -> list[str]:
        """The fewest branches in order that go a share of the way to all bounds. Raises BudgetError."""
        if not self.depth.branches:
            raise BudgetError(
                f"{self.ranking.coupling.graph.source}: has no residual branch that may go"
            )
        original = self._meter.original
        bounds = {
            kind: whole - share * max(whole - bound, 0.0)
            for kind, bound in budget.bounds(original).items()
            for whole in [float(getattr(original, kind))]
        }
        for count in range(len(self._order) + 1):
            remaining = self._remaining(self._order[:count])
            if all(getattr(remaining, kind) <= bound for kind, bound in bounds.items()):
                return self._order[:count]
        error = unmet(budget, self._remaining(self._order), original)
        if error is not None and share == 1:
            raise error
        return self._order

    def _remaining(self, gone: Collection[str]) -> Cost:
        return self._meter.measure(dict.fromkeys(gone, (0,)))

"""What to choose and by which means: the options of a selection, defined once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prunegraph.selection.budget import Budget


@dataclass(frozen=True)
class Choice:
    """Options of `select`, `prune` and of the command line.

    Args:
        budget: what the result must meet.
        algorithm: a registered criterion or selector, with options as in "l2:members=producer"; None is the
            best measured one: "obs" where there are data, else "l2".
        allocation: how the budget is shared among groups, a registered allocation, with options as in
            "global:max"; None is the best measured one for the algorithm.
        round_to: kept channels are a multiple of this, where a group is wide enough.
        min_channels: at least this many channels stay in every group.
        keep: layers whose output channels all stay.
        ratio_for: layer -> share of its output channels to remove, whatever the budget.
        seed: for criteria that draw random numbers.
    """

    budget: Budget
    algorithm: str | None = None
    allocation: str | None = None
    round_to: int = 8
    min_channels: int = 1
    keep: Sequence[str] = ()
    ratio_for: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0

    def resolved(self, has_data: bool) -> Choice:
        """This choice with the defaults that depend on whether there are data filled in."""
        algorithm = self.algorithm or ("obs" if has_data else "l2")
        return Choice(**{**vars(self), "algorithm": algorithm, "allocation": self.allocation or "uniform"})

    def provenance(self) -> dict[str, Any]:
        """The choice as plain JSON, for a plan."""
        options = {**vars(self), "keep": list(self.keep), "ratio_for": dict(self.ratio_for)}
        return {**options, "budget": {self.budget.kind: getattr(self.budget, self.budget.kind)}}

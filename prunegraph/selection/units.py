"""Units: what competes for a budget, each with steps that go one after the other.

A unit is most often one group of channels. Where groups can only go together they are one
unit: its steps then name channels of several groups. A residual branch is a unit of one step.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from prunegraph.coupling.branches import PREFIX, Branch
from prunegraph.coupling.coupling import Coupling
from prunegraph.coupling.groups import Group
from prunegraph.errors import BudgetError
from prunegraph.selection.ranks import LayerRanks
from prunegraph.selection.structure import alike

Array = np.ndarray

#: Channels that go, by group id; a branch goes by its id, with any channels.
Removal = Mapping[str, Sequence[int] | Array]


@dataclass(frozen=True)
class Contender:
    """What one way to share a budget comes to.

    Args:
        removal: channels that go, and branches.
        ranks: layers that are written as several of low rank then.
    """

    removal: Removal
    ranks: tuple[LayerRanks, ...] = ()

    @property
    def is_channels_alone(self) -> bool:
        """Tell whether neither ranks nor branches are part of it."""
        return not self.ranks and not any(name.startswith(PREFIX) for name in self.removal)


@dataclass(frozen=True)
class Limits:
    """What a choice must respect.

    Args:
        round_to: kept channels are a multiple of this, where a group is wide enough.
        min_channels: at least this many channels stay in every group.
        ratios: groups with a ratio of their own, by id (0: protected).
    """

    round_to: int = 8
    min_channels: int = 1
    ratios: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        if self.round_to < 1:
            raise BudgetError(f"round_to must be at least 1, got {self.round_to}")
        if self.min_channels < 1:
            raise BudgetError(f"min_channels must be at least 1, got {self.min_channels}")


@dataclass(frozen=True)
class Step:
    """Channels that go together, after the steps of the same unit before it.

    Args:
        unit: id of the unit.
        gone: channels that go with this step, by group id, or a branch by its own.
        share: what part of the unit is gone then.
        scores: those of all channels of the groups in `gone`, by group id.
    """

    unit: str
    gone: Mapping[str, tuple[int, ...]]
    share: float
    scores: Mapping[str, Array] = field(repr=False)

    @property
    def count(self) -> int:
        """Channels that go with this step."""
        return sum(len(channels) for channels in self.gone.values())


@dataclass(frozen=True)
class Unit:
    """What competes for a budget as one.

    Args:
        id: its name; that of its group where it is one.
        groups: ids of the groups whose channels its steps remove.
        channels: how many channels these have together.
        steps: what may go, in order.
    """

    id: str
    groups: tuple[str, ...]
    channels: int
    steps: tuple[Step, ...] = field(repr=False)


def make_units(
    coupling: Coupling,
    scores: Mapping[str, Array],
    limits: Limits,
    same_width: bool = False,
) -> list[Unit]:
    """What competes for a budget, in the order of the groups.

    Args:
        coupling: what can be pruned.
        scores: of the channels of every group, by id.
        limits: what steps respect.
        same_width: whether groups that are alike in all layers keep the same number of channels, and so are one unit;
            else every group is one for itself.
    """
    units = [
        Unit(
            group.id,
            (group.id,),
            group.channels,
            tuple(make_steps(group, scores[group.id], limits)),
        )
        for group in coupling.groups
    ]
    if not same_width:
        return units
    by_id = {unit.id: unit for unit in units}
    return [join([by_id[group] for group in groups]) for groups in alike(coupling)]


def branch_unit(branch: Branch) -> Unit:
    """A residual branch as what competes: all of it or nothing."""
    return Unit(branch.id, (), 1, (Step(branch.id, {branch.id: (0,)}, 1.0, {}),))


def join(units: Sequence[Unit]) -> Unit:
    """Units as one, whose steps leave all of them the same share: each chooses its own channels, as many as others."""
    if len(units) == 1:
        return units[0]
    name = "+".join(unit.id for unit in units)
    shares = set.intersection(*({_exact(step.share) for step in u.steps} for u in units))
    steps, before = [], Fraction(0)
    for share in sorted(shares):
        parts = [s for u in units for s in u.steps if before < _exact(s.share) <= share]
        gone: dict[str, tuple[int, ...]] = {}
        scores: dict[str, Array] = {}
        for part in parts:
            scores.update(part.scores)
            for group, channels in part.gone.items():
                gone[group] = (*gone.get(group, ()), *channels)
        steps.append(Step(name, gone, float(share), scores))
        before = share
    groups = tuple(group for unit in units for group in unit.groups)
    return Unit(name, groups, sum(unit.channels for unit in units), tuple(steps))


def _exact(share: float) -> Fraction:
    """A share as the quotient of counts that it is."""
    return Fraction(share).limit_denominator(1 << 20)


def make_steps(group: Group, scores: Array, limits: Limits) -> list[Step]:
    """A group's channels in the order of their scores, in steps that respect the limits.

    Where equally many have to go from each cell, the lowest score of every cell goes, then the second lowest.
    """
    unit = round_unit(group, limits.round_to)
    cells = np.arange(group.channels)[None] if group.cells is None else group.cells
    unit = math.lcm(unit, len(cells))
    order = np.take_along_axis(
        cells, np.argsort(scores[cells], axis=1, kind="stable"), axis=1
    ).T.reshape(-1)
    removable = len(cells) * int(np.isfinite(scores[cells]).sum(axis=1).min())
    least = max(limits.min_channels, len(cells), group.least)
    steps: list[Step] = []
    gone = 0
    while True:
        remaining = group.channels - gone
        size = remaining % unit or unit
        if remaining - size < least or gone + size > removable:
            return steps
        chosen = tuple(int(c) for c in order[gone : gone + size])
        gone += size
        steps.append(
            Step(
                group.id,
                {group.id: chosen},
                gone / group.channels,
                {group.id: scores},
            )
        )


def round_unit(group: Group, round_to: int) -> int:
    """Channels of a group that together make a multiple of `round_to` on its layers' axes."""
    widths = [member.per_channel for member in group.members if member.role == "out"]
    return round_to // math.gcd(round_to, *widths) if widths else round_to


def forced_share(unit: Unit, limits: Limits) -> float | None:
    """The ratio of a unit with one of its own, the smallest of its groups'; None where it competes."""
    ratios = limits.ratios or {}
    return min((ratios[group] for group in unit.groups if group in ratios), default=None)


def up_to(steps: Iterable[Step], share: float) -> list[Step]:
    """The steps of a unit after which at most a share of it is gone."""
    return [step for step in steps if step.share <= share + 1e-9]


def collect(steps: Iterable[Step]) -> dict[str, Array]:
    """All that goes with some steps, channels by rising number."""
    channels: dict[str, list[int]] = {}
    for step in steps:
        for group, gone in step.gone.items():
            channels.setdefault(group, []).extend(gone)
    return {group: np.sort(np.asarray(gone, np.int64)) for group, gone in channels.items()}


def channels_of(steps: Sequence[Step], group: str) -> list[int]:
    """Channels of one group that go with some steps, by rising number."""
    return sorted(c for step in steps for c in step.gone.get(group, ()))

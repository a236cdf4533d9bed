"""Allocations: in which order channels go, over all groups.

An allocation turns scores into steps, each removing a few channels of one group (as many as
`round_to` asks for). A budget then takes the shortest prefix of the steps that meets it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from prunegraph.coupling.coupling import Coupling
from prunegraph.coupling.groups import Group
from prunegraph.errors import BudgetError, DataError
from prunegraph.options import base_name, bound
from prunegraph.registry import Registry
from prunegraph.selection.budget import Budget, Meter, cannot_fall
from prunegraph.selection.normalise import Norm, normalised
from prunegraph.selection.structure import structures

Array = np.ndarray


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
    """Channels of one group that go together.

    `share` is what part of the group is gone then, `scores` are those of all of the group's channels.
    """

    group: str
    channels: tuple[int, ...]
    share: float
    scores: Array = field(repr=False)


#: Brings steps into the order in which they are taken; a group's steps keep theirs. Keyword-only
#: parameters are options (`prunegraph.options`).
Allocation = Callable[..., list[Step]]
ALLOCATIONS: Registry[Allocation] = Registry("allocation")

#: What a score may be divided by: nothing, or the part of a cost that a channel saves.
Per = Literal["channel", "macs", "params", "bytes"]


@ALLOCATIONS.register("uniform")
def uniform(steps: Sequence[Step], coupling: Coupling) -> list[Step]:
    """Every group loses the same share."""
    return sorted(steps, key=lambda step: step.share)


@ALLOCATIONS.register("global")
def globally(
    steps: Sequence[Step], coupling: Coupling, *, norm: Norm = "mean", per: Per = "channel"
) -> list[Step]:
    """Lowest scores first, wherever they are, normalised in each group; `per` divides them by what a channel saves."""
    saved = _saved(steps, coupling, per)
    highest: dict[str, float] = {}
    comparable: dict[str, Array] = {}
    keys = []
    for step in steps:
        if step.group not in comparable:
            comparable[step.group] = normalised(step.scores, norm)
        # A group's steps keep their order.
        score = (
            float(comparable[step.group][list(step.channels)].mean()) / saved[step.group]
        )
        highest[step.group] = max(highest.get(step.group, -math.inf), score)
        keys.append(highest[step.group])
    return [steps[i] for i in sorted(range(len(steps)), key=lambda i: keys[i])]


def _saved(steps: Sequence[Step], coupling: Coupling, per: Per) -> dict[str, float]:
    """Say what a channel of each group saves of the whole network's cost, while the other groups are as they were."""
    first = {step.group: step.channels for step in reversed(steps)}
    if per == "channel":
        return dict.fromkeys(first, 1.0)
    meter = Meter(coupling)
    whole, least = float(getattr(meter.original, per)), np.finfo(float).tiny
    remaining = {
        group: float(getattr(meter.measure({group: gone}), per))
        for group, gone in first.items()
    }
    return {
        group: max((whole - remaining[group]) / whole / len(gone), least)
        for group, gone in first.items()
    }


@ALLOCATIONS.register("isomorphic")
def isomorphic(
    steps: Sequence[Step], coupling: Coupling, *, norm: Norm = "mean"
) -> list[Step]:
    """Groups of one structure are ranked together; every structure loses the same share (Fang et al. 2024)."""
    structure = structures(coupling)
    sizes: dict[str, int] = {}
    for group in coupling.groups:
        sizes[structure[group.id]] = sizes.get(structure[group.id], 0) + group.channels
    gone = dict.fromkeys(sizes, 0)
    keys = []
    ranked = globally(steps, coupling, norm=norm)
    for step in ranked:
        kind = structure[step.group]
        gone[kind] += len(step.channels)
        keys.append(gone[kind] / sizes[kind])
    return [ranked[i] for i in sorted(range(len(ranked)), key=lambda i: keys[i])]


@ALLOCATIONS.register("sensitivity")
def sensitivity(steps: Sequence[Step], coupling: Coupling) -> list[Step]:
    """Widths with the smallest sum of measured errors (needs data; see `selection.knapsack`)."""
    raise DataError(
        "allocation 'sensitivity' needs data: give --data FILE (unlabelled inputs)"
    )


def make_steps(group: Group, scores: Array, limits: Limits) -> list[Step]:
    """A group's channels in the order of their scores, in steps that respect the limits."""
    unit = round_unit(group, limits.round_to)
    order = np.argsort(scores, kind="stable")
    removable = int(np.isfinite(scores).sum())
    steps: list[Step] = []
    gone = 0
    while True:
        remaining = group.channels - gone
        size = remaining % unit or unit
        if remaining - size < limits.min_channels or gone + size > removable:
            return steps
        chosen = order[gone : gone + size]
        gone += size
        steps.append(
            Step(group.id, tuple(int(c) for c in chosen), gone / group.channels, scores)
        )


def round_unit(group: Group, round_to: int) -> int:
    """Channels of a group that together make a multiple of `round_to` on its layers' axes."""
    widths = [member.per_channel for member in group.members if member.role == "out"]
    return round_to // math.gcd(round_to, *widths) if widths else round_to


def allocate(
    coupling: Coupling,
    scores: Mapping[str, Array],
    budget: Budget,
    limits: Limits,
    allocation: str = "uniform",
) -> dict[str, Array]:
    """Channels to remove, by group id, so that the budget is met.

    Raises:
        BudgetError: the budget cannot be met within the limits.
        UnknownNameError: no such allocation, or it has no such option.
        OptionError: an option cannot have that value.
    """
    groups = {group.id: group for group in coupling.groups}
    ratios = limits.ratios or {}
    forced: list[Step] = []
    free: list[Step] = []
    for group in coupling.groups:
        steps = make_steps(group, scores[group.id], limits)
        if group.id in ratios:
            forced += [step for step in steps if step.share <= ratios[group.id] + 1e-9]
        else:
            free += steps
    free = bound(ALLOCATIONS, allocation)(free, coupling)
    if budget.ratio == "auto":
        return _collect(forced)
    if budget.ratio is not None:
        return _collect(
            [*forced, *_take_ratio(free, budget.ratio, allocation, groups, ratios)]
        )
    return _collect([*forced, *_take_bound(coupling, forced, free, budget)])


def _take_ratio(
    steps: Sequence[Step],
    ratio: float,
    allocation: str,
    groups: Mapping[str, Group],
    ratios: Mapping[str, float],
) -> list[Step]:
    """Uniform: that share of each group. Otherwise: that share of all channels together."""
    if base_name(allocation) == "uniform":
        return [step for step in steps if step.share <= ratio + 1e-9]
    limit = (
        ratio * sum(group.channels for group in groups.values() if group.id not in ratios)
        + 1e-9
    )
    taken, gone = [], 0
    for step in steps:
        gone += len(step.channels)
        if gone > limit:
            break
        taken.append(step)
    return taken


def _take_bound(
    coupling: Coupling, forced: Sequence[Step], free: Sequence[Step], budget: Budget
) -> list[Step]:
    """The shortest prefix of the steps whose cost is at or below the bound."""
    if budget.kind == "latency":
        raise BudgetError(
            "a latency budget is met by measuring, in prunegraph.latency; selection alone runs nothing"
        )
    meter = Meter(coupling)
    kind, bound = budget.kind, budget.bound(meter.original)

    def remaining_of(count: int) -> int:
        value: int = getattr(meter.measure(_collect([*forced, *free[:count]])), kind)
        return value

    least = remaining_of(len(free))
    if least > bound:
        raise cannot_fall(kind, bound, least, meter.original)
    low, high = 0, len(free)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if remaining_of(middle) <= bound else (middle + 1, high)
    return list(free[:low])


def _collect(steps: Sequence[Step]) -> dict[str, Array]:
    remove: dict[str, list[int]] = {}
    for step in steps:
        remove.setdefault(step.group, []).extend(step.channels)
    return {
        group: np.sort(np.asarray(channels, np.int64)) for group, channels in remove.items()
    }

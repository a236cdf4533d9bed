"""Allocations: in which order channels go, over all groups.

An allocation turns scores into steps, each removing a few channels of one group (as many as
`round_to` asks for). A budget then takes the shortest prefix of the steps that meets it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from prunegraph.coupling.analysis import Coupling
from prunegraph.coupling.groups import Group
from prunegraph.errors import BudgetError, DataError
from prunegraph.registry import Registry
from prunegraph.selection.budget import Budget, Meter, cannot_fall

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
    """Channels of one group that go together. `share` is what part of the group is gone then."""

    group: str
    channels: tuple[int, ...]
    share: float
    score: float


Allocation = Callable[[Sequence[Step], Mapping[str, Group]], list[Step]]
ALLOCATIONS: Registry[Allocation] = Registry("allocation")


@ALLOCATIONS.register("uniform")
def uniform(steps: Sequence[Step], groups: Mapping[str, Group]) -> list[Step]:
    """Every group loses the same share."""
    return sorted(steps, key=lambda step: step.share)


@ALLOCATIONS.register("global")
def globally(steps: Sequence[Step], groups: Mapping[str, Group]) -> list[Step]:
    """Lowest scores first, wherever they are; scores are compared as multiples of their group's mean."""
    highest: dict[str, float] = {}
    keys = []
    for step in steps:
        # A group's steps keep their order.
        highest[step.group] = max(highest.get(step.group, -math.inf), step.score)
        keys.append(highest[step.group])
    return [steps[i] for i in sorted(range(len(steps)), key=lambda i: keys[i])]


@ALLOCATIONS.register("sensitivity")
def sensitivity(steps: Sequence[Step], groups: Mapping[str, Group]) -> list[Step]:
    """Widths with the smallest sum of measured errors (needs data; see `selection.knapsack`)."""
    raise DataError("allocation 'sensitivity' needs data: give --data FILE (unlabelled inputs)")


def make_steps(group: Group, scores: Array, limits: Limits) -> list[Step]:
    """A group's channels in the order of their scores, in steps that respect the limits."""
    unit = round_unit(group, limits.round_to)
    order = np.argsort(scores, kind="stable")
    finite = scores[np.isfinite(scores)]
    mean = float(np.abs(finite).mean()) if len(finite) else 0.0
    removable = int(np.isfinite(scores).sum())
    steps: list[Step] = []
    gone = 0
    while True:
        left = group.channels - gone
        size = left % unit or unit
        if left - size < limits.min_channels or gone + size > removable:
            return steps
        chosen = order[gone : gone + size]
        gone += size
        score = float(scores[chosen].mean()) / (mean or 1.0)
        steps.append(Step(group.id, tuple(int(c) for c in chosen), gone / group.channels, score))


def round_unit(group: Group, round_to: int) -> int:
    """Channels of a group that together make a multiple of `round_to` on its layers' axes."""
    widths = [member.per_channel for member in group.members if member.role == "out"]
    return round_to // math.gcd(round_to, *widths) if widths else round_to


def allocate(
    coupling: Coupling, scores: Mapping[str, Array], budget: Budget, limits: Limits, allocation: str = "uniform"
) -> dict[str, Array]:
    """Channels to remove, by group id, so that the budget is met.

    Raises:
        BudgetError: the budget cannot be met within the limits.
        UnknownNameError: no such allocation.
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
    free = ALLOCATIONS.get(allocation)(free, groups)
    if budget.ratio is not None:
        return _collect([*forced, *_take_ratio(free, budget.ratio, allocation, groups, ratios)])
    return _collect([*forced, *_take_bound(coupling, forced, free, budget)])


def _take_ratio(
    steps: Sequence[Step], ratio: float, allocation: str, groups: Mapping[str, Group], ratios: Mapping[str, float]
) -> list[Step]:
    """Uniform: that share of each group. Otherwise: that share of all channels together."""
    if allocation == "uniform":
        return [step for step in steps if step.share <= ratio + 1e-9]
    limit = ratio * sum(group.channels for group in groups.values() if group.id not in ratios) + 1e-9
    taken, gone = [], 0
    for step in steps:
        gone += len(step.channels)
        if gone > limit:
            break
        taken.append(step)
    return taken


def _take_bound(coupling: Coupling, forced: Sequence[Step], free: Sequence[Step], budget: Budget) -> list[Step]:
    """The shortest prefix of the steps whose cost is at or below the bound."""
    meter = Meter(coupling)
    kind, bound = budget.kind, budget.bound(meter.original)

    def left(count: int) -> int:
        value: int = getattr(meter.measure(_collect([*forced, *free[:count]])), kind)
        return value

    least = left(len(free))
    if least > bound:
        raise cannot_fall(kind, bound, least, meter.original)
    low, high = 0, len(free)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if left(middle) <= bound else (middle + 1, high)
    return list(free[:low])


def _collect(steps: Sequence[Step]) -> dict[str, Array]:
    remove: dict[str, list[int]] = {}
    for step in steps:
        remove.setdefault(step.group, []).extend(step.channels)
    return {group: np.sort(np.asarray(channels, np.int64)) for group, channels in remove.items()}

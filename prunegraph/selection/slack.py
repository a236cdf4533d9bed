"""Steps that a budget does not need: those that come back once others have gone.

An allocation takes steps in its order until the bounds are met, and the last ones may go far beyond them: what was
taken before is then more than is asked for. It comes back while all bounds hold, what is worth most for what it costs
first; a unit's last step first, so that its channels go in the order of their scores.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from prunegraph.coupling.branches import PREFIX
from prunegraph.ops.cost import Cost
from prunegraph.selection.budget import Meter, Touched
from prunegraph.selection.normalise import normalised
from prunegraph.selection.units import Step, collect

Array = np.ndarray


def given_back(
    meter: Meter, forced: Sequence[Step], taken: Sequence[Step], bounds: Mapping[str, float]
) -> list[Step]:
    """The steps of those taken that are still needed, in their order: none of a unit's last ones can come back.

    Args:
        meter: measures what is left.
        forced: steps that go whatever the bounds are.
        taken: steps that meet the bounds together with these, each unit's in the unit's order.
        bounds: upper bounds on "macs", "params" and "bytes", those that there are.
    """
    slack = _Slack(meter, forced, taken, bounds)
    queue: list[tuple[float, str]] = []

    def wait(unit: str) -> None:
        # What cannot come back now cannot later: the others only grow.
        if slack.numbers[unit] and (worth := slack.worth(unit)) is not None:
            heapq.heappush(queue, (-worth, unit))

    for unit in slack.numbers:
        wait(unit)
    while queue:
        _, unit = heapq.heappop(queue)
        if slack.give_back(unit):
            wait(unit)
    return slack.taken


class _Slack:
    """What is taken, and what is left of the bounds. `numbers` are the positions of each unit's steps."""

    def __init__(
        self,
        meter: Meter,
        forced: Sequence[Step],
        taken: Sequence[Step],
        bounds: Mapping[str, float],
    ):
        self._meter, self._forced, self._steps = meter, forced, taken
        self._bounds = bounds
        self._scores: dict[str, Array] = {}
        self.numbers: dict[str, list[int]] = {}
        for number, step in enumerate(taken):
            self.numbers.setdefault(step.unit, []).append(number)
        self._now = meter.measure(collect([*forced, *taken]))
        self._touched = self._touched_by_unit()
        self._near = _neighbours(self._touched)

    @property
    def taken(self) -> list[Step]:
        """The steps that have not come back."""
        numbers = sorted(i for each in self.numbers.values() for i in each)
        return [self._steps[i] for i in numbers]

    def worth(self, unit: str) -> float | None:
        """Score of a unit's last step by the part of the bound that it takes up, of the bound it takes up most of.

        None where a bound does not hold with it.
        """
        step, without = self._last(unit)
        if not self._holds(without):
            return None
        cost = max(
            (getattr(without, kind) - getattr(self._now, kind)) / bound
            for kind, bound in self._bounds.items()
        )
        return self._score(step) / cost if cost > 0 else np.inf

    def give_back(self, unit: str) -> bool:
        """Put a unit's last step back if all bounds hold then; tells whether they do."""
        _, remaining = self._last(unit)
        if not self._holds(remaining):
            return False
        self.numbers[unit].pop()
        self._now = remaining
        return True

    def _holds(self, remaining: Cost) -> bool:
        return all(
            getattr(remaining, kind) <= bound for kind, bound in self._bounds.items()
        )

    def _last(self, unit: str) -> tuple[Step, Cost]:
        """A unit's last step, and what is left if it stays."""
        number = self.numbers[unit][-1]
        step, touched = self._steps[number], self._touched[unit]
        if touched is None:
            return step, self._meter.measure(
                collect([*self._forced, *self._others(self.numbers, number)])
            )
        # Nothing else changes: to measure it all would take most of the time of a choice.
        near = [*self._forced, *self._others(self._near[unit], number)]
        before = self._meter.measure_part(collect([*near, step]), touched)
        after = self._meter.measure_part(collect(near), touched)
        return step, Cost(
            self._now.macs + after.macs - before.macs,
            self._now.params + after.params - before.params,
            self._now.bytes + after.bytes - before.bytes,
        )

    def _others(self, units: Iterable[str], number: int) -> Iterator[Step]:
        """The steps of some units that are taken, without one."""
        for unit in units:
            yield from (self._steps[i] for i in self.numbers[unit] if i != number)

    def _touched_by_unit(self) -> dict[str, Touched | None]:
        """What the steps of each unit change; None for a unit with branches, which may change anything."""
        result: dict[str, Touched | None] = {}
        for unit, numbers in self.numbers.items():
            gone = collect(self._steps[number] for number in numbers)
            has_branches = any(name.startswith(PREFIX) for name in gone)
            result[unit] = None if has_branches else self._meter.touched(gone)
        return result

    def _score(self, step: Step) -> float:
        """Sum of a step's scores, each by the mean of its group."""
        total = 0.0
        for group, channels in step.gone.items():
            if group not in self._scores:
                self._scores[group] = normalised(step.scores[group], "mean")
            total += float(self._scores[group][list(channels)].sum())
        return total


def _neighbours(touched: Mapping[str, Touched | None]) -> dict[str, list[str]]:
    """By unit, the units that change something of what it changes, itself included, and those with branches."""
    units: dict[str, list[str]] = {}
    anywhere = [unit for unit, part in touched.items() if part is None]
    for unit, part in touched.items():
        for place in () if part is None else _places(part):
            units.setdefault(place, []).append(unit)
    return {
        unit: list(
            dict.fromkeys(
                [*anywhere, *(near for place in _places(part) for near in units[place])]
            )
        )
        for unit, part in touched.items()
        if part is not None
    }


def _places(part: Touched) -> Iterator[str]:
    yield from (f"weight {name}" for name in part.weights)
    yield from (f"layer {node.index}" for node in part.layers)

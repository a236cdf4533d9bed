"""Plans beside the path: a plan with one or two groups as in others that are a little weaker or stronger.

An allocation brings steps into one order, and a step can be too large for a bound: it is jumped
over. Then other steps may come first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

from prunegraph.selection.plan import Plan

#: How many steps of one group are tried.
DEPTH = 3

Removal = Mapping[str, tuple[int, ...]]


def blends(start: Plan, others: Sequence[Plan]) -> Iterator[Removal]:
    """Say what `start` removes, with one group as in another plan, or two groups as in the nearest others.

    Args:
        start: most of the result.
        others: weaker or stronger plans of the same path, the nearest first.
    """
    if start.provenance.get("same_width"):
        return  # another width in one group is what was not to be
    steps: dict[str, list[tuple[int, ...]]] = {}
    for plan in others:
        for group in dict.fromkeys([*start.removal, *plan.removal]):
            channels = plan.removal.get(group, ())
            seen = steps.setdefault(group, [])
            if channels not in (start.removal.get(group, ()), *seen) and len(seen) < DEPTH:
                seen.append(channels)
    for group, sizes in steps.items():
        for channels in sizes:
            yield {**start.removal, group: channels}
    for first, second in combinations(
        [group for group, sizes in steps.items() if sizes], 2
    ):
        yield {**start.removal, first: steps[first][0], second: steps[second][0]}

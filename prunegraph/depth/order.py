"""The order in which residual branches go: the least damage at the outputs first, relative to what is saved.

Branches are taken one after the other. What a branch costs depends on which are gone already, so the next ones in
order are measured again before one of them is taken. Source: lazy greedy search (Minoux 1978).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from prunegraph.coupling.branches import Branch

#: Branches that are measured again, at most, before one is taken.
LOOKS = 4

#: Less damage than this counts as this: what saves more then goes first.
NOTHING = 1e-9


def greedy(
    branches: Sequence[Branch],
    damage: Callable[[Collection[str]], float],
    saved: Callable[[Collection[str]], float],
    is_enough: Callable[[Sequence[str]], bool],
    progress: Callable[[str], None] = lambda stage: None,
) -> list[str]:
    """Ids of branches in the order in which they go.

    Args:
        branches: those that may go.
        damage: error at the outputs without some of them.
        saved: part of the model's cost that is saved without some of them.
        is_enough: tells whether no more of them have to go.
        progress: called with what is being measured.
    """
    order: list[str] = []
    remaining = {branch.id: branch for branch in branches}
    priority: dict[str, float] = {}
    base, cost = 0.0, 0.0

    def look(name: str) -> float:
        """Measure a branch besides those that are gone; returns the damage of all."""
        total = damage([*order, name])
        gain = saved([*order, name]) - cost
        priority[name] = max(total - base, NOTHING) / gain if gain > 0 else float("inf")
        return total

    totals = {}
    for count, name in enumerate(remaining, 1):
        progress(f"depth: branch {count} of {len(remaining)} measured")
        totals[name] = look(name)
    while remaining and not is_enough(order):
        looked: dict[str, float] = totals if not order else {}
        for _ in range(LOOKS):
            best = min(remaining, key=lambda name: priority[name])
            if best in looked:
                break
            looked[best] = look(best)
        best = min(looked.keys() & remaining.keys(), key=lambda name: priority[name])
        if priority[best] == float("inf"):  # what is left of them saves nothing
            break
        order.append(best)
        base, cost = looked[best], saved(order)
        progress(f"depth: {len(order)} branches gone, error {base:.4g}")
        taken = remaining.pop(best)
        remaining = {n: b for n, b in remaining.items() if not taken.holds(b)}
    return order

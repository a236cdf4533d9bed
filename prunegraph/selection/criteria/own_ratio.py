"""Criteria that also say how much of a group may go: budgets with `ratio="auto"`."""

from __future__ import annotations

from collections.abc import Callable

from prunegraph.errors import BudgetError, PluginError
from prunegraph.options import base_name, bound
from prunegraph.registry import Registry
from prunegraph.selection.criteria.base import Context

#: Share of a group's channels to remove, 0 <= share < 1.
OwnRatio = Callable[..., float]
OWN_RATIOS: Registry[OwnRatio] = Registry("algorithm")


def own_ratio(name: str) -> Callable[[OwnRatio], OwnRatio]:
    """Decorator: the function `(group, context) -> share` that goes with a criterion, with the same options."""
    return OWN_RATIOS.register(name)


def own_ratios(name: str, context: Context) -> dict[str, float]:
    """Shares that an algorithm chooses by itself, by group id. `name` may have options.

    Raises:
        BudgetError: the algorithm only ranks.
        PluginError: a share is out of range.
    """
    if base_name(name) not in OWN_RATIOS:
        raise BudgetError(
            f"algorithm {base_name(name)!r} only ranks channels, it has no ratio of its own: give --ratio a number, "
            f"or use {', '.join(map(repr, OWN_RATIOS))}"
        )
    function = bound(OWN_RATIOS, name)
    result = {
        group.id: float(function(group, context)) for group in context.coupling.groups
    }
    for group, share in result.items():
        if not 0 <= share < 1:
            raise PluginError(
                f"algorithm {name!r} wants to remove the share {share:g} of group {group!r}"
            )
    return result

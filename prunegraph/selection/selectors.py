"""Selectors: algorithms with full control, `(coupling, context, budget) -> plan`.

What a selector returns is checked like any other plan, and against what the user asked for:
an upper bound, protected layers, the channels that stay in every group.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from prunegraph import plugins
from prunegraph.coupling.coupling import Coupling
from prunegraph.errors import PlanError, PluginError
from prunegraph.options import Verbatim, base_name, bound
from prunegraph.registry import Registry
from prunegraph.selection.budget import Budget, Meter
from prunegraph.selection.criteria.base import CRITERIA, Context
from prunegraph.selection.plan import Plan, make_plan, survivors
from prunegraph.selection.units import Limits, Removal

Selector = Callable[[Coupling, Context, Budget], Plan | Removal]
SELECTORS: Registry[Selector] = Registry(
    "selector", parameters=("coupling", "context", "budget"), beside=CRITERIA
)


#: `exec` without a command, which is an error when it runs.
NO_COMMAND = Verbatim("")


def selector(name: str) -> Callable[[Selector], Selector]:
    """Decorator that registers a selector, a function `(coupling, context, budget) -> plan`, under a name.

    It returns a Plan, or a mapping from group ids to the channels that go. Raises PluginError
    for a name that is taken, or a function with other parameters.
    """
    return SELECTORS.register(name)


@selector("exec")
def program(
    coupling: Coupling, context: Context, budget: Budget, *, command: Verbatim = NO_COMMAND
) -> Plan:
    """A program of any kind: reads groups as JSON on its input, writes a plan as JSON; exec:"node choose.js"."""
    from prunegraph.selection.external import ask

    return ask(command, coupling, context, budget)


def choose(
    name: str,
    context: Context,
    budget: Budget,
    limits: Limits,
    provenance: Mapping[str, Any],
) -> Plan:
    """The plan of a registered selector, checked.

    Args:
        name: of the selector; it may have options.
        context: what it may look at.
        budget: what the result must meet; a ratio is left to the selector.
        limits: what must stay. `round_to` is left to the selector.
        provenance: how the plan is made.

    Raises:
        UnknownNameError: no such selector, or it has no such option.
        OptionError: an option cannot have that value.
        DataError: it needs data and there are none.
        PluginError: it failed, or its plan does not hold.
    """
    coupling, function = context.coupling, bound(SELECTORS, name)
    who = f"{replace(SELECTORS.entry(base_name(name)), name=name)}"
    with plugins.attributed(who):
        result = function(coupling, replace(context, algorithm=name), budget)
    try:
        remove = _removal(result)
        if isinstance(result, Plan):
            _check_units(coupling, result)
            survivors(
                coupling,
                replace(
                    result, remove={group: tuple(gone) for group, gone in remove.items()}
                ),
            )
            provenance = {**provenance, **result.provenance}
        plan = make_plan(coupling, remove, provenance)
        _check_limits(coupling, plan, limits)
        _check_bound(coupling, plan, budget)
    except PlanError as error:
        raise PluginError(f"{who}: {error}") from error
    return plan


def _removal(result: object) -> dict[str, list[int]]:
    """Say what a selector returned, as channels by group id. Raises PlanError."""
    remove = result.remove if isinstance(result, Plan) else result
    if not isinstance(remove, Mapping):
        raise PlanError(
            f"it returned {type(remove).__name__}, not a Plan or a mapping from group ids to channels"
        )
    return {_text(group): _numbers(group, channels) for group, channels in remove.items()}


def _text(group: object) -> str:
    if not isinstance(group, str):
        raise PlanError(f"it names a group by {group!r}; use its id, such as 'g0'")
    return group


def _numbers(group: str, channels: object) -> list[int]:
    """Channel numbers of one group; neither masks nor fractions. Raises PlanError."""
    if isinstance(channels, set | frozenset | range):
        channels = list(channels)
    try:
        array = np.asarray(channels)
    except ValueError:  # ragged
        array = np.asarray(None)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        hint = "; np.flatnonzero makes numbers of a mask" if array.dtype.kind == "b" else ""
        raise PlanError(
            f"what it removes of group {group!r} is no list of channel numbers{hint}"
        )
    return [int(channel) for channel in array]


def _check_units(coupling: Coupling, plan: Plan) -> None:
    """A plan's groups are the coupling's: what is pruned in attention and in blocks decides which there are."""
    if plan.attention not in (None, coupling.attention):
        given = repr(coupling.attention) if coupling.attention else "the default"
        raise PlanError(
            f"its plan is for groups by attention {plan.attention!r}; those it was given are by {given}"
        )
    if plan.remove and coupling.channels.blocks and plan.blocks != coupling.blocks:
        raise PlanError(
            f"its plan is for groups with {plan.blocks} channels in all blocks; those it was given are by "
            f"{coupling.blocks}: copy 'model' into the plan as it is"
        )


def _check_limits(coupling: Coupling, plan: Plan, limits: Limits) -> None:
    for group in coupling.groups:
        gone = len(plan.remove.get(group.id, ()))
        if gone and (limits.ratios or {}).get(group.id) == 0:
            raise PlanError(
                f"it removes channels of group {group.id!r}, which is protected (--keep, --ratio-for)"
            )
        if gone and group.channels - gone < limits.min_channels:
            raise PlanError(
                f"it leaves {group.channels - gone} channels in group {group.id!r}; "
                f"at least {limits.min_channels} must stay (--min-channels)"
            )


def _check_bound(coupling: Coupling, plan: Plan, budget: Budget) -> None:
    """Upper bounds on cost hold."""
    meter = Meter(coupling)
    cost = meter.measure(plan.remove)
    for kind, most in budget.bounds(meter.original).items():
        if getattr(cost, kind) > most:
            raise PlanError(
                f"it leaves {getattr(cost, kind):,} {kind}, above the budget of {most:,.0f}"
            )

"""Which multiple widths should be: measured on the model itself.

ONNX Runtime's cost is a staircase in the number of channels, and on some processors widths
that are no multiple of 4 are slower than wider ones. For every multiple the model is cut to
widths near the same random ones, rounded to that multiple, and measured against the original. What
counts is latency per MAC: at 1 the model is faster by what it lost, above it steps are wasted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from prunegraph.coupling.coupling import Coupling
from prunegraph.coupling.survivors import Survivors
from prunegraph.errors import BudgetError
from prunegraph.latency.cache import Cache
from prunegraph.latency.layers import LayerTable
from prunegraph.measuring.latency import Timer
from prunegraph.rewriting.cut import cut
from prunegraph.selection.budget import Meter
from prunegraph.selection.units import Limits, channels_of, make_steps

MULTIPLES = (1, 2, 4, 8, 16, 32)

#: Widths are drawn from this range, as shares of the original ones.
RANGE = (0.4, 0.8)

#: A multiple is too coarse for a model where rounding takes the share of MACs further away than this.
COARSE = 0.15

#: A finer multiple is preferred where its latency per MAC is at most so much higher than the best.
SLACK = 0.03


@dataclass(frozen=True)
class Rounding:
    """The multiple that was chosen, and what was measured: latency per MAC, relative to the original, by multiple."""

    chosen: int
    per_mac: Mapping[int, float]

    def __str__(self) -> str:
        figures = ", ".join(
            f"{multiple}: {figure:.2f}" for multiple, figure in self.per_mac.items()
        )
        return f"round-to {self.chosen}: latency per MAC against the original at multiples of {figures}"


def best_rounding(
    coupling: Coupling,
    timer: Timer,
    cache: Cache,
    progress: Callable[[str], None] = lambda stage: None,
) -> Rounding:
    """The finest multiple whose latency per MAC is within `SLACK` of the best one's (cached).

    Raises:
        BudgetError: no channel of the model can be removed.
    """
    table = LayerTable(coupling, timer, cache)
    whole = Survivors(coupling, {})
    key = hashlib.sha256(
        "\n".join(table.key(node, whole) for node in table.layers).encode()
    ).hexdigest()[:32]
    own = coupling.blocks if coupling.channels.blocks else ""
    key = f"{coupling.attention or ''}{own}{key}"
    if key not in cache.rounding:
        figures = _measure(coupling, timer, progress)
        cache.rounding[key] = {
            str(multiple): figure for multiple, figure in figures.items()
        }
        cache.save()
    per_mac = {int(multiple): figure for multiple, figure in cache.rounding[key].items()}
    return Rounding(choose(per_mac), per_mac)


def choose(per_mac: Mapping[int, float]) -> int:
    """The finest multiple that is about as good as the best."""
    best = min(per_mac.values())
    return min(
        multiple for multiple, figure in per_mac.items() if figure <= best * (1 + SLACK)
    )


def _measure(
    coupling: Coupling, timer: Timer, progress: Callable[[str], None]
) -> dict[int, float]:
    """Latency per MAC, relative to the original, by multiple."""
    meter = Meter(coupling)
    result: dict[int, float] = {}
    finest = 1.0
    for multiple in MULTIPLES:
        remove = widths(coupling, multiple)
        macs = meter.measure(remove).macs / (meter.original.macs or 1)
        if multiple == 1:
            finest = macs
        if not remove or macs > finest + COARSE:
            break
        progress(f"widths: measuring multiples of {multiple}")
        result[multiple] = timer.against(cut(Survivors(coupling, remove))).kept / macs
    if not result:
        raise BudgetError(
            f"{coupling.graph.source}: no channel can be removed, so no width can be measured"
        )
    return result


def widths(coupling: Coupling, multiple: int, seed: int = 0) -> dict[str, tuple[int, ...]]:
    """Channels to remove so that widths are near random ones, the same for every multiple, and rounded to it."""
    rng = np.random.default_rng(seed)
    limits = Limits(multiple)
    remove = {}
    for group in coupling.groups:
        wanted = rng.uniform(*RANGE)
        steps = make_steps(group, np.arange(group.channels, dtype=np.float64)[::-1], limits)
        shares = np.asarray([0.0, *(step.share for step in steps)])
        taken = int(abs(1 - shares - wanted).argmin())
        if taken:
            remove[group.id] = tuple(channels_of(steps[:taken], group.id))
    return remove

"""A model at first sight, as lines for the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from prunegraph.report.tables import amount, share
from prunegraph.report.text import count_of

if TYPE_CHECKING:
    from prunegraph.overview import Overview, Suggestion

#: Reasons for fixed layers that are told; `inspect` tells all.
REASONS = 4


def lines(overview: Overview) -> Iterator[str]:
    """What the model costs, what of it can be pruned, what is fixed and why, what would help most."""
    cost, least = overview.cost, overview.least
    yield (
        f"{Path(overview.source).name}: {amount(cost.params)} parameters, {amount(cost.macs)} MACs at batch 1, "
        f"{amount(cost.bytes)}B of weights, {count_of(overview.layers, 'layer')}"
    )
    yield ""
    if overview.groups:
        branches = (
            f" and {overview.branches} residual branches" if overview.branches else ""
        )
        macs, params = share(least.macs, cost.macs), share(least.params, cost.params)
        yield (
            f"can be pruned: {count_of(overview.groups, 'group')} of channels{branches}; at the smallest widths "
            f"{macs} of the MACs and {params} of the parameters are left"
        )
    else:
        yield "can be pruned: nothing, there is no group of channels"
    yield from _fixed(overview)
    yield ""
    yield "what would help most:"
    if not overview.suggestions:
        yield "  nothing that can be told without data"
    for suggestion in overview.suggestions:
        yield f"  {suggestion.command}"
        yield f"      {_effect(suggestion)}"
    if any(suggestion.command.endswith(" DATA") for suggestion in overview.suggestions):
        yield (
            "DATA: a few hundred inputs of the model, without labels: a folder of images, texts, .npz or "
            "file.py:function"
        )


def _fixed(overview: Overview) -> Iterator[str]:
    if not overview.fixed:
        yield "fixed: nothing"
        return
    yield "fixed:"
    for fixed in overview.fixed[:REASONS]:
        yield (
            f"  {count_of(fixed.layers, 'layer')} ({fixed.macs:.1%} of the MACs), such as {fixed.example}: "
            f"{fixed.reason} {fixed.because}"
        )
    rest = sum(fixed.layers for fixed in overview.fixed[REASONS:])
    if rest:
        yield f"  {count_of(rest, 'layer')} for other reasons (`prunegraph inspect`)"


def _effect(suggestion: Suggestion) -> str:
    """What a suggestion leaves, and what the figures rest on."""
    parts = [f"{suggestion.macs:.0%} of the MACs"] if suggestion.macs < 0.995 else []
    if suggestion.integers:
        parts.append(f"{suggestion.integers:.0%} of the MACs in integers")
    parts.append(f"{suggestion.bytes:.0%} of the bytes")
    return f"-> {', '.join(parts)} ({suggestion.note})"

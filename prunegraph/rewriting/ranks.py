"""Ranks of decomposed layers: by a rule for each layer alone, or under a budget for all of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from prunegraph.errors import BudgetError, OptionError
from prunegraph.ops.cost import Cost
from prunegraph.rewriting.decomposable import FORMS, DecomposableLayer
from prunegraph.rewriting.factorize import Evbmf, Form, energy_rank
from prunegraph.selection.budget import Budget

#: Variational Bayes is strict with trained weights; without fine-tuning a share of the way back to full rank is gone.
WEAKENING = 0.3

#: The least rank of the rule "evbmf", which finds none in noise.
LEAST = 8


@dataclass(frozen=True)
class RankRule:
    """How ranks follow from a form: "evbmf" (weakened by `value`), "energy" or "ratio" (with that share)."""

    name: str
    value: float

    @staticmethod
    def parse(text: str) -> RankRule:
        """A rule from `evbmf`, `evbmf:0`, `energy:0.9` or `ratio:0.5`. Raises OptionError."""
        name, _, number = text.partition(":")
        try:
            value = WEAKENING if text == "evbmf" else float(number)
        except ValueError:
            value = -1.0
        lowest = value >= 0 if name == "evbmf" else value > 0
        if name not in ("evbmf", "energy", "ratio") or not lowest or not value <= 1:
            raise OptionError(
                f"rank {text!r}: give evbmf, evbmf:W (0 to 1), energy:E or ratio:R (above 0, up to 1)"
            )
        return RankRule(name, value)

    def ranks(self, form: Form) -> tuple[int, ...]:
        """Ranks before rounding."""
        if self.name == "energy":
            return tuple(energy_rank(spectrum, self.value) for spectrum in form.spectra)
        if self.name == "ratio":
            return tuple(math.ceil(self.value * full) for full in form.full)
        return tuple(max(math.ceil(rank - 1e-9), LEAST) for rank in self._weak(form))

    def note(self, form: Form) -> str:
        """What a report should say of the ranks: variational Bayes found fewer than are kept; "" where it did not."""
        if self.name != "evbmf" or all(rank >= LEAST for rank in self._weak(form)):
            return ""
        result = " x ".join(f"{rank:g}" for rank in self._weak(form))
        return f"evbmf found rank {result}, {LEAST} is the least"

    def _weak(self, form: Form) -> list[float]:
        """Say what variational Bayes finds, weakened."""
        result = [
            Evbmf(*pair).rank for pair in zip(form.spectra, form.unfoldings, strict=True)
        ]
        return [
            rank + self.value * (full - rank)
            for rank, full in zip(result, form.full, strict=True)
        ]


def rounded(ranks: Sequence[int], multiple: int, full: Sequence[int]) -> tuple[int, ...]:
    """Ranks raised to a multiple, up to the full ones."""
    return tuple(
        min(-(-rank // multiple) * multiple, most)
        for rank, most in zip(ranks, full, strict=True)
    )


@dataclass(frozen=True)
class RankChoice:
    """A layer written with some ranks: bound on the squared relative error, elements and MACs saved."""

    method: str
    ranks: tuple[int, ...]
    error: float
    params: int
    macs: int

    @property
    def pays(self) -> bool:
        return self.params > 0 and self.macs >= 0

    def saved(self, kind: str) -> int:
        return self.params if kind == "params" else self.macs


def candidate(
    layer: DecomposableLayer, form: Form, ranks: Sequence[int], multiple: int
) -> RankChoice:
    """Say what a layer costs and loses at ranks that are rounded first."""
    chosen = rounded(ranks, multiple, form.full)
    params, macs = layer.cost()
    new_params, new_macs = layer.cost_with(form.method, chosen)
    # Equal MACs pay only where none are known.
    gained = macs - new_macs if macs != new_macs or not macs else -1
    return RankChoice(form.method, chosen, form.bound(chosen), params - new_params, gained)


def best(layer: DecomposableLayer, candidates: Sequence[RankChoice]) -> RankChoice:
    """The candidate with the least error for what it saves of elements and MACs, or one that does not pay."""
    params, macs = layer.cost()

    def price(each: RankChoice) -> float:
        return each.error / (each.params / params + each.macs / max(macs, 1))

    return min((each for each in candidates if each.pays), key=price, default=candidates[0])


def ladder(
    layer: DecomposableLayer, methods: Sequence[str], multiple: int, kind: str
) -> list[RankChoice]:
    """Candidates of a layer that pay, of all methods, for a budget of a kind."""
    tensor = layer.tensor()
    result = [
        each
        for method in methods
        for each in _descent(layer, FORMS[method](tensor), multiple, kind)
    ]
    return [each for each in result if each.pays]


def _descent(
    layer: DecomposableLayer, form: Form, multiple: int, kind: str
) -> Iterator[RankChoice]:
    """From full ranks to the lowest, a multiple at a time: each time the rank that costs least for what it saves."""

    def price(each: RankChoice) -> float:
        return (each.error - now.error) / max(each.saved(kind) - now.saved(kind), 1)

    now = candidate(layer, form, form.full, multiple)
    while True:
        yield now
        lower = [(rank - 1) // multiple * multiple for rank in now.ranks]
        further = [
            candidate(
                layer, form, [*now.ranks[:axis], rank, *now.ranks[axis + 1 :]], multiple
            )
            for axis, rank in enumerate(lower)
            if rank
        ]
        if not further:
            return
        now = min(further, key=price)


def allocate(
    options: Mapping[str, Sequence[RankChoice]], budget: Budget, original: Cost
) -> dict[str, RankChoice]:
    """A candidate for some of the layers, so that a budget on params or MACs is met with little error.

    The sum of squared relative errors is made small: steps on the lower convex hull of every layer's error over
    what it saves, cheapest first; then layers go back as far as the budget allows.

    Raises:
        BudgetError: it cannot be met.
    """
    kind = budget.kind
    needed = getattr(original, kind) - budget.bound(original)
    chosen: dict[str, RankChoice] = {}
    steps = sorted(
        (
            (price, name, each)
            for name, match in options.items()
            for price, each in hull(match, kind)
        ),
        key=lambda step: step[0],
    )
    saved = 0
    for _, name, each in steps:
        if saved >= needed:
            break
        saved += each.saved(kind) - (chosen[name].saved(kind) if name in chosen else 0)
        chosen[name] = each
    if saved < needed:
        whole = getattr(original, kind)
        raise BudgetError(
            f"{kind} cannot fall to {budget.bound(original):,.0f} by decomposition: at the lowest ranks "
            f"{whole - saved:,} are left ({(whole - saved) / whole:.3f} of {whole:,}); lower --round-to, "
            "keep fewer layers, or prune first"
        )
    return _relaxed(chosen, options, kind, saved - needed)


def hull(candidates: Sequence[RankChoice], kind: str) -> list[tuple[float, RankChoice]]:
    """Candidates on the lower convex hull of error over saving, from the whole layer on, each with its slope."""
    result: list[tuple[float, RankChoice]] = []
    for each in sorted(candidates, key=lambda each: (each.saved(kind), -each.error)):
        if each.saved(kind) <= 0:
            continue
        while result and (slope := _slope(result[-1][1], each, kind)) <= result[-1][0]:
            result.pop()
        result.append((slope if result else _slope(None, each, kind), each))
    return result


def _slope(first: RankChoice | None, second: RankChoice, kind: str) -> float:
    """Error by saving between two candidates; None is the whole layer."""
    at, error = (first.saved(kind), first.error) if first is not None else (0, 0.0)
    gained = second.saved(kind) - at
    return (second.error - error) / gained if gained else -math.inf


def _relaxed(
    chosen: dict[str, RankChoice],
    options: Mapping[str, Sequence[RankChoice]],
    kind: str,
    spare: float,
) -> dict[str, RankChoice]:
    """Layers put back to less error while more is saved than needed, those with the largest error first."""
    result = dict(chosen)
    for name, now in sorted(chosen.items(), key=lambda item: -item[1].error):
        if now.saved(kind) <= spare:
            spare -= now.saved(kind)
            del result[name]
            continue
        fits = [
            each for each in options[name] if now.saved(kind) - each.saved(kind) <= spare
        ]
        result[name] = min(fits, key=lambda each: each.error)
        spare -= now.saved(kind) - result[name].saved(kind)
    return result

"""The axis-pattern language: most rules in one line.

    "n (g i) *s, (g o) i *k, (g o)? -> n (g o) *s'"

Inputs are separated by commas, `?` marks one that may be missing. An axis is

* a letter: the same letter is the same axis everywhere, tied;
* letters in parentheses: a product, row-major, first letter slowest; a number is a factor that stays;
* `*name`: any number of axes (also none) that must stay;
* `...`: any number of axes that pass through, tied wherever they occur.

A letter that no output has is contracted. Attributes may be bound to letters: their
values give sizes, and the rewriter writes them back after a cut.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from types import MappingProxyType
from typing import Any

from prunegraph.labels.labels import Labels
from prunegraph.labels.reasons import Kind
from prunegraph.ops.rule import Propagate, Shape, Site

TOKEN = re.compile(r"\.\.\.|\*\w+'?|\([^()]*\)|\w+")


@dataclass(frozen=True)
class Axis:
    """One term of a pattern: `letters` of a (product) axis, or a run of axes."""

    letters: tuple[str, ...] = ()
    run: str = ""

    @cached_property
    def passes(self) -> bool:
        return self.run == "..."

    @cached_property
    def letter(self) -> str:
        """The only letter, or "" for products and runs."""
        return self.letters[0] if len(self.letters) == 1 else ""


@dataclass(frozen=True)
class Operand:
    axes: tuple[Axis, ...]
    optional: bool = False
    _aligned: dict[int, tuple[Axis, ...]] = field(
        default_factory=dict, init=False, compare=False, repr=False
    )

    def align(self, rank: int) -> tuple[Axis, ...]:
        """One term per axis of a value of that rank; runs stretch."""
        if rank not in self._aligned:
            spare = rank - sum(not axis.run for axis in self.axes)
            terms: list[Axis] = []
            for axis in self.axes:
                terms += [axis] * spare if axis.run else [axis]
            if len(terms) != rank:
                raise ValueError(f"{rank} axes do not fit the pattern")
            self._aligned[rank] = tuple(terms)
        return self._aligned[rank]


@dataclass(frozen=True)
class Pattern:
    inputs: tuple[Operand, ...]
    outputs: tuple[Operand, ...]

    @cached_property
    def numbers(self) -> dict[str, int]:
        """Factors that are given as numbers."""
        axes = [axis for operand in (*self.inputs, *self.outputs) for axis in operand.axes]
        return {
            letter: int(letter)
            for axis in axes
            for letter in axis.letters
            if letter.isdigit()
        }

    @cached_property
    def in_output(self) -> frozenset[str]:
        """Letters of the outputs."""
        return frozenset(
            letter
            for operand in self.outputs
            for axis in operand.axes
            for letter in axis.letters
        )


@lru_cache(maxsize=256)
def parse(text: str) -> Pattern:
    """A pattern from its text. Raises ValueError for what the language does not have."""
    remaining, arrow, right = text.partition("->")
    if not arrow:
        raise ValueError(f"pattern {text!r} has no '->'")
    return Pattern(
        *(tuple(_operand(part) for part in side.split(",")) for side in (remaining, right))
    )


def _operand(text: str) -> Operand:
    text = text.strip()
    optional = text.endswith("?")
    text = text.removesuffix("?")
    if re.sub(r"\s", "", TOKEN.sub("", text)):
        raise ValueError(f"cannot read the axes {text!r}")
    axes = []
    for token in TOKEN.findall(text):
        if token == "..." or token.startswith("*"):
            axes.append(Axis(run=token))
        else:
            axes.append(Axis(letters=tuple(token.strip("()").split())))
    return Operand(tuple(axes), optional)


def by_pattern(
    text: str,
    *,
    layer: bool = False,
    stays: str | None = None,
    pinned: str = "",
    attributes: Mapping[str, str] = MappingProxyType({}),
) -> Propagate:
    """A `propagate` from a pattern.

    Args:
        text: the pattern.
        layer: the operator contracts data with a weight (its axes get roles).
        stays: what to call the starred axes in reasons; by default they are spatial.
        pinned: letters that must stay.
        attributes: attribute name -> letter whose size it is.
    """
    pattern = parse(text)

    def propagate(site: Site) -> None:
        _Match(pattern, site, attributes, layer, stays, pinned).run()

    return propagate


class Moved:
    """A node whose inputs are seen in another order: for operators that interleave scales."""

    def __init__(self, site: Site, slots: Sequence[int]):
        self._site, self._slots = site, slots

    def __getattr__(self, name: str) -> Any:
        return getattr(self._site, name)

    def has(self, slot: int) -> bool:
        return slot < len(self._slots) and self._site.has(self._slots[slot])

    def shape(self, slot: int) -> Shape:
        return self._site.shape(self._slots[slot])

    def labels(self, slot: int) -> tuple[Labels, ...]:
        return self._site.labels(self._slots[slot])


class _Match:
    """One application of a pattern to a node."""

    def __init__(
        self,
        pattern: Pattern,
        site: Site,
        attributes: Mapping[str, str],
        layer: bool,
        stays: str | None,
        pinned: str,
    ):
        self.site, self.attributes = site, attributes
        self.layer, self.pinned_letters = layer, pinned
        self.stays = (stays, Kind.OPERATOR) if stays else ("spatial axis", Kind.SPATIAL)
        self.pattern = pattern
        self.terms = {
            slot: operand.align(len(site.shape(slot)))
            for slot, operand in enumerate(pattern.inputs)
            if site.has(slot)
        }
        self.sizes: dict[str, int] = dict(pattern.numbers)
        self.letters: dict[str, Labels] = {}

    def run(self) -> None:
        self._measure()
        self._join()
        for letter in self.pinned_letters:
            if letter in self.letters:
                self.site.pin(self.letters[letter], *self.stays)
        for attribute, letter in self.attributes.items():
            self.site.bind_attribute(attribute, self.letters[letter])
        if self.layer:
            self._assign_roles()
        for slot, operand in enumerate(self.pattern.outputs):
            if slot < len(self.site.node.outputs) and self.site.node.outputs[slot]:
                self._set_output(slot, operand)

    def _measure(self) -> None:
        """Sizes of all letters, from attributes, plain axes, then products."""
        sizes = self.sizes
        for attribute, letter in self.attributes.items():
            sizes[letter] = int(self.site.node.attributes.get(attribute, 1))
        products = []
        for slot, terms in self.terms.items():
            for term, size in zip(terms, self.site.shape(slot), strict=True):
                if term.letter and sizes.setdefault(term.letter, size) != size:
                    raise ValueError(f"an axis of size {size} does not fit {term.letter}")
                if len(term.letters) > 1:
                    products.append((term.letters, size))
        for letters, size in sorted(products, key=lambda item: len(item[0])):
            unknown = [letter for letter in letters if letter not in sizes]
            known = math.prod(sizes[letter] for letter in letters if letter in sizes)
            if len(unknown) == 1 and known and size % known == 0:
                sizes[unknown[0]] = size // known
            elif unknown or known != size:
                raise ValueError(
                    f"an axis of size {size} does not fit {' x '.join(letters)}"
                )

    def _join(self) -> None:
        """Tie plain axes by letter, relate products, pin starred runs, tie passing runs."""
        site, space = self.site, self.site.space
        products = []
        passing: list[list[Labels]] = []
        for slot, terms in self.terms.items():
            passing.append([])
            for axis, term in zip(site.labels(slot), terms, strict=True):
                if term.letter:
                    space.tie(self.letters.setdefault(term.letter, axis), axis)
                elif term.letters:
                    products.append((axis, term.letters))
                elif term.passes:
                    passing[-1].append(axis)
                else:
                    site.pin(axis, *self.stays)
        for _, letters in products:
            self._complete(letters)
        for axis, letters in products:
            space.product(
                axis, [self.letters[letter] for letter in letters], site.node.name
            )
        self.passing = max(passing, key=len, default=[])
        for other in passing:
            for a, b in zip(self.passing, other, strict=False):
                space.tie(a, b)

    def _complete(self, letters: tuple[str, ...]) -> None:
        for letter in letters:
            if letter not in self.letters:
                size = self.sizes[letter]
                number = letter.isdigit()
                self.letters[letter] = (
                    self.site.pinned_axis(size, "fixed factor")
                    if number
                    else self.site.space.fresh(size)
                )

    def _assign_roles(self) -> None:
        created = self.pattern.in_output
        covered: set[str] = set()
        for slot, terms in self.terms.items():
            if self.site.carries_weight(slot):
                for axis, term in enumerate(terms):
                    letters = [
                        letter
                        for letter in term.letters
                        if not letter.isdigit() and letter not in self.pinned_letters
                    ]
                    if letters:
                        contracted = not created.issuperset(letters)
                        self.site.role(slot, axis, "in" if contracted else "out")
                        covered.update(
                            term.letters if contracted and self.site.is_weight(slot) else ()
                        )
        for slot, terms in self.terms.items():
            for axis, term in enumerate(terms):
                summed = (
                    ()
                    if created.issuperset(term.letters)
                    else set(term.letters) - created - covered
                )
                if summed and not self.site.is_weight(slot):
                    self.site.reduces(slot, [axis], "sum")
                    covered |= summed

    def _set_output(self, slot: int, operand: Operand) -> None:
        site = self.site
        shape = site.out_shape(slot)
        passing = iter(self.passing)
        given = []
        for term, size in zip(operand.align(len(shape)), shape, strict=True):
            if term.passes:
                given.append(next(passing))
            elif term.run:
                given.append(site.pinned_axis(size, *self.stays))
            else:
                self._complete(term.letters)
                factors = [self.letters[letter] for letter in term.letters]
                wide = [factor for factor in factors if factor.size != 1] or factors[:1]
                if len(wide) == 1:
                    given.append(wide[0])
                else:
                    given.append(site.space.fresh(size))
                    site.space.product(given[-1], wide, site.node.name)
        site.set_output(given, slot)

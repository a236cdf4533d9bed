"""The choice of the factor of a product that is the unit of pruning, where several are free.

Where query heads share key heads, what the queries are pruned by decides for keys and values: the hints (what
is asked for, and what carries other products already) are handed down from query heads to key heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prunegraph.labels.products import Product
from prunegraph.labels.resolved import ResolvedLabels


def choose(
    candidates: Sequence[Candidate], carrying: set[int], tagged: set[int]
) -> list[tuple[Candidate, int]]:
    """The factors that carry some of the products; the others must wait until these are settled.

    Args:
        candidates: products with several free factors.
        carrying: channel numbers of factors that carry other products already.
        tagged: channel numbers of the factors that are asked for.
    """
    known, asked = _down(carrying, candidates), _down(tagged, candidates)
    decided: set[int] = set()
    result = []
    for component in _connected(candidates):
        hints = [(each, each.hinted(known, asked)) for each in component]
        if any(each.repeats for each in component):
            # Without any hint one choice at a time: it is the hint for all that hangs together with it.
            hints = [
                (each, factor) for each, factor in hints if factor is not None
            ] or hints[:1]
        for candidate, hint in hints:
            factor = candidate.finest(candidates) if hint is None else hint
            if decided.isdisjoint(candidate.touched):
                result.append((candidate, factor))
            # What waits lets those wait that hang together with it.
            decided |= candidate.touched
    return result


@dataclass(eq=False)
class Candidate:
    """A product with several free factors, and the channel numbers of these and of the whole.

    `repeats` are free factors that repeat one element (a key head, handed to several query heads): they are
    a unit only if they are asked for.
    """

    product: Product
    free: list[int]
    repeats: frozenset[int]
    numbers: dict[int, set[int]]
    whole: set[int]

    @classmethod
    def of(
        cls,
        product: Product,
        free: list[int],
        channels: ResolvedLabels,
        repeated: set[int],
        parts: set[int],
    ) -> Candidate:
        """A candidate from a product and the indices of its free factors.

        `repeated` are channel numbers of repeated axes, `parts` those of the factors of all products: only
        where the whole is a part itself, as heads are of a layer's width, a repeated factor is no unit.
        """
        numbers = {i: channels.free_numbers([product.factors[i]]) for i in free}
        whole = channels.free_numbers([product.whole])
        last = sorted(free, key=lambda i: numbers[i] <= repeated)
        repeats = (
            frozenset(i for i in free if numbers[i] <= repeated)
            if whole & parts
            else frozenset()
        )
        return cls(
            product,
            last,
            repeats if len(repeats) < len(free) else frozenset(),
            numbers,
            whole,
        )

    @property
    def touched(self) -> set[int]:
        """Channel numbers of the factors; where one repeats others, what the whole is pruned by decides, too."""
        return (self.whole if self.repeats else set()).union(*self.numbers.values())

    @property
    def units(self) -> list[int]:
        """The free factors that something can be pruned by."""
        return [i for i in self.free if i not in self.repeats]

    def hinted(self, known: set[int], asked: set[int]) -> int | None:
        """The factor that carries another product already, else the one that is asked for."""
        for wanted in (known, asked):
            for i in (*self.units, *self.repeats):
                if not wanted.isdisjoint(self.numbers[i]):
                    return i
        return None

    def finest(self, others: Sequence[Candidate]) -> int:
        """The factor with the most channels, the smallest unit; one that repeats others has no more than those."""

        def size(i: int) -> int:
            inner = [
                other
                for other in others
                if other.repeats and not other.whole.isdisjoint(self.numbers[i])
            ]
            sizes = [max(len(other.numbers[k]) for k in other.units) for other in inner]
            return min([len(self.numbers[i]), *sizes])

        return max(self.units, key=size)


def _down(numbers: set[int], candidates: Sequence[Candidate]) -> set[int]:
    """Channel numbers, and those of the one unit of products that have them and repeat it."""
    result, pending = (
        set(numbers),
        [each for each in candidates if each.repeats and len(each.units) == 1],
    )
    while pending:
        reached = [each for each in pending if not result.isdisjoint(each.whole)]
        if not reached:
            break
        result.update(*(each.numbers[i] for each in reached for i in each.units))
        pending = [each for each in pending if each not in reached]
    return result


def _connected(candidates: Sequence[Candidate]) -> list[list[Candidate]]:
    """Candidates by connected component: those that touch each other, over others too."""
    components: list[tuple[set[int], list[int]]] = []
    for index, candidate in enumerate(candidates):
        touched, members = candidate.touched, [index]
        rest = []
        for numbers, others in components:
            if numbers.isdisjoint(touched):
                rest.append((numbers, others))
            else:
                touched, members = touched | numbers, others + members
        components = [*rest, (touched, members)]
    return [[candidates[i] for i in sorted(members)] for _, members in components]

"""Which factor of a product is the unit of pruning, where several are free.

What one product is pruned by, others that hang together with it must be, too: the heads of queries are those
of keys and values, and where query heads share key heads these are the unit. So the hints (what is asked
for, and what carries other products already) are handed down from a product to its factors, and without
any hint one choice is made at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prunegraph.coupling.labels import Channels, Product


def choose(candidates: Sequence[Candidate], carrying: set[int], tagged: set[int]) -> list[tuple[Candidate, int]]:
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
        hinted = [(each, factor) for each in component if (factor := each.hinted(known, asked)) is not None]
        for candidate, factor in hinted or [(component[0], component[0].finest(candidates))]:
            if decided.isdisjoint(candidate.touched):
                decided |= candidate.touched
                result.append((candidate, factor))
    return result


@dataclass(eq=False)
class Candidate:
    """A product with several free factors, and the channel numbers of these and of the whole.

    `repeats` are free factors that repeat one element (key heads, handed to several query heads).
    """

    product: Product
    free: list[int]
    repeats: frozenset[int]
    numbers: dict[int, set[int]]
    whole: set[int]

    @classmethod
    def of(cls, product: Product, free: list[int], channels: Channels, repeated: set[int]) -> Candidate:
        """A candidate from a product, the indices of its free factors, and the numbers of repeated axes."""
        numbers = {i: channels.free_numbers([product.factors[i]]) for i in free}
        repeats = frozenset(i for i in free if numbers[i] <= repeated)
        if len(repeats) == len(free):
            repeats = frozenset()
        return cls(product, free, repeats, numbers, channels.free_numbers([product.whole]))

    @property
    def touched(self) -> set[int]:
        """Channel numbers of the factors and of the whole."""
        return self.whole.union(*self.numbers.values())

    @property
    def units(self) -> list[int]:
        """The free factors that something can be pruned by."""
        return [i for i in self.free if i not in self.repeats]

    def hinted(self, known: set[int], asked: set[int]) -> int | None:
        """The factor that carries another product already, else the one that is asked for."""
        for wanted in (known, asked):
            for i in self.units:
                if not wanted.isdisjoint(self.numbers[i]):
                    return i
        return None

    def finest(self, others: Sequence[Candidate]) -> int:
        """The factor with the most elements, the smallest unit; one that repeats others has no more than those."""

        def size(i: int) -> int:
            inner = [other for other in others if other.repeats and not other.whole.isdisjoint(self.numbers[i])]
            sizes = [max(other.product.factors[k].size for k in other.units) for other in inner]
            return min([self.product.factors[i].size, *sizes])

        return max(self.units, key=lambda i: (size(i), -i))


def _down(numbers: set[int], candidates: Sequence[Candidate]) -> set[int]:
    """Channel numbers, and those of the factors of products that have them."""
    result, pending = set(numbers), list(candidates)
    while pending:
        reached = [each for each in pending if not result.isdisjoint(each.whole)]
        if not reached:
            break
        result.update(*(each.numbers[i] for each in reached for i in each.units))
        pending = [each for each in pending if each not in reached]
    return result


def _connected(candidates: Sequence[Candidate]) -> list[list[Candidate]]:
    """Candidates by connected component: those that share a factor or a whole, over others too."""
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

"""From labels to channels: products are settled one after the other, until one factor carries each."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from prunegraph.labels.blocks import Blocks
from prunegraph.labels.carriers import Candidate, choose
from prunegraph.labels.labels import Labels, Listed, Uniform
from prunegraph.labels.products import Product
from prunegraph.labels.reasons import Reason
from prunegraph.labels.resolved import ResolvedLabels
from prunegraph.labels.space import REPEATED, LabelSpace


def resolve(
    space: LabelSpace,
    used: Iterable[Labels],
    wanted: str | None = None,
    blocks: Sequence[Blocks] = (),
    whole: Collection[int] = (),
) -> ResolvedLabels:
    """Channels of all labels.

    Args:
        space: the labels; ties and pins that follow from products are added.
        used: every `Labels` the caller will ask about.
        wanted: tag of the factors that carry their products, where several are free;
            else the factor with the most elements does.
        blocks: pairs of factors; where the inner one carries its products, the elements of these do in its place.
        whole: first labels of the outer factors that stay free: their blocks can also go as a whole.
    """
    resolution = _Resolution(space, wanted, blocks, whole)
    resolution.run()
    chosen = tuple(each for each in blocks if each.inner.first in resolution.apart)
    # Their elements have numbers one by one.
    apart = [Listed(each.elements.array()) for each in chosen]
    apart += [Listed(each.factor.array()) for each in chosen if each.outer.first in whole]
    return ResolvedLabels(space, (*used, *apart), chosen)


class _Resolution:
    """The products of a space while they are settled."""

    def __init__(
        self,
        space: LabelSpace,
        wanted: str | None,
        blocks: Sequence[Blocks],
        whole: Collection[int],
    ):
        self.space, self.whole = space, whole
        self.carriers: list[Labels] = []
        self.blocks = {each.inner.first: each for each in blocks}
        #: Inner factors whose blocks choose channels of their own, by first label.
        self.apart: set[int] = set()
        self.preferred = [labels for labels, name in space.tags if name == wanted]

    def run(self) -> None:
        space = self.space
        pending = self._settle_pinned(list(space.products))
        tagged = [labels for labels, _ in space.tags]
        if any(name == REPEATED for _, name in space.tags):
            tagged += [factor for product in space.products for factor in product.factors]
        while pending:
            parts = [part for p in pending for part in (p.whole, *p.factors)]
            pending = self._round(
                pending, ResolvedLabels(space, (*parts, *self.carriers, *tagged))
            )

    def _settle_pinned(self, pending: list[Product]) -> list[Product]:
        """Settle products whose factors are pinned but for one, without a look at channels; returns the others."""
        while pending:
            before = len(pending)
            pending = [
                product
                for product in pending
                if not self._settle(
                    product,
                    [isinstance(self.space.find(f), Uniform) for f in product.factors],
                )
            ]
            if len(pending) == before:
                break
        return pending

    def _round(
        self,
        pending: list[Product],
        channels: ResolvedLabels,
    ) -> list[Product]:
        """Settle all products that are clear; if none is, choose carriers. Returns what is left."""
        clear, unclear = [], []
        attention = channels.numbers(
            [labels for labels, name in self.space.tags if name != REPEATED]
        )
        units: list[Labels] = []
        # All questions first: settling a product changes what later questions would find.
        for product in pending:
            pinned = [channels.all_pinned(f) for f in product.factors]
            whole = channels.all_pinned(product.whole)
            first = product.whole if whole else product.factors[0]
            reason = channels.reason(first) if whole or all(pinned) else None
            if whole or sum(pinned) >= len(pinned) - 1:
                clear.append((product, pinned, whole, reason))
                # Heads that are the only free factor here are the unit of what hangs together with them, too.
                free = (
                    []
                    if whole
                    else [
                        f
                        for f, stays in zip(product.factors, pinned, strict=True)
                        if not stays
                    ]
                )
                units += [
                    factor
                    for factor in free
                    if not attention.isdisjoint(channels.numbers([factor]))
                ]
            else:
                unclear.append(
                    (product, [i for i, is_pinned in enumerate(pinned) if not is_pinned])
                )
        for product, pinned, whole, reason in clear:
            if whole and reason:
                for factor in product.factors:
                    self._pin(factor, product, reason)
            else:
                self._settle(product, pinned, reason)
        self.carriers += units
        if clear:
            return [product for product, _ in unclear]
        return self._choose(unclear, channels)

    def _pin(self, factor: Labels, product: Product, reason: Reason) -> None:
        """Pin a factor of a product that stays; elements of its own in every block stay, too."""
        root = self.space.find(factor)
        blocks = self.blocks.get(root.first) if self.space.is_block(root) else None
        elements = blocks.labels_of(product) if blocks is not None else None
        if elements is not None:
            self.space.pin(elements, reason)
        self.space.pin(factor, reason)

    def _choose(
        self,
        unclear: Sequence[tuple[Product, list[int]]],
        channels: ResolvedLabels,
    ) -> list[Product]:
        """Choose carriers for products, each with its free factors; returns those that must wait for others."""
        repeated = channels.numbers(
            [labels for labels, name in self.space.tags if name == REPEATED]
        )
        parts = (
            channels.numbers(factor for p in self.space.products for factor in p.factors)
            if repeated
            else set()
        )
        candidates = [
            Candidate.of(product, free, channels, repeated, parts)
            for product, free in unclear
        ]
        chosen = choose(
            candidates, channels.numbers(self.carriers), channels.numbers(self.preferred)
        )
        for candidate, factor in chosen:
            self.carriers.append(candidate.product.factors[factor])
            self._carry(candidate.product, factor, candidate.free)
        decided = {id(candidate) for candidate, _ in chosen}
        return [
            candidate.product for candidate in candidates if id(candidate) not in decided
        ]

    def _carry(self, product: Product, chosen: int, free: Sequence[int]) -> None:
        """Let one factor carry a product and pin the others."""
        root = self.space.find(product.factors[chosen])
        blocks = self.blocks.get(root.first) if self.space.is_block(root) else None
        for i in free:
            stays_free = (
                blocks is not None
                and blocks.outer.first in self.whole
                and blocks.outer.along(product.factors[i]) is not None
            )
            if i != chosen and not stays_free:
                self.space.pin(
                    product.factors[i],
                    Reason(
                        "another factor of the same axis is the unit of pruning",
                        product.where,
                    ),
                )
        self._tie(product, chosen)

    def _tie(self, product: Product, carrier: int) -> None:
        """Tie a product to the factor that carries it, or to elements of its own in every block."""
        root = self.space.find(product.factors[carrier])
        blocks = self.blocks.get(root.first) if self.space.is_block(root) else None
        elements = blocks.labels_of(product) if blocks is not None else None
        if blocks is None or elements is None:
            self.space.tie(product.whole, product.spread(carrier))
            return
        self.apart.add(blocks.inner.first)
        self.space.tie(product.whole, elements)

    def _settle(
        self, product: Product, pinned: Sequence[bool], reason: Reason | None = None
    ) -> bool:
        """Tie a product to its only free factor, or pin it; False while several are free."""
        free = [i for i, is_pinned in enumerate(pinned) if not is_pinned]
        if len(free) > 1:
            return False
        if free:
            self._tie(product, free[0])
            return True
        self.space.pin(product.whole, reason or self._reason(product.factors[0]))
        return True

    def _reason(self, labels: Labels) -> Reason:
        """The reason of a uniform axis."""
        match = self.space.find(labels)
        assert isinstance(match, Uniform)
        return self.space.reasons[match.label]

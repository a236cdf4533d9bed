"""Mixed precision: the layers that hurt most go back until the outputs are within a tolerance.

They go back to float, or to activations in float with weights in int16 (half the bytes, slower than float).
Each layer is quantized alone and measured; what costs most for the bytes it saves goes back first. How many have to
is found by bisection, since a model with more layers in float is rarely further off. What layers do alone says less of
what they do together: in the end each one that went back is quantized again, the largest first, and stays so where the
outputs allow it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from prunegraph.graph.model import Graph
from prunegraph.quantization.placement import Placement, place
from prunegraph.quantization.scheme import Scheme

#: Makes the quantized graph of a placement.
Make = Callable[[Placement], Graph]

#: How much worse a graph is than the original.
Loss = Callable[[Graph], float]

WITHIN = "put back to stay within the tolerance"

#: What layers go back to.
FALLBACKS = ("float", "int16")


def put_back(placement: Placement) -> list[int]:
    """Layers that the tolerance has put back, by node index."""
    return [
        placement.graph.node(name).index
        for name, reason in placement.floats.items()
        if reason == WITHIN
    ]


def within(
    whole: Placement,
    scheme: Scheme,
    make: Make,
    loss: Loss,
    tolerance: float,
    progress: Callable[[str], None],
) -> tuple[Placement, float]:
    """A placement with as few bytes put back as the search finds, and its loss.

    Args:
        whole: with all layers quantized that may be.
        scheme: the types.
        make: makes a graph from a placement.
        loss: measures it.
        tolerance: the loss that is still good.
        progress: called before each measurement.

    Returns:
        A placement within the tolerance, or with all layers put back if that alone is.
    """
    progress("mixed precision: all layers quantized")
    result = loss(make(whole))
    if result <= tolerance:
        return whole, result
    search = _FallbackSearch(whole, scheme, make, loss, tolerance, progress)
    search.bisect(search.by_harm())
    search.quantize_again()
    return _replaced(whole, search.back, scheme), search.loss_of_best


@dataclass
class _FallbackSearch:
    """Which layers go back: `back`, the best known, and what it loses."""

    whole: Placement
    scheme: Scheme
    make: Make
    loss: Loss
    tolerance: float
    progress: Callable[[str], None]
    back: list[str] = field(default_factory=list)
    loss_of_best: float = np.inf

    def by_harm(self) -> list[str]:
        """Layers by what they lose when they alone are quantized, for each byte that saves; the worst first."""
        names = [self.whole.graph.nodes[index].name for index in self.whole.layers]
        harm: dict[str, float] = {}
        for done, name in enumerate(names):
            self.progress(
                f"mixed precision: layer {done + 1} of {len(names)} alone, {name}"
            )
            harm[name] = self._loss(
                [other for other in names if other != name]
            ) / self._size(name)
        return sorted(names, key=lambda name: -harm[name])

    def bisect(self, order: list[str]) -> None:
        """Put back as few of the first ones as are needed."""
        self.back, self.loss_of_best = order, self._loss(order)
        low, high = 1, len(order)
        while low < high:
            count = (low + high) // 2
            self.progress(f"mixed precision: {count} of {len(order)} layers put back")
            if self._improved(order[:count]):
                high = count
            else:
                low = count + 1

    def quantize_again(self) -> None:
        """Quantize again what went back without need, the largest first."""
        for done, name in enumerate(
            sorted(self.back, key=lambda name: -self._size(name)), 1
        ):
            self.progress(
                f"mixed precision: layer {done} of those put back is quantized again, {name}"
            )
            self._improved([other for other in self.back if other != name])

    def _improved(self, back: list[str]) -> bool:
        """Is the model within the tolerance with fewer layers put back? It is the best known then."""
        result = self._loss(back)
        if result <= self.tolerance:
            self.back, self.loss_of_best = back, result
        return result <= self.tolerance

    def _loss(self, back: Sequence[str]) -> float:
        return self.loss(self.make(_replaced(self.whole, back, self.scheme)))

    def _size(self, name: str) -> int:
        """Elements of a layer's weight."""
        return self.whole.graph.weights[self.whole.graph.node(name).inputs[1]].size


def _replaced(whole: Placement, floats: Sequence[str], scheme: Scheme) -> Placement:
    """A placement with more layers in float."""
    asked = [name for name, reason in whole.floats.items() if reason == "asked for"]
    result = place(whole.graph, scheme, [*asked, *floats])
    for name in floats:
        result.floats[name] = WITHIN
    return result

"""Mixed precision: the layers that hurt most go back until the outputs are within a tolerance.

They go back to float, or to activations in float with weights in int16 (half the bytes, slower than float).
Each layer is quantized alone and measured; what costs most for the bytes it saves goes back first. How many have to is
found by bisection, since a model with more layers in float is rarely further off, and the result is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

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
    return [placement.graph.node(name).index for name, reason in placement.floats.items() if reason == WITHIN]


def within(
    whole: Placement, scheme: Scheme, make: Make, loss: Loss, tolerance: float, progress: Callable[[str], None]
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
    found = loss(make(whole))
    if found <= tolerance:
        return whole, found
    names = [whole.graph.nodes[index].name for index in whole.layers]
    order = _by_harm(whole, names, scheme, make, loss, progress)
    best = _replaced(whole, names, scheme)
    best_loss = loss(make(best))
    low, high = 1, len(order)
    while low < high:
        count = (low + high) // 2
        progress(f"mixed precision: {count} of {len(order)} layers put back")
        tried = _replaced(whole, order[:count], scheme)
        found = loss(make(tried))
        if found <= tolerance:
            best, best_loss, high = tried, found, count
        else:
            low = count + 1
    return best, best_loss


def _by_harm(
    whole: Placement, names: Sequence[str], scheme: Scheme, make: Make, loss: Loss, progress: Callable[[str], None]
) -> list[str]:
    """Layers by what they lose when they alone are quantized, for each byte that saves; the worst first."""
    harm: dict[str, float] = {}
    for done, name in enumerate(names):
        progress(f"mixed precision: layer {done + 1} of {len(names)} alone, {name}")
        others = [other for other in names if other != name]
        size = whole.graph.weights[whole.graph.node(name).inputs[1]].size
        harm[name] = loss(make(_replaced(whole, others, scheme))) / size
    return sorted(names, key=lambda name: -harm[name])


def _replaced(whole: Placement, floats: Sequence[str], scheme: Scheme) -> Placement:
    """A placement with more layers in float."""
    asked = [name for name, reason in whole.floats.items() if reason == "asked for"]
    found = place(whole.graph, scheme, [*asked, *floats])
    for name in floats:
        found.floats[name] = WITHIN
    return found

"""Source 004: layers of low dimension are pruned by clusters of filter statistics, those of high dimension decomposed.

Which is which: ALGORITHMS 5.4. A layer whose inputs and outputs are `HIGH` or more is decomposed (a convolution by
Tucker-2, a matrix or 1x1 convolution by SVD), one with at most `LOW` of both is pruned. In between, what costs less:
the energy of the weak filters, or the error bound of the decomposition that saves as much of the weight. A layer
without weak filters saves nothing by pruning, so that it is decomposed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from prunegraph.coupling.coupling import Coupling
from prunegraph.coupling.groups import Group
from prunegraph.graph.model import Graph
from prunegraph.rewriting.decomposable import DecomposableLayer, layers
from prunegraph.rewriting.ranks import ladder
from prunegraph.selection.criteria.base import Context
from prunegraph.selection.criteria.own_ratio import own_ratios
from prunegraph.selection.criteria.weight_stats import statistics

#: Widest layer that counts as one of low dimension, and narrowest of high dimension.
LOW, HIGH = 128, 256

METHOD = "tucker2"


@dataclass(frozen=True)
class Verdict:
    """What is done to a layer, and why."""

    decompose: bool
    reason: str


def algorithm(cluster: str) -> str:
    """The criterion with its mode."""
    return f"weight_stats:mode={cluster}"


def verdicts(
    coupling: Coupling, cluster: str, seed: int = 0, round_to: int = 8
) -> dict[str, Verdict]:
    """Say what the rule says of every layer, by name.

    Args:
        coupling: of the model.
        cluster: "robust", or "paper" as published.
        seed: of k-means.
        round_to: ranks are a multiple of this.

    Raises:
        OptionError: no such mode.
    """
    context = Context(coupling, seed)
    shares = own_ratios(algorithm(cluster), context)
    groups = {layer: group for group in coupling.groups for layer in group.layers}
    created = {}
    for node, layer in layers(coupling.graph, coupling.shape_info.shapes):
        group = groups.get(node.name)
        if isinstance(layer, str):
            created[node.name] = Verdict(False, layer)
        else:
            created[node.name] = _verdict(
                layer, group, shares[group.id] if group else 0.0, context, round_to
            )
    return created


def _verdict(
    layer: DecomposableLayer,
    group: Group | None,
    share: float,
    context: Context,
    round_to: int,
) -> Verdict:
    outputs, inputs = layer.shape[:2]
    size = f"{outputs} x {inputs}"
    if max(inputs, outputs) <= LOW:
        return Verdict(False, f"low dimension ({size})")
    if min(inputs, outputs) >= HIGH:
        return Verdict(True, f"high dimension ({size})")
    if group is None or not share:
        return Verdict(True, f"between ({size}), no weak filters")
    lost, bound = _energy(group, share, context), _bound(layer, share, round_to)
    figures = f"{lost:.3g} of the energy by pruning, {bound:.3g} by decomposition"
    return Verdict(bound < lost, f"between ({size}): {figures}")


def _energy(group: Group, share: float, context: Context) -> float:
    """Share of the weights' energy in the channels that go."""
    means, deviations = statistics(group, context)
    energy = np.sort(means**2 + deviations**2)
    return float(energy[: round(share * len(energy))].sum() / (energy.sum() or 1.0))


def _bound(layer: DecomposableLayer, share: float, round_to: int) -> float:
    """Least bound on the squared relative error among decompositions that save a share of the weight."""
    size, _ = layer.cost()
    result = ladder(layer, layer.methods(METHOD), round_to, "params")
    return min(
        (each.error for each in result if each.params >= share * size), default=np.inf
    )


def kept(graph: Graph, created: Mapping[str, Verdict]) -> list[str]:
    """Layers of a cut graph that stay whole: those that are pruned."""
    names = [node.name for node, _ in layers(graph, {})]
    return [name for name in names if name not in created or not created[name].decompose]

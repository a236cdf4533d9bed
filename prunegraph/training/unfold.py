"""BatchNormalization put back where an exporter folded it into a layer: the same function, with scales to train.

A layer's output y of channels that can be removed becomes `(y - m) * scale / sqrt(v + epsilon) + shift` with m and v
its mean and variance on data, `scale = sqrt(v + epsilon)` and `shift = m`: nothing changes until scales are trained,
and a scale is the deviation that its channel has, as it was before the fold. `Unfolded.folded` takes the nodes away.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import helper

from prunegraph.coupling.analysis import analyze
from prunegraph.coupling.coupling import Coupling
from prunegraph.coupling.groups import Group
from prunegraph.coupling.places import ChannelAxis, makers
from prunegraph.graph.model import Graph, Node
from prunegraph.operators import is_batch_normalization
from prunegraph.rewriting.fold import fold, takes_affine
from prunegraph.rewriting.rewriter import Rewriter
from prunegraph.runtime.data import Data
from prunegraph.runtime.statistics import Statistics

Array = np.ndarray

#: Samples that moments are taken on, at most.
SAMPLES = 512

#: Networks of whose removable channels more than the rest of this share have scales stay as they are.
MOST = 0.5

#: Added to variances, as frameworks do.
EPSILON = 1e-5

#: The first version of BatchNormalization that does not depend on `is_test`.
WITHOUT_MODE = 7


@dataclass(frozen=True)
class Unfolded:
    """A graph, and the values behind the nodes that were put in."""

    graph: Graph
    values: tuple[str, ...] = ()

    @property
    def note(self) -> str:
        """Say what was done; "" where that is nothing."""
        if not self.values:
            return ""
        return (
            f"BatchNormalization was put behind {len(self.values)} layers whose removable channels had none "
            "(exporters fold it into the weights); the function is the same"
        )

    def folded(self, graph: Graph) -> Graph:
        """The given graph, made from this one, with the nodes that were put in folded into their layers."""
        if not self.values:
            return graph
        put_in = set(self.values)
        return fold(
            graph,
            keep={node.outputs[0] for node in graph.nodes if node.outputs[0] not in put_in},
        )


def unfold(graph: Graph, data: Data, *, seed: int = 0) -> Unfolded:
    """Put BatchNormalization behind the layers of all groups of channels that have none.

    Networks most of whose removable channels have one stay as they are: what has none in those never had. So do groups
    of which only some layers that make their channels could have one: their scales would say nothing of the channel.

    Args:
        graph: what is trained.
        data: samples, as the graph takes them; moments are those of `SAMPLES` of them.
        seed: of their choice.

    Raises:
        DataError: the data do not fit.
    """
    coupling = analyze(graph)
    wanted = list(_wanted(coupling))
    if not wanted:
        return Unfolded(graph)
    moments = Statistics(graph, data.draw(SAMPLES, seed)).moments(
        [(value, 1) for value in wanted]
    )
    rewriter = Rewriter(graph)
    for value, seen in zip(wanted, moments, strict=True):
        _insert(rewriter, value, seen.mean, seen.std)
    return Unfolded(rewriter.finish(swept=False), tuple(wanted))


def _wanted(coupling: Coupling) -> Iterator[str]:
    """Outputs of layers that get a BatchNormalization, in the graph's order."""
    graph = coupling.graph
    scales = {
        graph.weight_behind(node.inputs[1])
        for node in graph.nodes
        if is_batch_normalization(node)
    }
    bare = [group for group in coupling.groups if not _has_scales(group, scales)]
    if sum(g.channels for g in bare) <= MOST * sum(g.channels for g in coupling.groups):
        return iter(())
    values: set[str] = set()
    for group in bare:
        values |= _of_group(coupling, makers(coupling)[group.id])
    return (name for node in graph.nodes for name in node.outputs if name in values)


def _has_scales(group: Group, scales: set[str | None]) -> bool:
    return any(member.weight in scales for member in group.members)


def _of_group(coupling: Coupling, outputs: Sequence[ChannelAxis]) -> set[str]:
    """Outputs of the layers that make a group's channels; none if one of them cannot be normalised."""
    graph, shapes = coupling.graph, coupling.shape_info.shapes
    able = all(
        place.axis == 1
        and not _is_pooled(shapes.get(place.value, ()))
        and _is_plain(graph, graph.nodes[graph.producer[place.value]])
        for place in outputs
    )
    return {place.value for place in outputs} if able else set()


def _is_pooled(shape: Sequence[int]) -> bool:
    """Tell whether a map has one place only: the bottleneck of a gate, which never had a BatchNormalization."""
    return len(shape) > 2 and all(size == 1 for size in shape[2:])


def _is_plain(graph: Graph, node: Node) -> bool:
    """Tell whether a layer is such that what is put behind it can be folded again, into a weight of its own."""
    if graph.opsets.get("", 1) < WITHOUT_MODE or node.outputs[0] in graph.outputs:
        return False
    return takes_affine(graph, node) and len(graph.consumers[node.inputs[1]]) == 1


def _insert(rewriter: Rewriter, value: str, mean: Array, deviation: Array) -> None:
    """Put a BatchNormalization behind the layer that makes a value; it makes the value from now on."""
    graph = rewriter.graph
    layer = graph.nodes[graph.producer[value]]
    like = graph.weights[layer.inputs[1]]
    scale = np.sqrt(deviation**2 + EPSILON)
    parts = {"scale": scale, "shift": mean, "mean": mean, "variance": deviation**2}
    names = [
        rewriter.add_initializer(
            f"{layer.name or value}/normalization.{role}", values.astype(like.dtype), like
        )
        for role, values in parts.items()
    ]
    plain = rewriter.take_over(value, f"{value}/plain")
    rewriter.insert_after(
        layer,
        helper.make_node(
            "BatchNormalization",
            [plain, *names],
            [value],
            name=rewriter.names.new(f"{layer.name or value}/normalization"),
            epsilon=EPSILON,
        ),
    )

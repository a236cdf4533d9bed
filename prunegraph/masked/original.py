"""The masked original: a model of the original's shape that computes what the pruned one must.

Of a removed branch, what it gives to the sum at its end is zeroed, right there. Every removed
channel is zeroed where a layer makes it and where one consumes it. Where it is
consumed by a sum over activations, it is zeroed right there; where by a mean or a
normalisation, the statistics are taken over the survivors only (`masked.statistics`).

The proof is worth what this module and the cut do *not* share. It edits the protobufs of the
original file by itself: which entries of which weight are zeroed, and for which reader, is read
from the plan's cuts, as any program could; names, copies for readers that part ways, subgraphs of
control flow and streams of weights are its own. From the analysis it takes what the rules *say*
of operators, which axes are contracted and what is summed or averaged over, and nothing that
edits. A rule that says it wrong makes two models that differ; an editor that cuts wrong makes a
model that differs from this one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from prunegraph.coupling.coupling import Coupling, Reduction
from prunegraph.coupling.survivors import Survivors
from prunegraph.graph import control, order
from prunegraph.graph.control import Subgraph
from prunegraph.graph.external import without_graph, write_stream
from prunegraph.graph.model import Graph, Node, Weight
from prunegraph.masked.statistics import Masking
from prunegraph.selection.plan import Cut, reader_name

#: Where removed channels are zeroed: where a layer makes them, and where one consumes them.
EVERYWHERE = frozenset({"out", "in"})

#: Enough by itself, for models in which a zero would be divided by.
CONSUMED = frozenset({"in"})

#: An input: the index of its node, and its number.
Reader = tuple[int, int]

#: What is zero in a weight: cuts of its axes.
Zeros = tuple[Cut, ...]


def write_masked(
    survivors: Survivors, cuts: Sequence[Cut], path: Path, roles: Set[str] = EVERYWHERE
) -> None:
    """Write the masked original.

    Args:
        survivors: what is left of every value, for statistics.
        cuts: what is removed from every weight; each names its reader.
        path: of the model; large weights go to `path`.data, one at a time.
        roles: which channels of layers are zeroed, "out" and "in".
    """
    graph = survivors.coupling.graph
    writer = _MaskedWriter(survivors, zeros(survivors.coupling, cuts, roles))
    model = without_graph(graph.model)
    # Initializers need not be declared as inputs from here on.
    model.ir_version = max(model.ir_version, 4)
    model.graph.node.extend(writer.nodes(graph.model.graph.node, None))
    needed = {*_mentioned(model.graph), *(entry.name for entry in model.graph.input)}
    write_stream(model, _tensors(graph, needed, writer.tensors), path, graph.folder)


def zeros(coupling: Coupling, cuts: Sequence[Cut], roles: Set[str]) -> dict[Reader, Zeros]:
    """The zeros that each input reads: of a float weight that a layer contracts; scales, slopes and the like stay."""
    index = readers(coupling.graph)
    contracted = {(use.weight, use.node, use.slot): use.roles for use in coupling.uses}
    result: dict[Reader, dict[int, Cut]] = {}
    for cut in cuts:
        node, slot = index[cut.node or ""], cut.input if cut.input is not None else -1
        role = contracted.get(
            (cut.weight, node, slot), contracted.get((cut.weight, -1, -1), {})
        ).get(cut.axis)
        if role in roles and coupling.graph.weights[cut.weight].is_float:
            result.setdefault((node, slot), {})[cut.axis] = cut.for_all()
    return {
        reader: tuple(axes[axis] for axis in sorted(axes))
        for reader, axes in result.items()
    }


def readers(graph: Graph) -> dict[str, int]:
    """Nodes by what a plan calls them: a node with subgraphs stands for what hands values into them."""
    inner = [node for node in graph.nodes if node.domain == control.DOMAIN]
    return {reader_name(node): node.index for node in (*graph.nodes, *inner)}


def zeroed(weight: Weight, axes: Zeros, name: str) -> onnx.TensorProto:
    """A weight's tensor with zeros."""
    values = np.array(weight.read())
    for cut in axes:
        if cut.over is None:
            values[(slice(None),) * cut.axis + (list(cut.removed),)] = 0
            continue
        rows = np.moveaxis(values, (cut.over, cut.axis), (0, 1))
        for row, removed in zip(rows, cut.blocks, strict=True):
            row[list(removed)] = 0
    tensor = numpy_helper.from_array(values, name)
    tensor.data_type = weight.tensor.data_type
    return tensor


class _MaskedWriter:
    """Copies nodes of the original, graph by graph, with inputs redirected and statistics inserted."""

    def __init__(self, survivors: Survivors, zeros: Mapping[Reader, Zeros]):
        self.survivors, self.zeros = survivors, zeros
        self.graph = survivors.coupling.graph
        self.fresh = fresh_names(self.graph.model)
        #: New tensors of the main graph, made when they are written.
        self.tensors: dict[str, Callable[[], onnx.TensorProto]] = {}
        self._homes = {
            value: subgraph
            for subgraph in self.graph.subgraphs
            for value in subgraph.names.values()
        }
        self._inside: dict[Subgraph, list[onnx.TensorProto]] = {}
        self._versions: dict[tuple[str, Zeros], str] = {}
        self._reductions = _reductions(survivors)
        self._branches = {each.add: each.slot for each in survivors.branches}

    def nodes(
        self, protos: Iterable[onnx.NodeProto], subgraph: Subgraph | None
    ) -> Iterator[onnx.NodeProto]:
        """The masked nodes of the main graph or of a subgraph, in the file's order."""
        for proto, node in zip(protos, self.graph.in_file(subgraph), strict=True):
            copy = onnx.NodeProto()
            copy.CopyFrom(proto)
            if node.subgraphs:
                self._redirect(copy, self.graph.nodes[node.enter])
                self._rewrite_bodies(copy, node)
                yield copy
            else:
                self._redirect(copy, node)
                masking = Masking(self.survivors, node, copy, self.fresh)
                for reduction in self._reductions.get(node.index, ()):
                    masking.apply(reduction)
                if node.index in self._branches:
                    masking.zero(self._branches[node.index])
                yield from self._placed(masking, subgraph)

    def _placed(
        self, masking: Masking, subgraph: Subgraph | None
    ) -> Iterator[onnx.NodeProto]:
        for tensor in masking.tensors:
            if subgraph is None:
                self.tensors[tensor.name] = lambda created=tensor: created  # type: ignore[misc]
            else:
                self._inside.setdefault(subgraph, []).append(tensor)
        yield from (*masking.before, *masking.nodes)

    def _rewrite_bodies(self, proto: onnx.NodeProto, node: Node) -> None:
        """Mask what a node runs; a branch that never runs, which no rule has seen, stays as it is."""
        subgraphs = {
            subgraph.attribute: subgraph
            for subgraph in node.subgraphs
            if subgraph not in self.survivors.coupling.shape_info.dead
        }
        for attribute in proto.attribute:
            if attribute.name in subgraphs:
                subgraph = subgraphs[attribute.name]
                new = list(self.nodes(subgraph.graph.node, subgraph))
                del attribute.g.node[:]
                attribute.g.node.extend(new)
                attribute.g.initializer.extend(self._inside.pop(subgraph, []))

    def _redirect(self, proto: onnx.NodeProto, node: Node) -> None:
        """Let a node read its weights with their zeros."""
        for slot, weight in enumerate(node.inputs):
            axes = self.zeros.get((node.index, slot))
            if axes is not None:
                proto.input[slot] = self._version(self.graph.weights[weight], axes)

    def _version(self, weight: Weight, axes: Zeros) -> str:
        """The name of a weight with zeros; it stands where the weight does."""
        key = weight.name, axes
        if key not in self._versions:
            name = self._versions[key] = self.fresh()
            home = self._homes.get(weight.name)
            if home is None:
                self.tensors[name] = lambda: zeroed(weight, axes, name)
            else:
                self._inside.setdefault(home, []).append(zeroed(weight, axes, name))
        return self._versions[key]


def _reductions(survivors: Survivors) -> dict[int, list[Reduction]]:
    """By node, what is reduced along an axis that loses indices."""
    result: dict[int, list[Reduction]] = {}
    for reduction in survivors.coupling.reductions:
        labels = survivors.coupling.labels_at(reduction)
        if any(survivors.kept(labels[axis]) is not None for axis in reduction.axes):
            result.setdefault(reduction.node, []).append(reduction)
    return result


def _tensors(
    graph: Graph, needed: Set[str], new: Mapping[str, Callable[[], onnx.TensorProto]]
) -> Iterator[onnx.TensorProto]:
    """The original's initializers that are still read, and the new ones."""
    for tensor in graph.model.graph.initializer:
        if tensor.name in needed:
            yield tensor
    for make in new.values():
        yield make()


def _mentioned(graph: onnx.GraphProto) -> Iterator[str]:
    """Names that something reads, in a graph or inside it."""
    for each in order.nested(graph):
        yield from (entry.name for entry in each.output)
        for node in each.node:
            yield from node.input


def _given(graph: onnx.GraphProto) -> Iterator[str]:
    """Names that something has, in a graph or inside it."""
    for each in order.nested(graph):
        yield from (
            entry.name
            for entry in (*each.input, *each.output, *each.value_info, *each.initializer)
        )
        yield from (sparse.values.name for sparse in each.sparse_initializer)
        for node in each.node:
            yield node.name
            yield from (*node.input, *node.output)


def fresh_names(model: onnx.ModelProto) -> Callable[[], str]:
    """Gives names that begin as no name of the model does, subgraphs included, and none twice."""
    prefix = "masked"
    names = set(_given(model.graph))
    while any(name.startswith(prefix) for name in names):
        prefix += "_"
    count = iter(range(1 << 62))
    return lambda: f"{prefix}:{next(count)}"

"""Residual branches taken out of a graph: each sum becomes its stream.

Where nothing else reads the stream, the node that makes it makes the sum's value from now on, under that value's
name: so every value keeps the name of what it stands for in the original. Two clamps (a ReLU before the sum and one
behind it) that follow one another then are one, and the first of them goes. Else the readers of the sum read the
stream.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import helper

from prunegraph.coupling.branches import Branch, needed_only_by
from prunegraph.graph.bounds import bounds
from prunegraph.graph.model import Graph, Node
from prunegraph.rewriting.rewriter import Rewriter


def drop_branches(graph: Graph, branches: Sequence[Branch]) -> Graph:
    """The graph without some branches; the graph itself where there are none.

    Args:
        graph: the graph that the branches were found in, or what a cut of channels left of it.
        branches: in topological order, none inside another one.
    """
    return _Dropping(graph, branches).run() if branches else graph


class _Dropping:
    """Branches of one graph on their way out."""

    def __init__(self, graph: Graph, branches: Sequence[Branch]):
        self.graph, self.rewriter = graph, Rewriter(graph)
        self.slots = _slots(graph, branches)
        #: Who makes a value now, where another node did; and values that are not made any more.
        self._makers: dict[str, Node] = {}
        self._redirected: set[str] = set()
        self.gone: set[int] = {*self.slots, *needed_only_by(graph, self.slots.items())}

    def run(self) -> Graph:
        for source, sums in self._chains().items():
            self._replace(source, sums)
        return self.rewriter.finish(change=self._forget)

    def _chains(self) -> dict[str, list[str]]:
        """By the value that stays, the sums that become it, in topological order."""
        chains: dict[str, list[str]] = {}
        source_of: dict[str, str] = {}
        for add in sorted(self.slots):
            node = self.graph.nodes[add]
            stream, output = node.inputs[1 - self.slots[add]], node.outputs[0]
            source_of[output] = source_of.get(stream, stream)
            chains.setdefault(source_of[output], []).append(output)
        return chains

    def _replace(self, source: str, sums: Sequence[str]) -> None:
        """Let sums be what they are without their branches."""
        last = sums[-1]
        for output in sums:
            self.rewriter.replace(self._maker(output), [])
        if self._can_be_renamed(source) and not any(map(self._readers, sums[:-1])):
            self._rename(self._first_clamp(source, last), last)
            return
        for output in sums:
            if output in self.graph.outputs:
                node = self._maker(output)
                copy = helper.make_node(
                    "Identity", [source], [output], name=node.proto.name
                )
                self.rewriter.replace(node, [copy])
            self.rewriter.redirect(output, source)
            self._redirected.add(output)

    def _maker(self, value: str) -> Node:
        return self._makers.get(value) or self.graph.nodes[self.graph.producer[value]]

    def _readers(self, value: str) -> list[int | str]:
        """What reads a value once the branches are gone: nodes by index, or the graph's caller."""
        caller = [value] if value in self.graph.outputs else []
        readers = self.graph.consumers.get(value, ())
        return [*caller, *(node for node, _ in readers if node not in self.gone)]

    def _can_be_renamed(self, value: str) -> bool:
        """Tell whether a node of the main graph makes a value, and nothing that stays reads it."""
        return (
            value in self.graph.outer
            and value not in self._redirected
            and not self._readers(value)
        )

    def _first_clamp(self, value: str, last: str) -> str:
        """The value before a clamp that all readers of the last sum repeat; else the value itself."""
        clamp = self._maker(value)
        limits = bounds(self.graph, clamp)
        readers = self._readers(last)
        if limits is None or not readers:
            return value
        repeated = all(
            isinstance(reader, int)
            and bounds(self.graph, self.graph.nodes[reader]) == limits
            for reader in readers
        )
        before = clamp.inputs[0]
        self.gone.add(clamp.index)
        if repeated and self._can_be_renamed(before):
            self.rewriter.replace(clamp, [])
            return before
        self.gone.remove(clamp.index)
        return value

    def _rename(self, value: str, name: str) -> None:
        self._makers[name] = self._maker(value)
        proto = self.rewriter.edit(self._makers[name])
        proto.output[list(proto.output).index(value)] = name

    def _forget(self, model: onnx.ModelProto) -> None:
        """Drop what the file declares of values that no node makes any more."""
        present = {output for node in model.graph.node for output in node.output}
        lost = {value for node in self.gone for value in self.graph.nodes[node].outputs}
        entries = [
            e for e in model.graph.value_info if e.name in present or e.name not in lost
        ]
        copies = [onnx.ValueInfoProto.FromString(e.SerializeToString()) for e in entries]
        del model.graph.value_info[:]
        model.graph.value_info.extend(copies)


def _slots(graph: Graph, branches: Sequence[Branch]) -> dict[int, int]:
    """The operand that goes, by the index of the Add."""
    return {graph.producer[branch.output]: branch.slot for branch in branches}

"""Models with the same function and other names inside: those that a rewrite would like to give."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx

#: A name in a graph: the place of the subgraph it is in, and the name there.
Key = tuple[tuple[int, ...], str]


def subgraphs(
    graph: onnx.GraphProto, place: tuple[int, ...] = ()
) -> Iterator[tuple[tuple[int, ...], onnx.GraphProto]]:
    """A graph and all graphs inside it, each with its place."""
    yield place, graph
    for index, node in enumerate(graph.node):
        for slot, attribute in enumerate(node.attribute):
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from subgraphs(attribute.g, (*place, index, slot))


def all_names(model: onnx.ModelProto) -> set[str]:
    """Names of values and nodes."""
    names: set[str] = set()
    for _, graph in subgraphs(model.graph):
        names.update(
            entry.name for entry in (*graph.input, *graph.output, *graph.initializer)
        )
        names.update(name for node in graph.node for name in (node.name, *node.output))
    return names - {""}


def own(graph: onnx.GraphProto) -> list[str]:
    """Names that a graph gives to values of its own."""
    names = [entry.name for entry in (*graph.input, *graph.initializer)]
    return list(
        dict.fromkeys([*names, *(o for node in graph.node for o in node.output if o)])
    )


def inner(model: onnx.ModelProto) -> list[Key]:
    """What can be renamed: all values but the model's inputs and outputs."""
    fixed = {entry.name for entry in (*model.graph.input, *model.graph.output)}
    return [
        (place, name)
        for place, graph in subgraphs(model.graph)
        for name in own(graph)
        if place or name not in fixed
    ]


def renamed(model: onnx.ModelProto, names: Mapping[Key, str]) -> onnx.ModelProto:
    """A model with other names for some values; the same function."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    _rename(copy.graph, (), {}, names)
    return copy


def _rename(
    graph: onnx.GraphProto,
    place: tuple[int, ...],
    outer: Mapping[str, str],
    names: Mapping[Key, str],
) -> None:
    mine = own(graph)
    visible = {old: new for old, new in outer.items() if old not in mine}
    visible.update({name: names[place, name] for name in mine if (place, name) in names})
    for entry in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
        entry.name = visible.get(entry.name, entry.name)
    for index, node in enumerate(graph.node):
        for values in (node.input, node.output):
            for slot, value in enumerate(values):
                values[slot] = visible.get(value, value)
        for slot, attribute in enumerate(node.attribute):
            if attribute.type == onnx.AttributeProto.GRAPH:
                _rename(attribute.g, (*place, index, slot), visible, names)


def draw(
    model: onnx.ModelProto, wanted: Sequence[str], rng: np.random.Generator
) -> onnx.ModelProto:
    """The model with each of the wanted names given to one of its inner values, drawn at random."""
    free = [name for name in wanted if name not in all_names(model)]
    keys = inner(model)
    chosen = rng.permutation(len(keys))[: len(free)]
    order = rng.permutation(len(free))
    return renamed(
        model, {keys[key]: free[name] for key, name in zip(chosen, order, strict=False)}
    )

"""Drop what a rewrite left without a reader."""

from __future__ import annotations

from collections.abc import Iterable

import onnx

from prunegraph.graph import order


def live_values(graph: onnx.GraphProto, roots: Iterable[str] = ()) -> set[str]:
    """Values that some graph output (or one of `roots`) depends on."""
    producer = {output: node for node in graph.node for output in node.output if output}
    live: set[str] = set()
    queue = [*(output.name for output in graph.output), *roots]
    while queue:
        value = queue.pop()
        if value in live:
            continue
        live.add(value)
        node = producer.get(value)
        if node is not None:
            queue += [
                v for v in (*node.input, *order.captured(node)) if v and v not in live
            ]
            live.update(v for v in node.output if v)
    return live


def drop_unused(graph: onnx.GraphProto, before: onnx.GraphProto) -> None:
    """Drop nodes and initializers without a reader, except those that had none in the graph `before`."""
    created = {t.name for t in before.initializer} | {
        o for node in before.node for o in node.output
    }
    keep = live_values(graph, created - live_values(before))
    nodes = [node for node in graph.node if any(o in keep for o in node.output)]
    if len(nodes) < len(graph.node):
        kept = [_copy(node) for node in nodes]
        del graph.node[:]
        graph.node.extend(kept)
    for name in [t.name for t in graph.initializer if t.name not in keep]:
        index = next(i for i, tensor in enumerate(graph.initializer) if tensor.name == name)
        del graph.initializer[index]
        for i, entry in enumerate(graph.input):
            if entry.name == name:
                del graph.input[i]
                break


def _copy(node: onnx.NodeProto) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    return copy

"""Node data for Model Explorer (https://github.com/google-ai-edge/model-explorer): groups as colours, cost as numbers.

The format is that of its `node_data_builder`: by graph and node, a number and colours. The adapter
for ONNX files calls nodes by their names.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from prunegraph.ops.cost import node_macs

if TYPE_CHECKING:
    from prunegraph.coupling.coupling import Coupling

#: Backgrounds of the layers of a group, in turn, and of layers that are fixed.
COLORS = (
    "#a9cdf0",
    "#f3c3a2",
    "#a8dcd2",
    "#e0b9e3",
    "#e6d59a",
    "#c1c7f2",
    "#f2b8b3",
    "#c3e2ae",
)
FIXED = "#d5dae0"

TEXT = "#17202b"

#: What the adapter for ONNX calls a graph without a name.
NAMELESS = "<main>"


def node_data(coupling: Coupling) -> dict[str, Any]:
    """Every layer with its share of the model's MACs in percent, in its group's colour; fixed layers are grey."""
    graph = coupling.graph
    return {
        graph.model.graph.name or NAMELESS: {
            "name": "prunegraph: MACs, %",
            "results": dict(_results(coupling)),
        }
    }


def _results(coupling: Coupling) -> Iterator[tuple[str, dict[str, Any]]]:
    graph, shapes = coupling.graph, coupling.shape_info.shapes
    whole = sum(node_macs(node, shapes) for node in graph.nodes) or 1
    colors = {
        layer: COLORS[number % len(COLORS)]
        for number, group in reversed(list(enumerate(coupling.groups)))
        for layer in group.layers
    }
    for node in graph.layers:
        if (
            node.subgraph is not None
        ):  # another graph of the file, whose values are renamed here
            continue
        yield (
            node.proto.name or node.outputs[0],
            {
                "value": round(100 * node_macs(node, shapes) / whole, 3),
                "bgColor": colors.get(node.name, FIXED),
                "textColor": TEXT,
            },
        )

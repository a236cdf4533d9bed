"""The groups file: all that an algorithm of any kind, in any language, needs to choose channels.

Nothing is read or written here: `outline` makes the content, as plain JSON.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from prunegraph.coupling.branches import Branch
from prunegraph.coupling.coupling import Coupling
from prunegraph.coupling.groups import Group, Member
from prunegraph.coupling.places import ChannelAxis, makers, readers
from prunegraph.coupling.sample import full_cost
from prunegraph.coupling.survivors import Survivors
from prunegraph.graph.model import FLOAT_TYPES
from prunegraph.graph.records import node_records
from prunegraph.ops.cost import is_parameter, node_macs
from prunegraph.runtime.statistics import ChannelMoments, Statistics

Array = np.ndarray

#: Entries are only added under this name: a program that reads the file reads later ones too.
GROUPS = "prunegraph/groups@1"
NODES = "prunegraph/nodes@1"

#: Elements of a weight that are looked at together.
BLOCK = 2**20

#: Types that have neither size nor sign.
NO_NUMBERS = (
    onnx.TensorProto.STRING,
    onnx.TensorProto.COMPLEX64,
    onnx.TensorProto.COMPLEX128,
)


def outline(coupling: Coupling, statistics: Statistics | None = None) -> dict[str, Any]:
    """Groups with what their weights look like, fixed layers, costs and nodes.

    Args:
        coupling: what can be pruned.
        statistics: what data show of the graph; with them groups have `activations`.

    Raises:
        DataError: the data do not fit the model.
    """
    return {
        "format": GROUPS,
        **_head(coupling),
        "groups": [_group(coupling, group, statistics) for group in coupling.groups],
        "fixed": [fixed.to_json() for fixed in coupling.fixed],
        "branches": [branch_record(coupling, branch) for branch in coupling.branches],
        "nodes": _nodes(coupling),
    }


def branch_record(coupling: Coupling, branch: Branch) -> dict[str, Any]:
    """A residual branch as JSON: the Add that ends it, its layers, and what goes with it when it goes alone."""
    gone = Survivors(coupling, {branch.id: (0,)})
    graph, shapes = coupling.graph, coupling.shape_info.shapes
    weights = [graph.weights[name] for name in gone.lost_weights]
    return {
        "name": branch.name,
        "input": branch.slot,
        "layers": list(branch.layers),
        "macs": sum(node_macs(graph.nodes[node], shapes) for node in gone.gone),
        "params": sum(each.size for each in weights if is_parameter(graph, each)),
    }


def nodes_outline(coupling: Coupling) -> dict[str, Any]:
    """The nodes alone, with costs."""
    return {"format": NODES, **_head(coupling), "nodes": _nodes(coupling)}


def _head(coupling: Coupling) -> dict[str, Any]:
    """Tell which model it is, to be copied into a plan, and what it costs."""
    graph = coupling.graph
    unit: dict[str, Any] = {}
    if coupling.attention:
        unit["attention"] = coupling.attention
    if coupling.channels.blocks:
        unit["blocks"] = coupling.blocks
    if coupling.allow_io:
        unit["allow_io"] = list(coupling.allow_io)
    return {
        "model": {"name": Path(graph.source).name, "sha256": graph.sha256, **unit},
        "cost": vars(full_cost(graph)),
        "inputs": [
            {"name": name, "shape": _shape(coupling, name)} for name in graph.inputs
        ],
        "outputs": [
            {"name": name, "shape": _shape(coupling, name)} for name in graph.outputs
        ],
    }


def _shape(coupling: Coupling, value: str) -> list[int] | None:
    shape = coupling.shape_info.shapes.get(value)
    return None if shape is None else [int(size) for size in shape]


def _nodes(coupling: Coupling) -> list[dict[str, Any]]:
    shapes = coupling.shape_info.shapes
    records = node_records(coupling.graph, shapes)
    return [
        {**record, "macs": node_macs(node, shapes)}
        for node, record in zip(coupling.graph.nodes, records, strict=True)
    ]


def _group(
    coupling: Coupling, group: Group, statistics: Statistics | None
) -> dict[str, Any]:
    content = group.to_json()
    content["members"] = [
        {**record, **_member(coupling, member)}
        for record, member in zip(content["members"], group.members, strict=True)
    ]
    if statistics is not None:
        content["activations"] = list(_activations(coupling, group, statistics))
    return content


# -- weights ----------------------------------------------------------------------------------


def _member(coupling: Coupling, member: Member) -> dict[str, Any]:
    """The layer, the nodes that read the weight, its shape and the size of the axis, and numbers by channel.

    `main` tells the weight that a layer contracts with from its bias and other parameters.
    """
    graph = coupling.graph
    nodes = member.use.layers or [n for n in [member.use.node] if n >= 0]
    nodes = list(
        dict.fromkeys(nodes or [node for node, _ in graph.consumers.get(member.weight, ())])
    )
    shape = graph.weights[member.weight].shape
    return {
        "layer": member.layer,
        "nodes": nodes,
        "main": bool(member.main_layers),
        "shape": list(shape),
        "size": shape[member.axis],
        **weight_statistics(member),
    }


def weight_statistics(member: Member) -> dict[str, list[float | None] | None]:
    """Of each channel's elements of a weight, as stored: `l1`, `l2`, `mean` and `variance` (of the population).

    None where a channel holds what is no finite number, or the weight is no numbers at all.
    """
    names = ("l1", "l2", "mean", "variance")
    if member.graph.weights[member.weight].tensor.data_type in NO_NUMBERS:
        return dict.fromkeys(names)
    blocks = [_row_statistics(rows) for rows in _rows(member.values())]
    return {
        name: numbers(np.concatenate(parts))
        for name, parts in zip(names, zip(*blocks, strict=True), strict=True)
    }


def _rows(values: Array) -> Iterator[Array]:
    """Channels in blocks, in double precision."""
    step = max(1, BLOCK // max(values.shape[1], 1))
    for first in range(0, len(values), step):
        yield values[first : first + step].astype(np.float64)


def _row_statistics(rows: Array) -> tuple[Array, Array, Array, Array]:
    with np.errstate(all="ignore"):  # infinite weights
        return (
            np.abs(rows).sum(axis=1),
            np.sqrt((rows**2).sum(axis=1)),
            rows.mean(axis=1),
            rows.var(axis=1),
        )


def numbers(values: Array) -> list[float | None]:
    """Numbers for JSON: seven digits, None for what is not finite."""
    return [
        float(f"{value:.7g}") if np.isfinite(value) else None
        for value in np.asarray(values).tolist()
    ]


# -- activations ------------------------------------------------------------------------------


def _activations(
    coupling: Coupling, group: Group, statistics: Statistics
) -> Iterator[dict[str, Any]]:
    """Moments of the group's channels where layers make them ("out") and where layers read them ("in")."""
    every = [
        (p.value, p.axis) for other in coupling.groups for _, p in _places(coupling, other)
    ]
    statistics.moments(list(dict.fromkeys(every)))  # one pass over the data for all groups
    result = list(_places(coupling, group))
    moments = statistics.moments([(place.value, place.axis) for _, place in result])
    for (role, place), each in zip(result, moments, strict=True):
        layers = _layers(coupling, place, role)
        yield {
            "value": place.value,
            "axis": place.axis,
            "role": role,
            "layers": layers,
            **_moments(place, each),
        }


def _places(coupling: Coupling, group: Group) -> Iterator[tuple[str, ChannelAxis]]:
    """Values of floating-point numbers outside of subgraphs; one that two layers share stands there for both roles."""
    graph, types = coupling.graph, coupling.shape_info.types
    for role, places in (("out", makers(coupling)), ("in", readers(coupling))):
        for place in places[group.id]:
            is_reachable = place.value in graph.outer or place.value in graph.inputs
            if is_reachable and types.get(place.value) in FLOAT_TYPES:
                yield role, place


def _layers(coupling: Coupling, place: ChannelAxis, role: str) -> Sequence[str]:
    graph = coupling.graph
    if role == "out":
        return [graph.nodes[graph.producer[place.value]].name]
    layers = {node.index for node in graph.layers}
    nodes = dict.fromkeys(
        node for node, _ in graph.consumers.get(place.value, ()) if node in layers
    )
    return [graph.nodes[node].name for node in nodes]


def _moments(place: ChannelAxis, moments: ChannelMoments) -> dict[str, Any]:
    mean, energy = place.by_channel(moments.mean), place.by_channel(moments.energy)
    return {
        "mean": numbers(mean),
        "energy": numbers(energy),
        "std": numbers(np.sqrt(np.maximum(energy - mean**2, 0))),
        "inactive_share": numbers(place.by_channel(moments.inactive_share)),
    }

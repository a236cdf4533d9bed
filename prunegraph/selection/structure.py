"""Which groups have the same structure: the same operators around their channels, wired the same way."""

from __future__ import annotations

import warnings

from prunegraph.coupling.coupling import Coupling
from prunegraph.coupling.groups import Group
from prunegraph.coupling.places import places

#: Steps along the graph that a node's surroundings reach.
DEPTH = 8


def structures(coupling: Coupling) -> dict[str, str]:
    """A hash for each group, equal where the coupled sub-graphs are isomorphic; widths and weights do not count.

    Nodes of a group's sub-graph are those that make, pass or read its channels, by operator and role; its
    edges are the values with channels. Weisfeiler-Lehman hashes: unlike ones are never isomorphic.
    """
    return {group.id: _structure(coupling, group) for group in coupling.groups}


def alike(coupling: Coupling) -> list[list[str]]:
    """Groups that have to keep the same number of channels for all layers to be alike, by id.

    These are groups of one structure and one width; and all that make out the size of a head, whether of queries and
    keys or of values.
    """
    structure, sizes = structures(coupling), _head_sizes(coupling)
    classes: dict[tuple[object, int], list[str]] = {}
    for group in coupling.groups:
        size = sizes.get(group.id)
        key = (structure[group.id], group.channels) if size is None else ("", size)
        classes.setdefault(key, []).append(group.id)
    return list(classes.values())


def _head_sizes(coupling: Coupling) -> dict[str, int]:
    """Of groups whose channels run along the size of a head: what that size is."""
    sizes: dict[int, int] = {}
    for labels, name in coupling.channels.space.tags:
        if name == "head_dim":
            blocks = coupling.channels.blocks_of(labels)
            free = (
                coupling.channels.free_numbers([labels])
                if blocks is None
                else coupling.channels.block_numbers(blocks).reshape(-1).tolist()
            )
            sizes.update(dict.fromkeys(free, labels.size))
    return {
        group.id: sizes[number]
        for group in coupling.groups
        if (number := int(group.channel_numbers([0])[0])) in sizes
    }


def _structure(coupling: Coupling, group: Group) -> str:
    import networkx

    edges = {
        (coupling.graph.producer[place.value], reader)
        for place in places(coupling)[group.id]
        for reader, _ in coupling.graph.consumers.get(place.value, ())
    }
    roles: dict[int, set[str]] = {node: set() for edge in edges for node in edge}
    for member in group.members:
        for index in member.use.layers:
            roles.setdefault(index, set()).add(member.role)
    graph = networkx.DiGraph()
    for index, match in roles.items():
        node = coupling.graph.nodes[index]
        graph.add_node(index, kind=" ".join([node.domain, node.op, *sorted(match)]))
    graph.add_edges_from(edges)
    with warnings.catch_warnings():
        # networkx announces that hashes of directed graphs have changed between its versions.
        warnings.simplefilter("ignore", UserWarning)
        return str(
            networkx.weisfeiler_lehman_graph_hash(graph, node_attr="kind", iterations=DEPTH)
        )

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

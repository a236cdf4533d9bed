"""What became of every layer of a compressed model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from prunegraph.graph.model import Graph, Node
from prunegraph.graph.shapes import shape_info
from prunegraph.ops.cost import node_macs
from prunegraph.rewriting.decompose import DecomposeResult


@dataclass(frozen=True)
class Decision:
    """One layer of the original.

    `action` is "keep", "prune" (it has fewer outputs), "decompose", "prune + decompose", or "drop" (it goes with a
    branch). Channels, parameters of
    the weight and MACs (at the sizes of the analysis, batch 1; 0 where shapes are not known) are before and after.
    `error` is that of the decomposed weight by the cut one, before recovery. `reason` is the rule's, or why a
    layer was not decomposed.
    """

    name: str
    op: str
    action: str
    inputs: tuple[int, int]
    outputs: tuple[int, int]
    params: tuple[int, int]
    macs: tuple[int, int]
    method: str = ""
    ranks: tuple[int, ...] = ()
    error: float | None = None
    reason: str = ""


def decisions(
    original: Graph,
    cut: Graph,
    decomposed: DecomposeResult | None,
    reasons: Mapping[str, str],
    dropped: Mapping[str, str],
) -> tuple[Decision, ...]:
    """A decision for every layer of the original, in topological order.

    Args:
        original: the model.
        cut: the model without channels.
        decomposed: what became of it then.
        reasons: why, by layer; where it says nothing, the decomposition's own reason against it.
        dropped: layers that go with a residual branch, with its name.
    """
    rows = {row.name: row for row in decomposed.layers} if decomposed else {}
    why = {**(decomposed.skipped if decomposed else {}), **reasons}
    smaller = {node.name: node for node in cut.layers}
    old, new = shape_info(original).shapes, shape_info(cut).shapes
    created = []
    for node in original.layers:
        if node.name in dropped:
            created.append(_drop(original, node, node_macs(node, old), dropped[node.name]))
            continue
        twin, row = smaller.get(node.name, node), rows.get(node.name)
        pruned = _width(twin, 0) < _width(node, 0)
        done = [
            word
            for word, is_so in (("prune", pruned), ("decompose", row is not None))
            if is_so
        ]
        created.append(
            Decision(
                node.name,
                node.op,
                " + ".join(done) or "keep",
                (_width(node, 1), _width(twin, 1)),
                (_width(node, 0), _width(twin, 0)),
                (_size(original, node), row.params[1] if row else _size(cut, twin)),
                (node_macs(node, old), row.macs[1] if row else node_macs(twin, new)),
                row.method if row else "",
                row.ranks if row else (),
                row.error if row else None,
                "; ".join(
                    each
                    for each in (
                        why.get(node.name, "" if done else _untouched(node, twin)),
                        row.note if row else "",
                    )
                    if each
                ),
            )
        )
    return tuple(created)


def _drop(original: Graph, node: Node, macs: int, branch: str) -> Decision:
    """A layer that goes with a branch."""
    return Decision(
        node.name,
        node.op,
        "drop",
        (_width(node, 1), 0),
        (_width(node, 0), 0),
        (_size(original, node), 0),
        (macs, 0),
        reason=f"goes with branch {branch}",
    )


def _untouched(old: Node, new: Node) -> str:
    """Why a layer keeps its outputs where nothing else says so."""
    if _width(new, 1) < _width(old, 1):
        return "it lost inputs to other layers; its outputs stay within the budget"
    return "the budget is met without it"


def _width(node: Node, side: int) -> int:
    """Outputs (0) or inputs (1) of a layer; 0 where they are not known."""
    return (node.channels.inputs if side else node.channels.outputs) or 0


def _size(graph: Graph, node: Node) -> int:
    weight = graph.main_weight(node)
    return graph.weights[weight].size if weight else 0

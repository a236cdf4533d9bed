"""Which values are read as numbers: sizes, scales, bounds, positions.

Whether a few floats are shape arithmetic or data is a matter of who reads them, not of how many
they are: four scales of a Resize are, sixteen biases of a layer are not.
"""

from __future__ import annotations

from prunegraph.graph.evaluate import is_arithmetic
from prunegraph.graph.model import Graph, Node

#: Input slots that say what an operator does, by operator; all others hold data.
SLOTS: dict[str, tuple[int, ...]] = {
    "Reshape": (1,),
    "Expand": (1,),
    "ConstantOfShape": (0,),
    "Tile": (1, 2),
    "Slice": (1, 2, 3, 4),
    "Pad": (1, 3),
    "Split": (1,),
    "SplitToSequence": (1,),
    "SequenceAt": (1,),
    "Squeeze": (1,),
    "Unsqueeze": (1,),
    "Range": (0, 1, 2),
    "Resize": (1, 2, 3),
    "Upsample": (1,),
    "TopK": (1,),
    "OneHot": (1,),
    "CumSum": (1,),
    "CumProd": (1,),
    "Trilu": (1,),
    "CenterCropPad": (1,),
    "AffineGrid": (1,),
    "Col2Im": (1, 2),
    "Dropout": (1, 2),
    "If": (0,),
    "Loop": (0, 1),
    **dict.fromkeys(
        (
            "ReduceL1",
            "ReduceL2",
            "ReduceLogSum",
            "ReduceLogSumExp",
            "ReduceMax",
            "ReduceMean",
            "ReduceMin",
            "ReduceProd",
            "ReduceSum",
            "ReduceSumSquare",
        ),
        (1,),
    ),
}

#: Domains whose operators are known; what an operator of another one does with its inputs, nobody here can say.
KNOWN_DOMAINS = frozenset({"", "com.microsoft"})


def read_as_numbers(graph: Graph) -> frozenset[str]:
    """Values that some operator reads as numbers, and those that they are computed from (cached on the graph)."""
    if "numbers" not in graph.cache:
        graph.cache["numbers"] = frozenset(_find(graph))
    result: frozenset[str] = graph.cache["numbers"]
    return result


def _find(graph: Graph) -> set[str]:
    queue = [value for node in graph.nodes for value in _operands(node)]
    result: set[str] = set()
    while queue:
        value = queue.pop()
        if not value or value in result:
            continue
        result.add(value)
        if value in graph.producer:
            queue += _sources(graph.nodes[graph.producer[value]], value)
    return result


def _operands(node: Node) -> tuple[str, ...]:
    """Values that a node reads as numbers."""
    if node.domain == "":
        return tuple(node.input(slot) for slot in SLOTS.get(node.op, ()))
    return (
        ()
        if node.domain in KNOWN_DOMAINS or node.subgraphs or node.enter >= 0
        else node.inputs
    )


def _sources(node: Node, value: str) -> tuple[str, ...]:
    """What a value is computed from, if by arithmetic or handed on by a branch."""
    if node.op == "If" and node.subgraphs:
        slot = node.outputs.index(value)
        return tuple(subgraph.outputs[slot] for subgraph in node.subgraphs)
    return node.inputs if is_arithmetic(node) else ()

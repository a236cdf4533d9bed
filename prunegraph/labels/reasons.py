"""Reasons for pinned labels: a kind that programs read, and a text that people do."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Kind(Enum):
    """A cause that keeps an axis as it is."""

    GRAPH_INPUT = "the model's interface at its inputs"
    GRAPH_OUTPUT = "the model's interface at its outputs"
    NO_RULE = "an operator that nobody has described"
    SPATIAL = "sizes of the input"
    OTHER_FACTOR = "the other factor of a product"
    ONE_CHANNEL = "ties that leave a single channel"
    CONTROL_FLOW = "control flow that is not followed"
    CAPTURED = "a use in a subgraph that is not looked into"
    CHANGES_SHAPE = "a shape that changes from iteration to iteration"
    BRANCHES_DIFFER = "branches that return different shapes"
    UNKNOWN_SHAPE = "a shape in a subgraph that is not known"
    RUNS_ALONG = "what a subgraph runs over"
    OPERATOR = "an operator that reads the axis as a whole"


class Reason(NamedTuple):
    """The cause of a pin: a sentence, the node (or graph input/output) that causes it, and the kind."""

    text: str
    because: str
    kind: Kind = Kind.OPERATOR

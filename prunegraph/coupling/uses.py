"""A weight as one reader sees it."""

from __future__ import annotations

from dataclasses import dataclass, field

from prunegraph.labels.labels import Labels


@dataclass(frozen=True)
class Use:
    """Labels of a weight's axes for one input of one node, or for all readers (`node` -1).

    `roles` says which axes are a layer's "out" or "in" channels; `layers` which nodes those are.
    """

    weight: str
    node: int
    slot: int
    labels: tuple[Labels, ...]
    roles: dict[int, str]
    layers: list[int] = field(default_factory=list)

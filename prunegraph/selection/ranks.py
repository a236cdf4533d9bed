"""Layers that are written as several of low rank, as a plan names them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class LayerRanks:
    """A layer, the method by which it is decomposed after the cut, and its ranks.

    Args:
        layer: its name.
        method: "tucker2", "svd" or "spatial".
        ranks: (R,), of Tucker-2 (R_o, R_i).
    """

    layer: str
    method: str
    ranks: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        return {"layer": self.layer, "method": self.method, "ranks": list(self.ranks)}

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> LayerRanks:
        """One entry of a plan's `ranks`. Raises KeyError, TypeError or ValueError for what is none."""
        ranks = entry["ranks"]
        if not isinstance(ranks, list) or not ranks:
            raise ValueError(f"ranks of layer {entry['layer']!r} must be a list")
        if any(type(rank) is not int or rank < 1 for rank in ranks):
            raise ValueError(f"ranks of layer {entry['layer']!r} must be at least 1")
        return cls(str(entry["layer"]), str(entry["method"]), tuple(ranks))

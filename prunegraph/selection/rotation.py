"""A rotation: the matrices of a graph's spaces, as frozen data that a plan carries."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from prunegraph.errors import PlanError

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class Turn:
    """The matrix of one space.

    Args:
        layer: the first layer that makes the space's channels.
        first: the place of its first channel on the layer's weight.
        matrix: R [channels, channels] in single precision; rows of channels z become z R.
    """

    layer: str
    first: int
    matrix: Array = field(repr=False)

    @property
    def key(self) -> tuple[str, int]:
        """What tells the space from all others."""
        return self.layer, self.first


@dataclass(frozen=True, eq=False)
class Rotation:
    """Turns of spaces, and the nodes (by their outputs) that were folded into the layers before them first."""

    turns: tuple[Turn, ...]
    folded: tuple[str, ...] = ()

    @property
    def sha256(self) -> str:
        """Digest of all that it says."""
        digest = hashlib.sha256("\n".join(self.folded).encode())
        for turn in self.turns:
            digest.update(f"\0{turn.layer}\0{turn.first}\0{len(turn.matrix)}\0".encode())
            digest.update(np.ascontiguousarray(turn.matrix, "<f4").tobytes())
        return digest.hexdigest()

    def to_json(self) -> dict[str, Any]:
        """The rotation as JSON; matrices are base64 of little-endian float32, row by row."""
        return {
            "sha256": self.sha256,
            **({"folded": list(self.folded)} if self.folded else {}),
            "turns": [
                {
                    "layer": turn.layer,
                    "first": turn.first,
                    "size": len(turn.matrix),
                    "matrix": base64.b64encode(
                        np.ascontiguousarray(turn.matrix, "<f4").tobytes()
                    ).decode(),
                }
                for turn in self.turns
            ],
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Rotation:
        """A rotation from its JSON form. Raises PlanError for what is none, or was changed."""
        try:
            rotation = cls(
                tuple(_turn(entry) for entry in content["turns"]),
                tuple(str(name) for name in content.get("folded", ())),
            )
            digest = content["sha256"]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PlanError(
                f"the plan's rotation cannot be read: {type(error).__name__}: {error}"
            ) from error
        if digest != rotation.sha256:
            raise PlanError("the plan's rotation is damaged: its sha256 is another one")
        return rotation


def _turn(entry: Mapping[str, Any]) -> Turn:
    """One entry of `turns`. Raises KeyError, TypeError or ValueError for what is none."""
    size = entry["size"]
    if type(size) is not int or type(entry["first"]) is not int or size < 1:
        raise ValueError("'size' and 'first' of a turn must be whole numbers")
    data = base64.b64decode(entry["matrix"], validate=True)
    matrix = np.frombuffer(data, "<f4").astype(np.float32).reshape(size, size)
    if not np.isfinite(matrix).all():
        raise ValueError("a matrix has values that are no numbers")
    return Turn(str(entry["layer"]), entry["first"], matrix)

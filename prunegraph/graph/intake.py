"""How a rewritten graph reads inputs that were made for the graph it comes from.

A graph whose inputs lost indices, or whose ids were numbered anew, still takes the user's data: they are translated
where they are read (`runtime.data`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from prunegraph.errors import DataError

Array = np.ndarray

#: The number of an id that is not kept, in a table of new ids.
GONE = -1


@dataclass(frozen=True, eq=False)
class Slicing:
    """Indices of some axes that an input keeps.

    Args:
        kept: by axis, the indices that stay, ascending.
        sizes: by the same axes, their sizes before.
    """

    kept: Mapping[int, Array]
    sizes: Mapping[int, int]

    def __call__(self, name: str, values: Array) -> Array:
        """The part of an input's values that stays. Raises DataError for another size of an axis."""
        for axis, kept in self.kept.items():
            if values.shape[axis] != self.sizes[axis]:
                raise DataError(
                    f"input {name!r} has size {values.shape[axis]} along axis {axis}, not {self.sizes[axis]} "
                    "as the original's"
                )
            values = np.take(values, kept, axis)
        return values

    def declared(self, sizes: tuple[int, ...]) -> tuple[int, ...]:
        """Sizes that the original declares, from those that the rewritten graph does."""
        return tuple(self.sizes.get(axis, size) for axis, size in enumerate(sizes))


@dataclass(frozen=True, eq=False)
class Renumbering:
    """New numbers of ids: `table[old]` is the new one, or `GONE`."""

    table: Array

    def __call__(self, name: str, values: Array) -> Array:
        """New ids for old ones. Raises DataError for an id that is not kept, or out of range."""
        outside = (values < 0) | (values >= len(self.table))
        new = self.table[np.where(outside, 0, values)]
        if (lost := outside | (new == GONE)).any():
            raise DataError(
                f"input {name!r} holds id {int(values[lost].reshape(-1)[0])}, which the smaller vocabulary "
                "does not have: keep it, or leave samples with it out of the data"
            )
        return new.astype(values.dtype)

    def declared(self, sizes: tuple[int, ...]) -> tuple[int, ...]:
        """Sizes that the original declares: the same ones."""
        return sizes


@dataclass(frozen=True, eq=False)
class Intake:
    """Translations by input, each a chain from the user's form to the graph's own; empty for a graph as it was read."""

    steps: Mapping[str, tuple[Slicing | Renumbering, ...]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.steps)

    def then(self, further: Mapping[str, Slicing | Renumbering]) -> Intake:
        """This intake, with one more translation of some inputs."""
        added = {name: (*self.steps.get(name, ()), step) for name, step in further.items()}
        return Intake({**self.steps, **added})

    def read(self, batch: Mapping[str, Array]) -> dict[str, Array]:
        """A batch as the graph takes it. Raises DataError."""
        result = dict(batch)
        for name, steps in self.steps.items():
            for step in steps if name in result else ():
                result[name] = step(name, result[name])
        return result

    def since(self, other: Intake) -> Intake:
        """The translations that come after those of another intake, which this one goes on from."""
        later = {
            name: s[len(other.steps.get(name, ())) :] for name, s in self.steps.items()
        }
        return Intake({name: steps for name, steps in later.items() if steps})

    def declared(self, name: str, sizes: tuple[int, ...]) -> tuple[int, ...]:
        """Sizes of an input in the user's form."""
        for step in reversed(self.steps.get(name, ())):
            sizes = step.declared(sizes)
        return sizes

"""Which elements of the source's own tensors a graph's weights are made of.

A front end that transposes or repacks weights says so here, so that a plan can be read in terms of the source.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from prunegraph.errors import PlanError

Array = np.ndarray


@dataclass(frozen=True)
class Whole:
    """A weight that is one tensor of the source; `order` lists that tensor's axes in the weight's order."""

    tensor: str
    order: tuple[int, ...]


@dataclass(frozen=True)
class Packed:
    """A weight put together from parts of tensors.

    `elements` has the weight's shape: numbers of elements, counted through all tensors of the
    source one after another; -1 for what comes from none.
    """

    elements: Array


class Sources:
    """Where the weights of a graph come from.

    Args:
        shapes: of the source's tensors, by name.
        origins: for each weight that comes from them, how. Other weights come from nowhere.
    """

    def __init__(
        self, shapes: Mapping[str, tuple[int, ...]], origins: Mapping[str, Whole | Packed]
    ):
        self.shapes = dict(shapes)
        self.origins = dict(origins)
        sizes = [math.prod(shape) for shape in self.shapes.values()]
        self._starts = dict(zip(self.shapes, np.cumsum([0, *sizes]).tolist(), strict=False))

    def elements(self, tensor: str) -> Array:
        """Numbers of a tensor's elements, in its shape."""
        shape = self.shapes[tensor]
        return self._starts[tensor] + np.arange(math.prod(shape)).reshape(shape)

    def removed(
        self, cuts: Mapping[str, Mapping[int, Sequence[int]]]
    ) -> dict[str, dict[int, Array]]:
        """Say what removing indices of weights (weight -> axis -> indices) removes from the source's tensors.

        Raises:
            PlanError: a tensor would lose elements that are no whole slices of it.
        """
        gone: dict[str, Array] = {}
        for weight, axes in cuts.items():
            if (origin := self.origins.get(weight)) is not None:
                self._mark(gone, origin, axes)
        return {
            tensor: _slices(tensor, mask) for tensor, mask in gone.items() if mask.any()
        }

    def _mark(
        self,
        gone: dict[str, Array],
        origin: Whole | Packed,
        axes: Mapping[int, Sequence[int]],
    ) -> None:
        if isinstance(origin, Whole):
            mask = gone.setdefault(
                origin.tensor, np.zeros(self.shapes[origin.tensor], bool)
            )
            for axis, indices in axes.items():
                np.moveaxis(mask, origin.order[axis], 0)[list(indices)] = True
            return
        inside = np.zeros(origin.elements.shape, bool)
        for axis, indices in axes.items():
            np.moveaxis(inside, axis, 0)[list(indices)] = True
        numbers = origin.elements[inside]
        for tensor, start in self._starts.items():
            size = math.prod(self.shapes[tensor])
            mine = numbers[(numbers >= start) & (numbers < start + size)] - start
            if mine.size:
                mask = gone.setdefault(tensor, np.zeros(self.shapes[tensor], bool))
                mask.reshape(-1)[mine] = True


def _slices(tensor: str, mask: Array) -> dict[int, Array]:
    """The indices, by axis, whose slices make up a mask. Raises PlanError."""
    rest = np.zeros_like(mask)
    result = {}
    for axis in range(mask.ndim):
        indices = np.flatnonzero(
            mask.all(axis=tuple(other for other in range(mask.ndim) if other != axis))
        )
        if indices.size:
            result[axis] = indices
            np.moveaxis(rest, axis, 0)[indices] = True
    if (rest != mask).any():
        raise PlanError(
            f"the plan removes elements of {tensor!r} that are no whole slices of it"
        )
    return result

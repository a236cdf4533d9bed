"""A little affine warp of an image about its middle: turned, stretched, slanted; maps of numbers and boxes follow."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from prunegraph.data.targets import NO_BOX

Array = np.ndarray

#: Degrees that an image is turned by at most; shares by which it is stretched, one side against the other, and slanted.
DEGREES, STRETCH, ASPECT, SLANT = 10.0, 0.1, 0.05, 0.1

#: A box of which less than this share is left, or that is narrower than so many pixels, is no object any more.
LEAST, NARROWEST = 0.2, 2.0


@dataclass(frozen=True, eq=False)
class Warp:
    """Where what is seen at a place of the result was: `matrix` [2, 2] times the place, x before y, from the middle."""

    matrix: Array

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> Warp:
        """A map drawn at random."""
        angle = np.deg2rad(rng.uniform(-DEGREES, DEGREES))
        size, aspect = np.exp(rng.uniform(-1, 1, 2) * (STRETCH, ASPECT))
        cosine, sine = np.cos(angle), np.sin(angle)
        slant = rng.uniform(-SLANT, SLANT)
        stretched = np.diag([size * aspect, size / aspect])
        return cls(np.array([[cosine, -sine + slant], [sine, cosine]]) @ stretched)

    def image(self, image: Array) -> Array:
        """An image [channels, height, width], in straight lines between pixels; its edge fills what is free."""
        x, y = self._places(image.shape[1:])
        column, row = np.floor(x).astype(int), np.floor(y).astype(int)
        along, down = (x - column).astype(np.float32), (y - row).astype(np.float32)
        rows, columns = (
            [(first + step).clip(0, size - 1) for step in (0, 1)]
            for first, size in ((row, image.shape[1]), (column, image.shape[2]))
        )
        above, below = (
            image[:, each, columns[0]] * (1 - along) + image[:, each, columns[1]] * along
            for each in rows
        )
        warped: Array = above * (1 - down) + below * down
        return warped

    def numbers(self, numbers: Array) -> Array:
        """Numbers [height, width] between which there is nothing: those of the nearest pixels."""
        height, width = numbers.shape
        x, y = (np.floor(each + 0.5).astype(int) for each in self._places(numbers.shape))
        result: Array = numbers[y.clip(0, height - 1), x.clip(0, width - 1)]
        return result

    def boxes(self, rows: Array, size: tuple[int, ...]) -> Array:
        """The boxes [n, 5] around the corners of boxes; those of which too little is left are left out."""
        height, width = size
        kept = rows[rows[:, 0] != NO_BOX]
        middle = np.array([width / 2, height / 2])
        corners = kept[:, [[1, 2], [3, 2], [1, 4], [3, 4]]].astype(np.float64)
        moved = (corners - middle) @ np.linalg.inv(self.matrix).T + middle
        around = np.concatenate([moved.min(1), moved.max(1)], axis=1)
        return seen(kept[:, :1], around, (0, 0, width, height))

    def _places(self, size: tuple[int, ...]) -> tuple[Array, Array]:
        """Columns and rows [height, width] of the source that are seen at each pixel of the result."""
        height, width = size
        x = np.arange(width) + 0.5 - width / 2
        y = np.arange(height)[:, None] + 0.5 - height / 2
        first, second = self.matrix
        return (
            first[0] * x + first[1] * y + width / 2 - 0.5,
            second[0] * x + second[1] * y + height / 2 - 0.5,
        )


def seen(classes: Array, corners: Array, window: tuple[float, ...]) -> Array:
    """Boxes as rows [n, 5], cut at a window (left, top, right, bottom), without those of which too little is left.

    Args:
        classes: of the boxes [n, 1].
        corners: left, top, right, bottom [n, 4].
        window: the same of what is seen.
    """
    inside = corners.clip(window[:2] * 2, window[2:] * 2)
    sides = inside[:, 2:] - inside[:, :2]
    whole = (corners[:, 2:] - corners[:, :2]).prod(1)
    able = (sides.prod(1) >= LEAST * whole) & (sides >= NARROWEST).all(1)
    return np.concatenate([classes[able], inside[able]], 1).astype(np.float32)

"""Where pixels of an image go: resized, letterboxed, cropped; boxes go with them, exactly.

Pixels are taken by Pillow; a box is mapped by the sizes that an image really had before and after, so that
an edge of the image stays an edge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from prunegraph.data.targets import Boxes
from prunegraph.errors import OptionError

if TYPE_CHECKING:
    from PIL.Image import Image

#: Height and width, in pixels.
Size = tuple[int, int]

#: Ways to resample, as Pillow calls them; all but the first smooth what they shrink.
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]

#: Images of more pixels than this are not made.
PIXELS = 2**26


@dataclass(frozen=True)
class Affine:
    """Where points of an image are in what is made of it: `point * scale + shift`, x before y.

    Args:
        scale: by axis, x and y.
        shift: by axis, in pixels of the result.
        size: height and width of the result.
    """

    scale: tuple[float, float]
    shift: tuple[float, float]
    size: Size

    @classmethod
    def of(cls, size: Size) -> Affine:
        """The placement of an image in itself."""
        return cls((1.0, 1.0), (0.0, 0.0), size)

    def then(self, other: Affine) -> Affine:
        """This placement, and another one behind it."""
        return Affine(
            (self.scale[0] * other.scale[0], self.scale[1] * other.scale[1]),
            (
                self.shift[0] * other.scale[0] + other.shift[0],
                self.shift[1] * other.scale[1] + other.shift[1],
            ),
            other.size,
        )

    def boxes(self, xyxy: np.ndarray, classes: np.ndarray) -> Boxes:
        """Boxes where they come to lie, cut at the edges; those of which nothing is seen are left out.

        Args:
            xyxy: left, top, right, bottom, in pixels of the image. Shape [n, 4].
            classes: of the boxes. Shape [n].
        """
        scale, shift = np.array(self.scale * 2), np.array(self.shift * 2)
        height, width = self.size
        moved = np.clip(xyxy * scale + shift, 0, [width, height] * 2).astype(np.float32)
        seen = (moved[:, 2:] > moved[:, :2]).all(1)
        return Boxes(moved[seen], classes[seen])


class GeometryStep(Protocol):
    """One step from an image to what a network gets."""

    def place(self, size: Size) -> Affine:
        """Where points of an image of that size go."""

    def apply(self, image: Image, interpolation: Interpolation) -> Image:
        """The image after the step."""


@dataclass(frozen=True)
class Resize:
    """An image resized to a height and width, whatever its shape."""

    size: Size

    def place(self, size: Size) -> Affine:
        return _resized(size, self.size)

    def apply(self, image: Image, interpolation: Interpolation) -> Image:
        return _resample(image, self.size, interpolation)


@dataclass(frozen=True)
class ShorterSide:
    """An image resized until its shorter side is `side`, and its longer one at most `longest`, as torchvision does.

    The longer side is cut to whole pixels (`torchvision.transforms.Resize(int)`).
    """

    side: int
    longest: int | None = None

    def place(self, size: Size) -> Affine:
        shorter, longer = min(size), max(size)
        now, then = self.side, int(self.side * longer / shorter)
        if self.longest is not None and then > self.longest:
            now, then = max(int(self.longest * now / then), 1), self.longest
        return _resized(size, (now, then) if size[0] <= size[1] else (then, now))

    def apply(self, image: Image, interpolation: Interpolation) -> Image:
        return _resample(image, self.place((image.height, image.width)).size, interpolation)


@dataclass(frozen=True)
class Letterbox:
    """An image resized until it fits into a size, in its middle; what is left is filled.

    Sizes and places are rounded as by ultralytics: a spare odd pixel is on the right and at the bottom.
    """

    size: Size
    fill: int = 114

    def _inner(self, size: Size) -> Size:
        ratio = min(self.size[0] / size[0], self.size[1] / size[1])
        height, width = (max(round(side * ratio), 1) for side in size)
        return height, width

    def place(self, size: Size) -> Affine:
        inner = self._inner(size)
        y, x = (
            round((all_of - part) / 2 - 0.1)
            for all_of, part in zip(self.size, inner, strict=True)
        )
        moved = Affine((1.0, 1.0), (float(x), float(y)), self.size)
        return _resized(size, inner).then(moved)

    def apply(self, image: Image, interpolation: Interpolation) -> Image:
        placement = self.place((image.height, image.width))
        inner = _resample(image, self._inner((image.height, image.width)), interpolation)
        corner = round(placement.shift[0]), round(placement.shift[1])
        return _pasted(inner, self.size, corner, self.fill)


@dataclass(frozen=True)
class CenterCrop:
    """The middle of an image; where that is smaller, it is filled up with 0.

    Half a pixel is rounded to even (`torchvision.transforms.CenterCrop`), or down, as Hugging Face's processors do.
    """

    size: Size
    is_rounded_down: bool = False

    def place(self, size: Size) -> Affine:
        spare = [(old - new) / 2 for old, new in zip(size, self.size, strict=True)]
        y, x = (int(each // 1) if self.is_rounded_down else round(each) for each in spare)
        return Affine((1.0, 1.0), (float(-x), float(-y)), self.size)

    def apply(self, image: Image, interpolation: Interpolation) -> Image:
        x, y = self.place((image.height, image.width)).shift
        return _pasted(image, self.size, (int(x), int(y)), 0)


def placement(steps: Sequence[GeometryStep], size: Size) -> Affine:
    """Where points of an image of that size are after some steps. Raises OptionError for results that are too large."""
    result = Affine.of(size)
    for step in steps:
        result = result.then(step.place(result.size))
        if result.size[0] * result.size[1] > PIXELS:
            raise OptionError(
                f"an image of {size[1]} x {size[0]} pixels would become {result.size[1]} x {result.size[0]}: too large"
            )
    return result


def fixed_size(steps: Sequence[GeometryStep]) -> Size | None:
    """The size that every image has after some steps; None where it depends on the image."""
    last = steps[-1] if steps else None
    return last.size if isinstance(last, Resize | Letterbox | CenterCrop) else None


def _resized(old: Size, new: Size) -> Affine:
    return Affine((new[1] / old[1], new[0] / old[0]), (0.0, 0.0), new)


def _resample(image: Image, size: Size, interpolation: Interpolation) -> Image:
    from PIL import Image as Pillow

    if (image.height, image.width) == size:
        return image
    return image.resize(size[::-1], Pillow.Resampling[interpolation.upper()])


def _pasted(image: Image, size: Size, corner: tuple[int, int], fill: int) -> Image:
    from PIL import Image as Pillow

    color = fill if image.mode == "L" else (fill,) * 3
    result = Pillow.new(image.mode, size[::-1], color)
    result.paste(image, corner)
    return result

"""Other pictures of the same things, drawn anew for every batch: flips, windows, shifts, colours, mosaics, blends.

What labels say of places follows: boxes, and class numbers of all pixels. Values are changed as a network gets
them, after preprocessing: colours change in units of an image's own deviation, whatever mean and scale there were.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from prunegraph.data.image_input import ImageInput
from prunegraph.data.targets import NO_BOX, ROW
from prunegraph.data.warping import Warp, seen
from prunegraph.errors import DataError, OptionError, UnknownNameError
from prunegraph.runtime.layout import LABELS

Array = np.ndarray
Arrays = dict[str, Array]

#: What a word means without a number.
USUAL = {
    "flip": 0.5,
    "crop": 0.2,
    "shift": 0.1,
    "affine": 0.5,
    "color": 0.2,
    "mosaic": 0.5,
    "mixup": 0.1,
}

#: Words whose number is a share of the samples.
SHARES = ("flip", "affine", "mosaic", "mixup")

#: Both parameters of the Beta distribution that blends two images: nearly halves.
BLEND = 8.0

#: What labels are of: whole images, boxes, or every pixel.
Kind = Literal["none", "classes", "boxes", "pixels"]


@dataclass(frozen=True)
class Augmentation:
    """What is done to every sample of a batch; each is off at 0.

    Args:
        name: the input that takes images; other inputs stay as they are.
        layout: order of its axes.
        flip: share of the samples that are turned left to right.
        crop: share of its sides that an image may lose; the rest fills the whole.
        shift: share of its sides by which an image moves at most, in whole pixels; its edge fills what is free.
        affine: share of the samples that are turned, stretched and slanted a little, about their middle; the edge fills
            what is free.
        color: how far brightness, contrast and colourfulness change: by such a share of an image's deviation.
        mosaic: share of the samples that become parts of four images, of which theirs is one.
        mixup: share of the samples that are blended with another one, whose boxes count as well.

    Raises OptionError for a number out of range.
    """

    name: str
    layout: Literal["nchw", "nhwc"] = "nchw"
    flip: float = 0.0
    crop: float = 0.0
    shift: float = 0.0
    affine: float = 0.0
    color: float = 0.0
    mosaic: float = 0.0
    mixup: float = 0.0

    def __post_init__(self) -> None:
        for name in USUAL:
            value = getattr(self, name)
            most = 1.0 if name in SHARES else 0.9
            if not (math.isfinite(value) and 0 <= value <= most):
                raise OptionError(
                    f"augmentation: {name} is from 0 to {most:g}, got {value:g}"
                )

    def __str__(self) -> str:
        parts = [f"{name}={value:g}" for name in USUAL if (value := getattr(self, name))]
        return ",".join(parts) or "none"

    def __call__(self, arrays: Arrays, rng: np.random.Generator) -> Arrays:
        """A batch with other pictures. Raises DataError where labels cannot follow."""
        if self.name not in arrays:
            raise DataError(f"augmentation is for images, and there is no {self.name!r}")
        given = arrays[self.name]
        if given.ndim != 4:
            raise DataError(
                f"augmentation is for batches of images, input {self.name!r} has shape {list(given.shape)}"
            )
        images = given if self.layout == "nchw" else given.transpose(0, 3, 1, 2)
        images = images.astype(np.float32)
        labels = arrays.get(LABELS)
        kind = self._kind(labels, images.shape)
        images, labels = self._moved(images, labels, kind, rng)
        if self.color:
            images = _coloured(images, self.color, rng)
        if self.mixup:
            images, labels = _blended(images, labels, kind, self.mixup, rng)
        images = images if self.layout == "nchw" else images.transpose(0, 2, 3, 1)
        result = {**arrays, self.name: _typed(images, given.dtype)}
        return result if labels is None else {**result, LABELS: labels}

    @property
    def _moves(self) -> bool:
        """Whether anything changes places."""
        return bool(self.flip or self.crop or self.shift or self.affine or self.mosaic)

    def _kind(self, labels: Array | None, shape: tuple[int, ...]) -> Kind:
        """What labels are of. Raises DataError where they cannot follow what is asked for."""
        if labels is None:
            return "none"
        if labels.ndim == 3 and labels.shape[2] == ROW and labels.dtype.kind == "f":
            return "boxes"
        if labels.ndim <= 1 or (labels.ndim == 2 and labels.shape[1] == 1):
            wrong, instead = "mosaic" if self.mosaic else "", ""
            if self.mixup:
                wrong, instead = "mixup", ": --mixup blends samples and their labels"
            kind: Kind = "classes"
        elif labels.ndim == 3 and labels.shape[1:] == shape[2:]:
            wrong, instead = "mixup" if self.mixup else "", ""
            kind = "pixels"
        else:
            moves = self._moves or self.mixup
            wrong, instead, kind = str(self) if moves else "", "", "classes"
        if wrong:
            raise DataError(
                f"augmentation: labels of shape {list(labels.shape)} do not follow {wrong}{instead}"
            )
        return kind

    def _moved(
        self, images: Array, labels: Array | None, kind: Kind, rng: np.random.Generator
    ) -> tuple[Array, Array | None]:
        """Images and labels after everything that changes places."""
        if not self._moves:
            return images, labels
        moved = np.empty_like(images)
        maps = np.empty_like(labels) if labels is not None and kind == "pixels" else None
        rows: list[Array] = []
        for index in range(len(images)):
            mine = []
            for patch in self._patches(index, images.shape, rng):
                patch.paste(images[patch.source], moved[index])
                if labels is not None and maps is not None:
                    patch.paste_numbers(labels[patch.source], maps[index])
                elif labels is not None and kind == "boxes":
                    mine.append(patch.boxes(labels[patch.source]))
            if mine:
                rows.append(np.concatenate(mine))
            if self.affine and rng.random() < self.affine:
                warp = Warp.drawn(rng)
                moved[index] = warp.image(moved[index])
                if maps is not None:
                    maps[index] = warp.numbers(maps[index])
                elif mine:
                    rows[-1] = warp.boxes(rows[-1], images.shape[2:])
        if maps is not None:
            return moved, maps
        return moved, _filled(rows) if kind == "boxes" else labels

    def _patches(
        self, index: int, shape: tuple[int, ...], rng: np.random.Generator
    ) -> Iterator[_Patch]:
        """Where parts of which images go."""
        count, _, height, width = shape
        if count > 1 and rng.random() < self.mosaic:
            x, y = (round(side * rng.uniform(0.3, 0.7)) for side in (width, height))
            x, y = min(max(x, 1), width - 1), min(max(y, 1), height - 1)
            sources = [index, *rng.integers(0, count, 3)]
            corners = (
                (0, 0, x, y),
                (x, 0, width, y),
                (0, y, x, height),
                (x, y, width, height),
            )
            for source, target in zip(rng.permutation(sources), corners, strict=True):
                yield self._part(int(source), target, (height, width), rng)
            return
        yield self._patch(index, (height, width), rng)

    def _patch(self, index: int, size: tuple[int, int], rng: np.random.Generator) -> _Patch:
        """A whole image, or a window of it, that fills the whole."""
        height, width = size
        zoom = 1 - self.crop * rng.random() if self.crop else 1.0
        x, y = (side * (1 - zoom) * rng.random() for side in (width, height))
        if self.shift:
            x, y = (
                start + round(side * self.shift * rng.uniform(-1, 1))
                for start, side in ((x, width), (y, height))
            )
        window = (x, y, x + zoom * width, y + zoom * height)
        return _Patch(index, (0, 0, width, height), window, bool(rng.random() < self.flip))

    def _part(
        self,
        source: int,
        target: tuple[int, int, int, int],
        size: tuple[int, int],
        rng: np.random.Generator,
    ) -> _Patch:
        """A window of an image, at half its size or more, that fills a part of the whole."""
        height, width = size
        wide, high = target[2] - target[0], target[3] - target[1]
        scale = max(wide / width, high / height, rng.uniform(0.5, 1.0))
        sides = wide / scale, high / scale
        x, y = (
            (whole - side) * rng.random()
            for whole, side in zip((width, height), sides, strict=True)
        )
        window = (x, y, x + sides[0], y + sides[1])
        return _Patch(source, target, window, bool(rng.random() < self.flip))


def augmentation(text: str, target: ImageInput) -> Augmentation:
    """What is spelt in words: `flip,crop=0.2,color`; a word without a number has that of `USUAL`.

    Args:
        text: the words.
        target: the input of the model that takes images.

    Raises:
        UnknownNameError: there is no such word.
        OptionError: a number that cannot be.
    """
    numbers: dict[str, float] = {}
    for word in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = (part.strip() for part in word.partition("="))
        if name not in USUAL:
            raise UnknownNameError("augmentation", name, tuple(USUAL))
        try:
            numbers[name] = float(value) if equals else USUAL[name]
        except ValueError as error:
            raise OptionError(f"augmentation: {name} is a number, got {value!r}") from error
    empty = Augmentation(target.name, target.layout)
    return dataclasses.replace(empty, **numbers)  # type: ignore[arg-type]


# -- places ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Patch:
    """A window of an image that fills a rectangle of the result; both are left, top, right, bottom in pixels."""

    source: int
    target: tuple[int, int, int, int]
    window: tuple[float, float, float, float]
    is_turned: bool

    def paste(self, image: Array, result: Array) -> None:
        """Put the window of an image [channels, height, width] into the result, in straight lines between pixels."""
        x1, y1, x2, y2 = self.target
        part = image
        for axis in (2, 1):
            part = _interpolated(part, self._positions(axis), axis)
        result[:, y1:y2, x1:x2] = part

    def paste_numbers(self, image: Array, result: Array) -> None:
        """The same of numbers [height, width] between which there is nothing: those of the nearest pixels."""
        x1, y1, x2, y2 = self.target
        part = image
        for axis in (1, 0):
            nearest = np.floor(self._positions(axis + 1) + 0.5).astype(int)
            part = part.take(nearest.clip(0, image.shape[axis] - 1), axis)
        result[y1:y2, x1:x2] = part

    def _positions(self, axis: int) -> Array:
        """Where in the source the pixels of the result are, along the axis of the width (2) or height (1)."""
        first = 0 if axis == 2 else 1
        start, end = self.window[first], self.window[first + 2]
        count = self.target[first + 2] - self.target[first]
        places = start + (np.arange(count) + 0.5) * (end - start) / count - 0.5
        return places[::-1] if axis == 2 and self.is_turned else places

    def boxes(self, rows: Array) -> Array:
        """Rows of boxes [n, 5] of the source, in the result; those of which too little is left are left out."""
        kept = rows[rows[:, 0] != NO_BOX]
        corners = kept[:, 1:].astype(np.float64)
        for first in (0, 1):
            start, end = self.window[first], self.window[first + 2]
            low, high = self.target[first], self.target[first + 2]
            side = (corners[:, [first, first + 2]] - start) * (high - low) / (end - start)
            if first == 0 and self.is_turned:
                side = (high - low) - side[:, ::-1]
            corners[:, [first, first + 2]] = side + low
        return seen(kept[:, :1], corners, self.target)


def _interpolated(part: Array, places: Array, axis: int) -> Array:
    """Values at places along an axis; the edge counts beyond it."""
    last = part.shape[axis] - 1
    low = np.floor(places).astype(int)
    share = (places - low).astype(part.dtype)
    first = part.take(low.clip(0, last), axis)
    if not share.any():
        return first
    other = part.take((low + 1).clip(0, last), axis)
    shape = [1] * part.ndim
    shape[axis] = -1
    return first + (other - first) * share.reshape(shape)


def _filled(rows: list[Array]) -> Array:
    """Boxes of all samples as one array [samples, most, 5]."""
    most = max(1, *(len(each) for each in rows))
    result = np.zeros((len(rows), most, ROW), np.float32)
    result[:, :, 0] = NO_BOX
    for index, each in enumerate(rows):
        result[index, : len(each)] = each
    return result


# -- values ---------------------------------------------------------------------------------


def _coloured(images: Array, strength: float, rng: np.random.Generator) -> Array:
    """Images [n, channels, height, width] with another brightness, contrast and colourfulness each."""
    bright, contrast, colour = rng.uniform(-strength, strength, (3, len(images), 1, 1, 1))
    mean = images.mean((2, 3), keepdims=True, dtype=np.float64)
    deviation = images.std((1, 2, 3), keepdims=True, dtype=np.float64)
    changed = mean + (images - mean) * (1 + contrast) + bright * deviation
    if images.shape[1] > 1:
        grey = changed.mean(1, keepdims=True)
        changed = grey + (changed - grey) * (1 + colour)
    return changed.astype(np.float32)


def _blended(
    images: Array,
    labels: Array | None,
    kind: Kind,
    share: float,
    rng: np.random.Generator,
) -> tuple[Array, Array | None]:
    """Images of which some are blended with another one; boxes of both count."""
    count = len(images)
    chosen = np.flatnonzero(rng.random(count) < share)
    others = rng.integers(0, count, len(chosen))
    weight = rng.beta(BLEND, BLEND, (len(chosen), 1, 1, 1)).astype(np.float32)
    result = images.copy()
    result[chosen] = weight * images[chosen] + (1 - weight) * images[others]
    if labels is None or kind != "boxes":
        return result, labels
    rows = [row[row[:, 0] != NO_BOX] for row in labels]
    both = dict(zip(chosen.tolist(), others.tolist(), strict=True))
    return result, _filled(
        [
            np.concatenate([row, rows[both[index]]]) if index in both else row
            for index, row in enumerate(rows)
        ]
    )


def _typed(images: Array, dtype: np.dtype) -> Array:
    """Images in the type that they had: whole numbers are rounded, within what the type holds."""
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        images = images.round().clip(limits.min, limits.max)
    return images.astype(dtype)

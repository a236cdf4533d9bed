"""Decoding some images: what a worker process is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prunegraph.data.annotations import SourceBoxes
from prunegraph.data.decoding import Picture
from prunegraph.data.preprocess import Preprocessing
from prunegraph.data.targets import padded
from prunegraph.errors import DataError, OptionError


@dataclass(frozen=True)
class Work:
    """Images to decode.

    Args:
        images: at least one.
        boxes: of each, or None.
        most: rows of boxes that each gets.
        chain: what becomes of an image.
    """

    images: Sequence[Picture]
    boxes: Sequence[SourceBoxes] | None
    most: int
    chain: Preprocessing


@dataclass(frozen=True)
class Samples8:
    """Images after their geometry.

    Args:
        pixels: uint8 [images, height, width, channels].
        rows: of boxes, float32 [images, most, 5]; [images, 0] without boxes.
    """

    pixels: np.ndarray
    rows: np.ndarray


def decode(work: Work) -> Samples8:
    """Decode images. Raises DataError for one that cannot be read, or becomes of another size than the first."""
    pixels: list[np.ndarray] = []
    boxes = []
    for number, image in enumerate(work.images):
        opened = image.open(is_gray=work.chain.channels == 1)
        size = (opened.height, opened.width)
        try:
            pixels.append(work.chain.pixels(opened))
        except OptionError as error:
            raise DataError(f"{image.name}: {error}") from error
        if pixels[-1].shape != pixels[0].shape:
            raise DataError(_differing(work.images[0].name, image.name, pixels))
        if work.boxes is not None:
            placement = work.chain.place(size)
            boxes.append(work.boxes[number].placed(placement, size, image.name))
    rows = (
        padded(boxes, work.most) if work.boxes is not None else np.zeros((len(pixels), 0))
    )
    return Samples8(np.stack(pixels), rows.astype(np.float32))


def _differing(first: str, other: str, pixels: Sequence[np.ndarray]) -> str:
    (h, w), (height, width) = pixels[0].shape[:2], pixels[-1].shape[:2]
    return (
        f"{other}: becomes {width} x {height} pixels, and {first} {w} x {h}: "
        f"give --preprocess with one size for all, as resize={h}x{w}"
    )

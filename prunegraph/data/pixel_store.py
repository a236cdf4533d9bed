"""Decoded images in a temporary file, which takes no memory: it is read with calls, not mapped."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from prunegraph.data.samples import Samples8
from prunegraph.runtime.scratch import free_bytes, scratch_file

#: Bytes of a file at most; beyond, and where the disk has not twice as much, images are decoded each time.
LIMIT = 2**35


class PixelStore:
    """Pixels and boxes of images by number.

    Args:
        count: images in all.
        size: height, width and channels of each.
        rows: shape of the boxes of each, () without boxes.
    """

    def __init__(self, count: int, size: Sequence[int], rows: Sequence[int]):
        self._size, self._rows = tuple(size), tuple(rows) or (0,)
        self._pixels = math.prod(size)
        self._bytes = self._pixels + 4 * math.prod(self._rows)
        self._there = np.zeros(count, bool)
        whole = count * self._bytes
        has_room = whole <= min(LIMIT, free_bytes() // 2)
        self._file = scratch_file(self) if has_room else None

    @property
    def has_room(self) -> bool:
        """Tell whether images are kept."""
        return self._file is not None

    def has(self, numbers: np.ndarray) -> bool:
        """Tell whether all images of these numbers are there."""
        return bool(self._there[numbers].all())

    def write(self, numbers: np.ndarray, samples: Samples8) -> None:
        """Keep images, where there is room."""
        if self._file is None:
            return
        try:
            for number, pixels, rows in zip(
                numbers, samples.pixels, samples.rows, strict=True
            ):
                self._file.seek(int(number) * self._bytes)
                self._file.write(np.ascontiguousarray(pixels).tobytes() + rows.tobytes())
        except OSError:  # the disk is full
            self._file.close()
            self._file, self._there = None, np.zeros_like(self._there)
            return
        self._there[numbers] = True

    def read(self, numbers: np.ndarray) -> Samples8:
        """Images that are there."""
        assert self._file is not None
        pixels = np.empty((len(numbers), *self._size), np.uint8)
        rows = np.empty((len(numbers), *self._rows), np.float32)
        for place, number in enumerate(numbers):
            self._file.seek(int(number) * self._bytes)
            data = self._file.read(self._bytes)
            pixels[place] = np.frombuffer(data, np.uint8, self._pixels).reshape(self._size)
            rows[place] = np.frombuffer(data, np.float32, offset=self._pixels).reshape(
                self._rows
            )
        return Samples8(pixels, rows)

"""Targets of images: a class number, or boxes; and boxes of many images as one array.

A batch has `labels` of int64 [batch] where targets are classes, and of float32 [batch, most, 5] where they
are boxes: rows of class, x1, y1, x2, y2, filled up with rows of class `NO_BOX`. Coordinates are pixels of
what the network gets: the left edge of the first column is 0, the right edge of the last one is the width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prunegraph.errors import DataError

#: The class of rows that fill up; no box has it.
NO_BOX = -1

#: Numbers of a row: class, x1, y1, x2, y2.
ROW = 5


@dataclass(frozen=True, eq=False)
class Boxes:
    """Boxes of one image.

    Args:
        xyxy: float32 [n, 4]: left, top, right, bottom, in pixels.
        classes: int64 [n], from 0.

    Raises:
        DataError: shapes do not fit, a number is not finite, a box ends before it starts, a class is negative.
    """

    xyxy: np.ndarray
    classes: np.ndarray

    def __post_init__(self) -> None:
        xyxy = np.asarray(self.xyxy, np.float32).reshape(-1, 4)
        classes = np.asarray(self.classes, np.int64).reshape(-1)
        if len(xyxy) != len(classes):
            raise DataError(f"{len(xyxy)} boxes have {len(classes)} classes")
        if not np.isfinite(xyxy).all():
            raise DataError("a box has a coordinate that is no finite number")
        if (xyxy[:, 2:] < xyxy[:, :2]).any():
            raise DataError("a box ends before it starts: it is left, top, right, bottom")
        if (classes < 0).any():
            raise DataError(
                f"a box has the class {int(classes.min())}; classes count from 0"
            )
        object.__setattr__(self, "xyxy", xyxy)
        object.__setattr__(self, "classes", classes)

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def rows(self) -> np.ndarray:
        """Class, x1, y1, x2, y2 of every box. Shape [n, 5], float32."""
        return np.concatenate([self.classes[:, None], self.xyxy], 1, dtype=np.float32)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Boxes) and bool(np.array_equal(self.rows, other.rows))

    __hash__ = None  # type: ignore[assignment]


#: What an image is labelled with.
Target = int | Boxes


def padded(targets: Sequence[Boxes], most: int | None = None) -> np.ndarray:
    """Boxes of several images as one array, float32 [images, most, 5]; rows of class `NO_BOX` fill it up.

    Args:
        targets: boxes of each image.
        most: rows of each image; as many as the fullest has, at least one, where it is not given.

    Raises:
        DataError: an image has more boxes.
    """
    fullest = max((len(each) for each in targets), default=0)
    most = max(fullest, 1) if most is None else most
    if fullest > most:
        raise DataError(f"an image has {fullest} boxes, and there is room for {most}")
    result = np.zeros((len(targets), most, ROW), np.float32)
    result[:, :, 0] = NO_BOX
    for row, each in zip(result, targets, strict=True):
        row[: len(each)] = each.rows
    return result


def unpadded(labels: np.ndarray) -> list[Boxes]:
    """The boxes of each image of an array that `padded` made. Raises DataError for another shape."""
    if labels.ndim != 3 or labels.shape[2] != ROW:
        raise DataError(
            f"boxes have shape [images, boxes, {ROW}], not {list(labels.shape)}"
        )
    rows = (image[image[:, 0] != NO_BOX] for image in labels)
    return [Boxes(each[:, 1:], each[:, 0].astype(np.int64)) for each in rows]

"""Boxes as files have them: label files of YOLO, and XML files of Pascal VOC.

Files may come from strangers: an XML file that declares entities is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from prunegraph.data.geometry import Affine, Size
from prunegraph.data.targets import Boxes
from prunegraph.errors import MALFORMED, DataError

#: How far beyond the image's edge a share may be before it is taken for a number of pixels.
BEYOND = 0.01


@dataclass(frozen=True, slots=True, eq=False)
class SourceBoxes:
    """Boxes of an image as its file of labels has them.

    Args:
        xyxy: left, top, right, bottom, in pixels of the image or as shares of its sides. Shape [n, 4].
        classes: from 0. Shape [n].
        is_relative: whether numbers are shares.
        size: height and width that the file of labels says the image has.
    """

    xyxy: np.ndarray
    classes: np.ndarray
    is_relative: bool = False
    size: Size | None = None

    @classmethod
    def of(
        cls,
        rows: Sequence[Sequence[float]],
        classes: Sequence[int],
        *,
        is_relative: bool = False,
        size: Size | None = None,
    ) -> SourceBoxes:
        """Boxes from rows of left, top, right, bottom."""
        return cls(
            np.array(rows, np.float64).reshape(-1, 4),
            np.array(classes, np.int64),
            is_relative,
            size,
        )

    def __len__(self) -> int:
        return len(self.classes)

    def placed(self, placement: Affine, size: Size, name: str) -> Boxes:
        """These boxes in what is made of an image of that size. Raises DataError where its labels say another size."""
        if self.size is not None and self.size != size:
            raise DataError(
                f"{name}: is {size[1]} x {size[0]} pixels, its labels are of an image of "
                f"{self.size[1]} x {self.size[0]}"
            )
        sides = [size[1], size[0]] * 2 if self.is_relative else [1] * 4
        return placement.boxes(self.xyxy * sides, self.classes)


# -- YOLO -----------------------------------------------------------------------------------


def read_yolo(path: Path) -> SourceBoxes:
    """Boxes of a YOLO label file: lines of `class x y width height`, shares of the image's sides; x, y is the middle.

    Of a polygon (`class x y x y x y ...`) it is the box around it. No file means no boxes.

    Raises:
        DataError: a line is neither.
    """
    if not path.exists():
        return SourceBoxes.of([], [], is_relative=True)
    try:
        lines = path.read_text().splitlines()
    except MALFORMED as error:
        raise DataError(f"{path}: not a text file of labels ({error})") from error
    rows, classes = [], []
    for number, line in enumerate(lines, 1):
        if words := line.split():
            kind, row = _yolo_line(words, f"{path}, line {number}")
            classes.append(kind)
            rows.append(row)
    return SourceBoxes.of(rows, classes, is_relative=True)


def _yolo_line(words: Sequence[str], where: str) -> tuple[int, list[float]]:
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        numbers = []
    is_box = len(numbers) == 5
    is_polygon = len(numbers) >= 7 and len(numbers) % 2 == 1
    if not (is_box or is_polygon) or not all(map(math.isfinite, numbers)):
        raise DataError(f"{where}: not `class x y width height`, nor a polygon")
    kind = int(numbers[0])
    if kind != numbers[0] or not 0 <= kind < 2**24:
        raise DataError(
            f"{where}: {words[0]!r} is no class; classes are whole numbers from 0"
        )
    if min(numbers[1:]) < -BEYOND or max(numbers[1:]) > 1 + BEYOND:
        raise DataError(
            f"{where}: numbers are shares of the image's sides, from 0 to 1, not pixels"
        )
    if is_box:
        x, y, width, height = numbers[1:]
        return kind, [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
    xs, ys = numbers[1::2], numbers[2::2]
    return kind, [min(xs), min(ys), max(xs), max(ys)]


# -- Pascal VOC -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class VocObjects:
    """Objects of one image: names of classes, and rows of left, top, right, bottom in pixels."""

    names: tuple[str, ...]
    rows: tuple[tuple[float, ...], ...]
    size: Size | None

    def boxes(self, numbers: Mapping[str, int]) -> SourceBoxes:
        """The same with numbers of classes."""
        return SourceBoxes.of(
            self.rows, [numbers[name] for name in self.names], size=self.size
        )


def read_voc(path: Path) -> VocObjects:
    """Objects of a VOC file. Its pixels count from 1, and the last one belongs to the box.

    Raises:
        DataError: it is no such file, or declares entities.
    """
    try:
        data = path.read_bytes()
        if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
            raise DataError(f"{path}: declares entities, which no file of labels needs")
        root = ElementTree.fromstring(data)
        objects = root.findall("object")
        names = tuple(_text(each, "name") for each in objects)
        rows = tuple(_voc_row(each) for each in objects)
        size = root.find("size")
        sides = (0, 0) if size is None else _sides(size)
    except (*MALFORMED, ElementTree.ParseError, LookupError) as error:
        reason = " ".join(str(error).split())[:120]
        raise DataError(f"{path}: not a VOC file of labels ({reason})") from error
    return VocObjects(names, rows, sides if all(sides) else None)


def _text(element: ElementTree.Element, name: str) -> str:
    text = element.findtext(name)
    if text is None or not text.strip():
        raise ValueError(f"an object without {name!r}")
    return text.strip()


def _sides(size: ElementTree.Element) -> Size:
    return int(_text(size, "height")), int(_text(size, "width"))


def _voc_row(element: ElementTree.Element) -> tuple[float, ...]:
    box = element.find("bndbox")
    if box is None:
        raise ValueError("an object without 'bndbox'")
    x1, y1, x2, y2 = (float(_text(box, name)) for name in ("xmin", "ymin", "xmax", "ymax"))
    if not all(map(math.isfinite, (x1, y1, x2, y2))) or x2 < x1 or y2 < y1:
        raise ValueError("a box that ends before it starts")
    return x1 - 1, y1 - 1, x2, y2

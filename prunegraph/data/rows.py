"""Rows of a table as data: what Hugging Face's `datasets` gives, Parquet files, any sequence of dicts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from prunegraph.data.annotations import SourceBoxes
from prunegraph.data.decoding import converted, decoded, need_pillow
from prunegraph.data.listing import Listing
from prunegraph.errors import DataError, MissingExtraError

if TYPE_CHECKING:
    from PIL.Image import Image

#: Names that columns usually have.
LABEL_COLUMNS = ("label", "labels", "fine_label", "class")
TEXT_COLUMNS = ("text", "sentence", "content")
BOX_COLUMNS = ("objects",)


class TableRows(Protocol):
    """A table that is read by row."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int, /) -> Any: ...


@dataclass(frozen=True)
class Columns:
    """Columns of a table, by what they hold; None is found by name and content.

    Args:
        image: images, as Pillow's, as bytes or as arrays of uint8.
        label: class numbers.
        boxes: dicts with `bbox`, lists of x, y, width, height, and `category`, their classes.
        text: texts.
    """

    image: str | None = None
    label: str | None = None
    boxes: str | None = None
    text: str | None = None


@dataclass(frozen=True)
class RowImage:
    """The image of a row."""

    rows: TableRows
    number: int
    column: str
    source: str

    @property
    def name(self) -> str:
        """What to call it in messages."""
        return f"{self.source}, row {self.number}"

    def open(self, *, is_gray: bool) -> Image:
        """The image of mode RGB, or L where it is to be grey. Raises DataError."""
        value = _row(self.rows, self.number, self.source)[self.column]
        if isinstance(value, Mapping):
            value = value.get("bytes")
        if isinstance(value, bytes):
            return decoded(value, self.name, is_gray=is_gray)
        from PIL import Image as Pillow
        from PIL import ImageOps

        if (
            isinstance(value, np.ndarray)
            and value.dtype == np.uint8
            and value.ndim in (2, 3)
        ):
            value = Pillow.fromarray(value)
        if not isinstance(value, Pillow.Image):
            raise DataError(
                f"{self.name}: {self.column!r} is no image, but {type(value).__name__}"
            )
        return converted(ImageOps.exif_transpose(value), self.name, is_gray=is_gray)


def image_rows(rows: TableRows, columns: Columns, source: str) -> Listing | None:
    """Images of a table with their labels; None where no column holds images. Raises DataError."""
    need_pillow()
    first = _first(rows, source)
    image = columns.image or next(
        (name for name, value in first.items() if _is_image(value)), None
    )
    if image is None:
        return None
    _need(first, (image, columns.label, columns.boxes), source)
    boxes = columns.boxes or _named(first, BOX_COLUMNS)
    label = columns.label or _named(first, LABEL_COLUMNS)
    images = [RowImage(rows, number, image, source) for number in range(len(rows))]
    if boxes is not None and isinstance(first[boxes], Mapping) and "bbox" in first[boxes]:
        values = enumerate(_column(rows, boxes, source))
        return Listing(images, [_boxes(value, f"{source}, row {n}") for n, value in values])
    if label is None:
        return Listing(images)
    return Listing(images, list(_classes(rows, label, source)), _class_names(rows, label))


def text_rows(
    rows: TableRows, columns: Columns, source: str
) -> Callable[[], Iterator[tuple[str, int | None]]] | None:
    """Texts of a table with their class numbers; None where no column holds texts. Raises DataError."""
    first = _first(rows, source)
    text = columns.text or _named(first, TEXT_COLUMNS)
    if text is None or not isinstance(first.get(text), str):
        return None
    _need(first, (text, columns.label), source)
    label = columns.label or _named(first, LABEL_COLUMNS)

    def read() -> Iterator[tuple[str, int | None]]:
        classes = _classes(rows, label, source) if label is not None else None
        for value in _column(rows, text, source):
            yield str(value), next(classes) if classes is not None else None

    return read


def _row(rows: TableRows, number: int, source: str) -> Mapping[str, Any]:
    row = rows[number]
    if not isinstance(row, Mapping):
        raise DataError(
            f"{source}, row {number}: not a dict by column, but {type(row).__name__}"
        )
    return row


def _first(rows: TableRows, source: str) -> Mapping[str, Any]:
    if not len(rows):
        raise DataError(f"{source}: has no samples")
    return _row(rows, 0, source)


def _need(first: Mapping[str, Any], names: Sequence[str | None], source: str) -> None:
    missing = next((name for name in names if name is not None and name not in first), None)
    if missing is not None:
        raise DataError(
            f"{source}: has no column {missing!r}; it has {', '.join(map(str, first))}"
        )


def _named(first: Mapping[str, Any], names: Sequence[str]) -> str | None:
    return next((name for name in names if name in first), None)


def _is_image(value: Any) -> bool:
    if isinstance(value, Mapping):
        return isinstance(value.get("bytes"), bytes)
    return hasattr(value, "getexif") and hasattr(value, "mode")


def _column(rows: TableRows, name: str, source: str) -> Iterator[Any]:
    """Values of a column, without decoding the images of others where the table can do that."""
    if hasattr(rows, "column_names"):
        yield from rows[name]  # type: ignore[index]
        return
    for number in range(len(rows)):
        yield _row(rows, number, source)[name]


def _classes(rows: TableRows, name: str, source: str) -> Iterator[int]:
    for number, value in enumerate(_column(rows, name, source)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
            raise DataError(
                f"{source}, row {number}: {name!r} is no class number, but {value!r:.40}"
            )
        yield int(value)


def _class_names(rows: TableRows, name: str) -> list[str]:
    """Names of classes where the table says them, as `datasets` does."""
    feature = (getattr(rows, "features", None) or {}).get(name)
    return [str(each) for each in getattr(feature, "names", None) or ()]


def _boxes(value: Any, where: str) -> SourceBoxes:
    try:
        corners = np.array(value["bbox"], np.float64).reshape(-1, 4)
        classes = [int(each) for each in value["category"]]
    except (LookupError, TypeError, ValueError) as error:
        raise DataError(f"{where}: not boxes with `bbox` and `category`") from error
    sizes = corners[:, 2:]
    if len(classes) != len(corners) or min(classes, default=0) < 0:
        raise DataError(f"{where}: boxes need a class from 0 each")
    if not np.isfinite(corners).all() or (sizes < 0).any():
        raise DataError(f"{where}: a box is not x, y, width, height")
    return SourceBoxes(
        np.concatenate([corners[:, :2], corners[:, :2] + sizes], 1),
        np.array(classes, np.int64),
    )


# -- Parquet --------------------------------------------------------------------------------


class ParquetRows:
    """Rows of Parquet files. Of images one group of rows is in memory at a time.

    Args:
        paths: files, with the same columns.

    Raises:
        DataError: a file cannot be read.
        MissingExtraError: the package pyarrow is not installed.
    """

    def __init__(self, paths: Sequence[Path]):
        try:
            from pyarrow import parquet
        except ImportError:
            raise MissingExtraError("reading Parquet files", "pyarrow", "parquet") from None
        try:
            self._files = [parquet.ParquetFile(str(path)) for path in paths]
        except Exception as error:  # pyarrow has many of its own
            reason = " ".join(str(error).split())[:120]
            raise DataError(f"{paths[0]}: not a Parquet file ({reason})") from error
        self._groups = [
            (file, group) for file in self._files for group in range(file.num_row_groups)
        ]
        counts = [file.metadata.row_group(group).num_rows for file, group in self._groups]
        self._ends = np.cumsum(counts)
        self._held: tuple[int, list[dict[str, Any]]] = (-1, [])

    @cached_property
    def column_names(self) -> list[str]:
        """Names of the columns."""
        return list(self._files[0].schema_arrow.names)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, which: int | str) -> Any:
        if isinstance(which, str):
            return self._values(which)
        group = int(np.searchsorted(self._ends, which, side="right"))
        if self._held[0] != group:
            file, number = self._groups[group]
            self._held = group, file.read_row_group(number).to_pylist()
        start = int(self._ends[group - 1]) if group else 0
        return self._held[1][which - start]

    def _values(self, name: str) -> Iterator[Any]:
        for file, group in self._groups:
            yield from file.read_row_group(group, columns=[name]).column(0).to_pylist()

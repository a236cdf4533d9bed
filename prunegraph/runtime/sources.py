"""Where data come from: arrays in files, functions, batches in memory; all read as streams.

Files may come from strangers. Nothing in them is unpickled, and no more memory is taken than their bytes account for.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from prunegraph.errors import DataError
from prunegraph.graph import npz
from prunegraph.runtime.layout import LABELS, Batch, Layout, Shape, shapes_of

#: Samples read from a source at a time.
CHUNK = 64


class Source(Protocol):
    """Arrays by name. `whole` says that each batch is a whole feed, which is never cut or joined."""

    @property
    def whole(self) -> bool: ...

    def shapes(self) -> Mapping[str, Shape] | None:
        """Shapes of all arrays, or of the first batch where there are several; None where there is none."""

    def read(self, layout: Layout) -> Iterator[Batch]:
        """Batches, from the first one, each time it is called."""


@runtime_checkable
class IndexedSource(Source, Protocol):
    """Samples that can be read in any order, one array of a fixed shape an input; none of them is a whole feed."""

    def count(self) -> int:
        """Number of samples."""

    def labels(self) -> np.ndarray | None:
        """Targets of all samples, or None where there are none."""

    def take(self, numbers: np.ndarray) -> Batch:
        """A batch of the samples of these numbers, in this order."""

    def prepare(self) -> None:
        """Make ready for samples to be taken again and again."""

    @property
    def classes(self) -> Sequence[str]:
        """Names of classes by number, as far as the source has them."""


@dataclass(frozen=True)
class Part:
    """Some samples of another source, with labels or without."""

    source: IndexedSource
    numbers: np.ndarray
    has_labels: bool = True
    whole = False

    def _names(self, names: Iterable[str]) -> list[str]:
        return [name for name in names if self.has_labels or name != LABELS]

    def shapes(self) -> Mapping[str, Shape] | None:
        known = self.source.shapes()
        if known is None or not len(self.numbers):
            return None
        return {name: (len(self.numbers), *known[name][1:]) for name in self._names(known)}

    def read(self, layout: Layout) -> Iterator[Batch]:
        for start in range(0, len(self.numbers), CHUNK):
            yield self.take(np.arange(start, min(start + CHUNK, len(self.numbers))))

    def count(self) -> int:
        return len(self.numbers)

    def labels(self) -> np.ndarray | None:
        known = self.source.labels() if self.has_labels else None
        return None if known is None else known[self.numbers]

    def take(self, numbers: np.ndarray) -> Batch:
        batch = self.source.take(self.numbers[numbers])
        return {name: batch[name] for name in self._names(batch)}

    def prepare(self) -> None:
        self.source.prepare()

    @property
    def classes(self) -> Sequence[str]:
        return self.source.classes


@dataclass(frozen=True)
class FunctionSource:
    """Batches that a function gives each time it is called."""

    function: Callable[[], Iterable[Mapping[str, np.ndarray]]]
    whole: bool = False

    def shapes(self) -> Mapping[str, Shape] | None:
        first = next(iter(self.function()), None)
        return None if first is None else shapes_of(first)

    def read(self, layout: Layout) -> Iterator[Batch]:
        for batch in self.function():
            yield {name: np.asarray(array) for name, array in batch.items()}


class Archive:
    """The arrays of an `.npz` file. Those with samples along axis 0 are read side by side, without the whole."""

    whole = False

    def __init__(self, path: Path):
        self.path = path

    def shapes(self) -> Mapping[str, Shape] | None:
        with _readable(self.path), zipfile.ZipFile(self.path) as archive:
            result = {}
            for name in npz.members(archive):
                with archive.open(f"{name}.npy") as file:
                    result[name] = npz.header(
                        file, name, archive.getinfo(f"{name}.npy").file_size
                    )[0]
        return result or None

    def read(self, layout: Layout) -> Iterator[Batch]:
        with _readable(self.path), zipfile.ZipFile(self.path) as archive:
            names = [
                name for name in npz.members(archive) if layout.whole or name in layout.axes
            ]
            if layout.whole:
                yield {name: npz.member(archive, name) for name in names}
                return
            readers = {
                name: _rows(archive, name) for name in names if layout.axes[name] == 0
            }
            shared = {
                name: npz.member(archive, name) for name in names if name not in readers
            }
            yield from _side_by_side(readers, shared, layout, self.path)


class Folder:
    """A folder of `.npy` files, one for each array, mapped from disk."""

    whole = False

    def __init__(self, path: Path, files: Mapping[str, Path]):
        self.path, self.files = path, files

    def shapes(self) -> Mapping[str, Shape] | None:
        return shapes_of(self._arrays())

    def _arrays(self) -> Batch:
        result = {}
        for name, file in self.files.items():
            try:
                with open(file, "rb") as opened:
                    npz.header(opened, name, file.stat().st_size)
                result[name] = np.load(file, mmap_mode="r", allow_pickle=False)
            except npz.DAMAGED as error:
                raise DataError(
                    f"{self.path}: not a folder of .npy arrays ({error})"
                ) from error
        return result

    def read(self, layout: Layout) -> Iterator[Batch]:
        arrays = {
            name: array
            for name, array in self._arrays().items()
            if layout.whole or name in layout.axes
        }
        layout.check(arrays, str(self.path))
        if layout.whole:
            yield {name: np.asarray(array) for name, array in arrays.items()}
            return
        for start in range(0, layout.count(arrays), CHUNK):
            part = layout.take(arrays, slice(start, start + CHUNK))
            yield {name: np.asarray(array) for name, array in part.items()}


class FeedFolder:
    """A folder of `.npz` files: each one whole feed, in the order of their names."""

    whole = True

    def __init__(self, files: Iterable[Path]):
        self.archives = [Archive(file) for file in files]

    def shapes(self) -> Mapping[str, Shape] | None:
        return self.archives[0].shapes()

    def read(self, layout: Layout) -> Iterator[Batch]:
        names: set[str] | None = None
        for archive in self.archives:
            for feed in archive.read(layout):
                if names is not None and feed.keys() != names:
                    differing = ", ".join(sorted(names ^ feed.keys()))
                    raise DataError(
                        f"{archive.path}: every feed needs the same arrays, and {differing} differs"
                    )
                names = set(feed)
                yield feed


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Errors of a damaged file become one DataError that names it."""
    try:
        yield
    except npz.DAMAGED as error:
        raise DataError(f"{path}: not an .npz file of arrays ({error})") from error


def _rows(archive: zipfile.ZipFile, name: str) -> Iterator[np.ndarray]:
    """Rows of one array, `CHUNK` at a time."""
    with archive.open(f"{name}.npy") as file:
        shape, fortran, dtype = npz.header(
            file, name, archive.getinfo(f"{name}.npy").file_size
        )
        if fortran and len(shape) > 1:
            whole = npz.array(file.read(), dtype, shape, fortran)
            yield from (
                whole[start : start + CHUNK] for start in range(0, len(whole), CHUNK)
            )
            return
        row = dtype.itemsize * math.prod(shape[1:])
        for start in range(0, shape[0], CHUNK):
            count = min(CHUNK, shape[0] - start)
            yield npz.array(file.read(row * count), dtype, (count, *shape[1:]))


def _side_by_side(
    readers: Mapping[str, Iterator[np.ndarray]], others: Batch, layout: Layout, path: Path
) -> Iterator[Batch]:
    """Rows of arrays that are read as streams, with samples of those that are not."""
    start = 0
    while True:
        parts = {name: next(rows, None) for name, rows in readers.items()}
        result = {name: rows for name, rows in parts.items() if rows is not None}
        count = len(next(iter(result.values()))) if result else CHUNK if not readers else 0
        rest = layout.take(others, slice(start, start + count))
        ended = not count or any(
            not rest[n].shape[a] for n in rest if (a := layout.axes[n]) is not None
        )
        if len(result) != len(parts) and result:
            names = ", ".join(sorted(parts.keys() - result.keys()))
            raise DataError(
                f"{path}: arrays of different lengths along axis 0 ({names} too short)"
            )
        if ended:
            return
        start += count
        yield {**result, **rest}

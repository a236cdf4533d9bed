"""Where data come from: arrays in files, functions, batches in memory; all read as streams.

Files may come from strangers. Nothing in them is unpickled, and no more memory is taken than their bytes account for.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

import numpy as np

from prunegraph.errors import DataError
from prunegraph.runtime.layout import Batch, Layout, Shape, shapes_of

#: Samples read from a source at a time.
CHUNK = 64

#: Packed arrays that unpack to more bytes than `UNPACKED`, and to more than `EXPANSION` times their own, are refused.
UNPACKED = 2**26
EXPANSION = 200

#: What NumPy and zipfile raise for a damaged file.
DAMAGED = (
    ArithmeticError, EOFError, LookupError, MemoryError, NotImplementedError, OSError, RecursionError, RuntimeError,
    SyntaxError, TypeError, ValueError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip

#: What to do about arrays of Python objects.
NO_OBJECTS = (
    "holds Python objects (a pickle), and those are not read; save text as np.array([...], dtype=str), "
    "and numbers as arrays of numbers"
)


class Source(Protocol):
    """Arrays by name. `whole` says that each batch is a whole feed, which is never cut or joined."""

    @property
    def whole(self) -> bool: ...

    def shapes(self) -> Mapping[str, Shape] | None:
        """Shapes of all arrays, or of the first batch where there are several; None where there is none."""

    def read(self, layout: Layout) -> Iterator[Batch]:
        """Batches, from the first one, each time it is called."""


@dataclass(frozen=True)
class Batches:
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
            found = {}
            for name in members(archive, self.path):
                with archive.open(f"{name}.npy") as file:
                    found[name] = _header(file, name, archive.getinfo(f"{name}.npy").file_size)[0]
        return found or None

    def read(self, layout: Layout) -> Iterator[Batch]:
        with _readable(self.path), zipfile.ZipFile(self.path) as archive:
            names = [name for name in members(archive, self.path) if layout.whole or name in layout.axes]
            if layout.whole:
                yield {name: member(archive, name) for name in names}
                return
            readers = {name: _rows(archive, name) for name in names if layout.axes[name] == 0}
            shared = {name: member(archive, name) for name in names if name not in readers}
            yield from _side_by_side(readers, shared, layout, self.path)


class Folder:
    """A folder of `.npy` files, one for each array, mapped from disk."""

    whole = False

    def __init__(self, path: Path, files: Mapping[str, Path]):
        self.path, self.files = path, files

    def shapes(self) -> Mapping[str, Shape] | None:
        return shapes_of(self._arrays())

    def _arrays(self) -> Batch:
        found = {}
        for name, file in self.files.items():
            try:
                with open(file, "rb") as opened:
                    _header(opened, name, file.stat().st_size)
                found[name] = np.load(file, mmap_mode="r", allow_pickle=False)
            except DAMAGED as error:
                raise DataError(f"{self.path}: not a folder of .npy arrays ({error})") from error
        return found

    def read(self, layout: Layout) -> Iterator[Batch]:
        arrays = {name: array for name, array in self._arrays().items() if layout.whole or name in layout.axes}
        layout.check(arrays, str(self.path))
        if layout.whole:
            yield {name: np.asarray(array) for name, array in arrays.items()}
            return
        for start in range(0, layout.count(arrays), CHUNK):
            part = layout.take(arrays, slice(start, start + CHUNK))
            yield {name: np.asarray(array) for name, array in part.items()}


class Feeds:
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
                    raise DataError(f"{archive.path}: every feed needs the same arrays, and {differing} differs")
                names = set(feed)
                yield feed


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Errors of a damaged file become one DataError that names it."""
    try:
        yield
    except DAMAGED as error:
        raise DataError(f"{path}: not an .npz file of arrays ({error})") from error


def members(archive: zipfile.ZipFile, path: Path) -> list[str]:
    """Names of the arrays in an archive. Raises ValueError for one that unpacks to far more than it is."""
    found: dict[str, None] = {}
    for info in archive.infolist():
        if info.filename.endswith(".npy"):
            if info.file_size > max(UNPACKED, EXPANSION * info.compress_size):
                raise ValueError(
                    f"array {info.filename.removesuffix('.npy')!r} unpacks from {info.compress_size} to "
                    f"{info.file_size} bytes; save it with np.savez, not packed"
                )
            found[info.filename.removesuffix(".npy")] = None
    return list(found)


def _header(file: IO[bytes], name: str, size: int) -> tuple[Shape, bool, np.dtype]:
    """Shape, order and type that an `.npy` stream of that many bytes says it has. Raises ValueError."""
    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError(f"version {version} of the .npy format")
    shape, fortran, dtype = read(file)
    if dtype.hasobject:
        raise ValueError(f"array {name!r} {NO_OBJECTS}")
    # A header may say anything: it is believed where the bytes are there.
    if any(length < 0 for length in shape) or math.prod(shape) * dtype.itemsize != size - file.tell():
        raise ValueError(f"array {name!r} is not as long as its shape {list(shape)} of {dtype} needs")
    return shape, fortran, dtype


def member(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """One array of an archive, as a whole. Raises what `DAMAGED` lists."""
    with archive.open(f"{name}.npy") as file:
        shape, fortran, dtype = _header(file, name, archive.getinfo(f"{name}.npy").file_size)
        return _array(file.read(), dtype, shape, fortran)


def _array(data: bytes, dtype: np.dtype, shape: Shape, fortran: bool = False) -> np.ndarray:
    if not dtype.itemsize:  # empty text
        return np.zeros(shape, dtype)
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


def _rows(archive: zipfile.ZipFile, name: str) -> Iterator[np.ndarray]:
    """Rows of one array, `CHUNK` at a time."""
    with archive.open(f"{name}.npy") as file:
        shape, fortran, dtype = _header(file, name, archive.getinfo(f"{name}.npy").file_size)
        if fortran and len(shape) > 1:
            whole = _array(file.read(), dtype, shape, fortran)
            yield from (whole[start : start + CHUNK] for start in range(0, len(whole), CHUNK))
            return
        row = dtype.itemsize * math.prod(shape[1:])
        for start in range(0, shape[0], CHUNK):
            count = min(CHUNK, shape[0] - start)
            yield _array(file.read(row * count), dtype, (count, *shape[1:]))


def _side_by_side(
    readers: Mapping[str, Iterator[np.ndarray]], others: Batch, layout: Layout, path: Path
) -> Iterator[Batch]:
    """Rows of arrays that are read as streams, with samples of those that are not."""
    start = 0
    while True:
        parts = {name: next(rows, None) for name, rows in readers.items()}
        found = {name: rows for name, rows in parts.items() if rows is not None}
        count = len(next(iter(found.values()))) if found else CHUNK if not readers else 0
        rest = layout.take(others, slice(start, start + count))
        ended = not count or any(not rest[n].shape[a] for n in rest if (a := layout.axes[n]) is not None)
        if len(found) != len(parts) and found:
            names = ", ".join(sorted(parts.keys() - found.keys()))
            raise DataError(f"{path}: arrays of different lengths along axis 0 ({names} too short)")
        if ended:
            return
        start += count
        yield {**found, **rest}

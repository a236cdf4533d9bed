"""Arrays that are kept: in memory as long as they are few, then in a temporary file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from prunegraph.runtime.scratch import Room, scratch_file

Array = np.ndarray

#: Bytes of values that a store keeps in memory; the rest goes to files, which the system keeps in memory as long as it
#: has some to spare. Few enough that a few hundred small images have more, so that the peak does not depend on how many
#: there are.
KEEP = 2**24


@dataclass(frozen=True)
class _Place:
    """Where an array lies in a file, and what it is."""

    start: int
    size: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class Store:
    """Arrays by batch and name: in memory as long as they are few, then in a file. Used in a `with` statement."""

    def __init__(self, keep: int = KEEP):
        self._keep = keep
        self._held = 0
        self._arrays: dict[tuple[int, str], Array] = {}
        self._places: dict[tuple[int, str], _Place] = {}
        self._file = scratch_file(self)
        self._room = Room()
        self._shapes: dict[str, list[int | None]] = {}

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *error: object) -> None:
        self._arrays.clear()
        self._places.clear()
        self._file.close()

    @property
    def held(self) -> int:
        """Bytes of the arrays that are in memory."""
        return self._held

    def put(self, batch: int, name: str, array: Array) -> None:
        """Keep an array, in place of what has the same batch and name."""
        key = batch, name
        self._forget(key)
        known = self._shapes.setdefault(name, list(array.shape))
        if len(known) == array.ndim:
            self._shapes[name] = [
                a if a == b else None for a, b in zip(known, array.shape, strict=True)
            ]
        fits = self._held + array.nbytes <= self._keep or array.dtype.kind == "O"
        if fits or not self._write(key, array):
            self._arrays[key] = array
            self._held += array.nbytes

    def get(self, batch: int, name: str) -> Array:
        """An array that was kept. Raises KeyError."""
        match = self._arrays.get((batch, name))
        return self._read(self._places[batch, name]) if match is None else match

    def drop(self, names: Iterable[str]) -> None:
        """Forget values of all batches."""
        gone = set(names)
        for key in [key for key in (*self._arrays, *self._places) if key[1] in gone]:
            self._forget(key)

    def shape(self, name: str) -> list[int | None]:
        """A value's sizes; None for those that differ from batch to batch."""
        return self._shapes[name]

    def names(self) -> set[str]:
        return {name for _, name in (*self._arrays, *self._places)}

    def _forget(self, key: tuple[int, str]) -> None:
        if (array := self._arrays.pop(key, None)) is not None:
            self._held -= array.nbytes
        if (place := self._places.pop(key, None)) is not None:
            self._room.give(place.start, place.size)

    def _write(self, key: tuple[int, str], array: Array) -> bool:
        """Put an array into the file; False where the disk has no room for it."""
        place = _Place(
            self._room.take(array.nbytes), array.nbytes, array.shape, array.dtype
        )
        remaining = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
        try:
            self._file.seek(place.start)
            while remaining:
                remaining = remaining[self._file.write(remaining) :]
        except OSError:
            self._room.give(place.start, place.size)
            return False
        self._places[key] = place
        return True

    def _read(self, place: _Place) -> Array:
        data = np.empty(place.size, np.uint8)
        remaining = data.data
        self._file.seek(place.start)
        while count := self._file.readinto(remaining):
            remaining = remaining[count:]
        assert not remaining
        return data.view(place.dtype).reshape(place.shape)

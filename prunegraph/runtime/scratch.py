"""Temporary files, which go with the object that they are for, and what room in them is taken.

`TMPDIR` says where they lie.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from bisect import bisect
from io import FileIO


def scratch_file(owner: object) -> FileIO:
    """A file without a name, which is closed and gone when its owner is."""
    file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - as long as its owner
    weakref.finalize(owner, file.close)
    return file


def free_bytes() -> int:
    """Bytes that are free where temporary files lie."""
    return shutil.disk_usage(tempfile.gettempdir()).free


class Room:
    """Which parts of a file are taken. What is given back is taken again first: the file grows as far as it must.

    To delete a file and to fill another one takes longer than to write: the system lets go of every page, and finds a
    new one.
    """

    def __init__(self) -> None:
        self.end = 0
        #: Where each free part starts, and how many bytes it has, in order; none touches the next.
        self._free: list[tuple[int, int]] = []

    def take(self, size: int) -> int:
        """Where so many bytes go: the smallest part that has them, or the end."""
        fits = [index for index, (_, length) in enumerate(self._free) if length >= size]
        if not fits:
            start, self.end = self.end, self.end + size
            return start
        index = min(fits, key=lambda index: self._free[index][1])
        start, length = self._free.pop(index)
        if length > size:
            self._free.insert(index, (start + size, length - size))
        return start

    def give(self, start: int, size: int) -> None:
        """Give a part back."""
        index = bisect(self._free, (start, size))
        self._free.insert(index, (start, size))
        for at in (index, index - 1):
            if at < 0 or at + 1 >= len(self._free):
                continue
            (first, length), (second, more) = self._free[at : at + 2]
            if first + length == second:
                self._free[at : at + 2] = [(first, length + more)]
        if self._free and sum(self._free[-1]) == self.end:
            self.end = self._free.pop()[0]

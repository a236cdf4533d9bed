"""Temporary files, which go with the object that they are for. `TMPDIR` says where they lie."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from typing import IO


def scratch_file(owner: object) -> IO[bytes]:
    """A file without a name, which is closed and gone when its owner is."""
    file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - as long as its owner
    weakref.finalize(owner, file.close)
    return file


def free_bytes() -> int:
    """Bytes that are free where temporary files lie."""
    return shutil.disk_usage(tempfile.gettempdir()).free

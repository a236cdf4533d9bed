"""Arrays of `.npz` and `.npy` files that may come from strangers.

Nothing is unpickled, and no more memory is taken than the bytes of the file account for.
"""

from __future__ import annotations

import math
import struct
import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np

#: Packed arrays that unpack to more bytes than `UNPACKED`, and to more than `EXPANSION` times their own, are refused.
UNPACKED = 2**26
EXPANSION = 200

#: What NumPy and zipfile raise for a damaged file.
DAMAGED = (
    ArithmeticError,
    EOFError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OSError,
    RecursionError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
)

#: What to do about arrays of Python objects.
NO_OBJECTS = (
    "holds Python objects (a pickle), and those are not read; save text as np.array([...], dtype=str), "
    "and numbers as arrays of numbers"
)


def members(archive: zipfile.ZipFile) -> list[str]:
    """Names of the arrays in an archive. Raises ValueError where they unpack to far more than they are."""
    result = archive.infolist()
    for what, part in (
        *((f"array {info.filename.removesuffix('.npy')!r}", [info]) for info in result),
        ("it", result),
    ):
        size, packed = (
            sum(getattr(info, field) for info in part)
            for field in ("file_size", "compress_size")
        )
        if size > max(UNPACKED, EXPANSION * packed):
            raise ValueError(
                f"{what} unpacks from {packed} to {size} bytes; save it with np.savez, not packed"
            )
    return list(
        dict.fromkeys(
            name.removesuffix(".npy")
            for name in archive.namelist()
            if name.endswith(".npy")
        )
    )


def header(file: IO[bytes], name: str, size: int) -> tuple[tuple[int, ...], bool, np.dtype]:
    """tuple[int, ...], order and type that an `.npy` stream of that many bytes says it has. Raises ValueError."""
    version = np.lib.format.read_magic(file)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read is None:
        raise ValueError(f"version {version} of the .npy format")
    try:
        shape, fortran, dtype = read(file)
    except (
        Exception
    ) as error:  # the header is a Python expression: whatever parsing it raises
        raise ValueError(
            f"array {name!r} has no header: {' '.join(str(error).split())[:100]}"
        ) from error
    if dtype.hasobject:
        raise ValueError(f"array {name!r} {NO_OBJECTS}")
    if not dtype.itemsize:
        raise ValueError(f"array {name!r} has elements of no size")
    # A header may say anything: it is believed where the bytes are there.
    if (
        any(length < 0 for length in shape)
        or math.prod(shape) * dtype.itemsize != size - file.tell()
    ):
        raise ValueError(
            f"array {name!r} is not as long as its shape {list(shape)} of {dtype} needs"
        )
    return shape, fortran, dtype


def member(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """One array of an archive, as a whole. Raises what `DAMAGED` lists."""
    with archive.open(f"{name}.npy") as file:
        shape, fortran, dtype = header(file, name, archive.getinfo(f"{name}.npy").file_size)
        return array(file.read(), dtype, shape, fortran)


def array(
    data: bytes, dtype: np.dtype, shape: tuple[int, ...], fortran: bool = False
) -> np.ndarray:
    """Bytes as an array that may be written to."""
    # PyTorch warns of arrays that may not.
    return np.frombuffer(bytearray(data), dtype).reshape(
        shape, order="F" if fortran else "C"
    )


def read(path: str | Path | IO[bytes]) -> dict[str, np.ndarray]:
    """All arrays of an archive. Raises what `DAMAGED` lists."""
    with zipfile.ZipFile(path) as archive:
        return {name: member(archive, name) for name in members(archive)}

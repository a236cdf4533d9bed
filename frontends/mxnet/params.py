"""Parameter files: NDArray lists of every record version, .npz and .npy; read and written.

Layout: u64 0x112, u64 0, u64 number of records, the records, u64 number of names, the names
(u64 length, UTF-8). All integers are little-endian. Nothing is allocated before the bytes for
it are known to be there; arrays are views of the file's bytes.
"""

from __future__ import annotations

import math
import struct
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np

from prunegraph.errors import ModelError
from prunegraph.graph import npz
from prunegraph.graph.onnx_io import write_whole

MAGIC = 0x112
V1, V2, V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
MAX_RANK = 32

#: Flag of a dtype to the dtype; 12 is bfloat16, which numpy has not: it is widened to float32.
DTYPES = {
    flag: np.dtype(name)
    for flag, name in enumerate(
        (
            "<f4",
            "<f8",
            "<f2",
            "|u1",
            "<i4",
            "|i1",
            "<i8",
            "|b1",
            "<i2",
            "<u2",
            "<u4",
            "<u8",
            "<u2",
        )
    )
}
BFLOAT16 = 12

DENSE, ROW_SPARSE, CSR = 0, 1, 2

#: All sparse arrays of a file together may take so many bytes when dense, or so many times the file's.
DENSE_BYTES = 2**28
DENSE_SHARE = 100


def load(path: str | Path) -> dict[str, np.ndarray]:
    """Arrays by their names as they are in the file, "arg:conv0_weight". Raises ModelError."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from error
    return parse(data, str(path))


def parse(data: bytes, source: str = "params") -> dict[str, np.ndarray]:
    """Arrays by name from a file's content; unnamed ones are "0", "1", ... Raises ModelError."""
    if data[:2] == b"PK":
        return _archive(data, source)
    if data[:6] == b"\x93NUMPY":
        return {"0": _member(data, source)}
    if data[:8] == struct.pack("<Q", MAGIC):
        arrays, names = read_list(data, source)
        return dict(zip(names or map(str, range(len(arrays))), arrays, strict=True))
    raise ModelError(
        f"{source}: not an MXNet parameter file (neither an NDArray list nor .npz)"
    )


def read_list(data: bytes, source: str = "params") -> tuple[list[np.ndarray], list[str]]:
    """Arrays and names of an NDArray list; without names the second list is empty. Raises ModelError."""
    reader = _ParamsReader(data, source)
    if reader.integer("<Q") != MAGIC:
        raise reader.error("not an NDArray list")
    if reader.integer("<Q"):
        raise reader.error("the reserved field is not 0")
    count = reader.count("arrays", 4)
    arrays = [_record(reader) for _ in range(count)]
    named = reader.count("names", 8)
    if named not in (0, count):
        raise reader.error(f"{named} names for {count} arrays")
    names = [_name(reader) for _ in range(named)]
    if reader.unread:
        raise reader.error(f"{reader.unread} bytes after the end")
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise reader.error(f"the name {twice!r} is there twice")
    return arrays, names


@dataclass
class _ParamsReader:
    data: bytes
    source: str
    at: int = 0
    dense: int = 0

    @property
    def unread(self) -> int:
        return len(self.data) - self.at

    def error(self, what: str) -> ModelError:
        return ModelError(
            f"{self.source}: a damaged parameter file: {what} (at byte {self.at})"
        )

    def take(self, size: int) -> memoryview:
        if size > self.unread:
            raise self.error(
                f"{size} bytes are needed, {self.unread} are left; the file was cut off"
            )
        self.at += size
        return memoryview(self.data)[self.at - size : self.at]

    def integer(self, form: str) -> int:
        value: int = struct.unpack(form, self.take(struct.calcsize(form)))[0]
        return value

    def count(self, what: str, least: int) -> int:
        """A number of things of at least so many bytes each."""
        value = self.integer("<Q")
        if value * least > self.unread:
            raise self.error(
                f"it announces {value} {what}, more than its {self.unread} bytes hold"
            )
        return value

    def shape(self, form: str = "<q", rank_form: str = "<i") -> tuple[int, ...]:
        """Sizes; of rank -1 (numpy's "none") the shape is (-1,)."""
        rank = self.integer(rank_form)
        if rank == -1:
            return (-1,)
        if not 0 <= rank <= MAX_RANK:
            raise self.error(f"an array of rank {rank}")
        return self.sizes(rank, form)

    def sizes(self, rank: int, form: str) -> tuple[int, ...]:
        if not 0 <= rank <= MAX_RANK:
            raise self.error(f"an array of rank {rank}")
        return tuple(self.integer(form) for _ in range(rank))

    def dtype(self) -> tuple[np.dtype, int]:
        flag = self.integer("<i")
        if flag not in DTYPES:
            raise self.error(f"dtype flag {flag}, which is unknown")
        return DTYPES[flag], flag

    def array(self, shape: tuple[int, ...], dtype: tuple[np.dtype, int]) -> np.ndarray:
        if any(size < 0 for size in shape):
            raise self.error(f"an array of shape {shape}")
        kind, flag = dtype
        data = np.frombuffer(self.take(math.prod(shape) * kind.itemsize), kind)
        try:
            values = data.reshape(shape)
        except ValueError:  # a size of 0 beside one that no array can have
            raise self.error(f"an array of shape {shape}") from None
        return (
            (values.astype(np.uint32) << 16).view(np.float32)
            if flag == BFLOAT16
            else values
        )


def _name(reader: _ParamsReader) -> str:
    size = reader.integer("<Q")
    try:
        return bytes(reader.take(size)).decode()
    except UnicodeDecodeError:
        raise reader.error("a name is not UTF-8") from None


def _record(reader: _ParamsReader) -> np.ndarray:
    magic = reader.integer("<I")
    if magic in (V2, V3):
        return _new_record(reader, magic)
    if magic == V1:
        return _dense(reader, reader.shape("<q", "<I"))
    # Up to 0.10 the record has no magic: the number is the rank.
    return _dense(reader, reader.sizes(magic, "<I"))


def _dense(reader: _ParamsReader, shape: tuple[int, ...]) -> np.ndarray:
    """The rest of a dense record of old versions: device, dtype and data, unless it is empty."""
    if not shape:
        return np.empty(0, np.float32)
    reader.take(8)
    dtype = reader.dtype()
    return reader.array(shape, dtype)


def _new_record(reader: _ParamsReader, magic: int) -> np.ndarray:
    storage = reader.integer("<i")
    if storage not in (DENSE, ROW_SPARSE, CSR) or (magic == V3 and storage):
        raise reader.error(f"storage type {storage}, which is unknown")
    if storage:
        reader.shape()  # may be stale: the auxiliary arrays say it
    shape = reader.shape()
    if any(size < 0 for size in shape) or (magic == V2 and not shape):
        if magic == V2 and shape:
            raise reader.error(f"an array of shape {shape}")
        return np.empty(0, np.float32)
    reader.take(8)
    dtype = reader.dtype()
    return _sparse(reader, storage, shape, dtype) if storage else reader.array(shape, dtype)


def _sparse(
    reader: _ParamsReader, storage: int, shape: tuple[int, ...], dtype: tuple[np.dtype, int]
) -> np.ndarray:
    """A sparse record as a dense array."""
    if storage == CSR and len(shape) != 2:
        raise reader.error(f"a CSR array of shape {shape}")
    parts = [(reader.dtype(), reader.shape()) for _ in range(storage)]
    if any(len(sizes) != 1 for _, sizes in parts):
        raise reader.error("indices of a sparse array that are no vector")
    stored = (parts[-1][1][0], *(shape[1:] if storage == ROW_SPARSE else ()))
    values = reader.array(stored, dtype)
    indices = [reader.array(sizes, kind) for kind, sizes in parts]
    reader.dense += math.prod(shape) * values.itemsize
    if reader.dense > max(DENSE_BYTES, DENSE_SHARE * len(reader.data)):
        raise reader.error(f"a sparse array of shape {shape}")
    dense = np.zeros(shape, values.dtype)
    try:
        if storage == ROW_SPARSE:
            dense[indices[0]] = values
        else:
            dense[np.repeat(np.arange(shape[0]), np.diff(indices[0])), indices[1]] = values
    except (IndexError, ValueError, OverflowError, TypeError) as error:
        raise reader.error(f"indices of a sparse array do not fit: {error}") from error
    return dense


# -- numpy archives -----------------------------------------------------------------------


def _archive(data: bytes, source: str) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            result: dict[str, np.ndarray] = {}
            npz.members(archive)
            for member in archive.infolist():
                name = member.filename.removesuffix(".npy")
                if name in result:
                    raise ModelError(f"{source}: the name {name!r} is there twice")
                result[name] = _member(archive.read(member), f"{source}: {name}")
            return result
    except npz.DAMAGED as error:
        raise ModelError(f"{source}: a damaged parameter file: {error}") from error


def _member(data: bytes, source: str) -> np.ndarray:
    stream = BytesIO(data)
    try:
        shape, fortran, dtype = npz.header(stream, source, len(data))
        return npz.array(stream.read(), dtype, shape, fortran)
    except (
        Exception
    ) as error:  # the header is a Python expression: whatever parsing it raises
        raise ModelError(f"{source}: not a numpy array: {error}") from error


# -- writing ------------------------------------------------------------------------------


def save(arrays: Mapping[str, np.ndarray], path: str | Path) -> None:
    """Write an NDArray list (records V2) under these names. Raises ModelError; writes nothing then."""
    flags = {dtype: flag for flag, dtype in DTYPES.items() if flag != BFLOAT16}
    for name, array in arrays.items():
        if array.dtype.newbyteorder("<") not in flags or not array.shape:
            raise ModelError(
                f"parameter {name!r} ({array.dtype}, shape {array.shape}) fits no V2 record"
            )
    write_whole(Path(path), _pieces(arrays, flags))


def _pieces(
    arrays: Mapping[str, np.ndarray], flags: Mapping[np.dtype, int]
) -> Iterator[bytes]:
    yield struct.pack("<QQQ", MAGIC, 0, len(arrays))
    for array in arrays.values():
        kind = array.dtype.newbyteorder("<")
        yield struct.pack(f"<Iii{array.ndim}q", V2, DENSE, array.ndim, *array.shape)
        yield struct.pack("<iii", 1, 0, flags[kind])
        yield np.ascontiguousarray(array, kind).tobytes()
    yield struct.pack("<Q", len(arrays))
    for name in arrays:
        text = name.encode()
        yield struct.pack("<Q", len(text)) + text

"""Input data: random inputs for proofs, and the user's own, read as a stream."""

from __future__ import annotations

import hashlib
import importlib.util
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
import onnx

from prunegraph.errors import DataError
from prunegraph.graph.facts import facts
from prunegraph.graph.model import Graph
from prunegraph.graph.sizes import other_shapes

#: Whole numbers of random inputs stay below this: small enough to be an index into most tables.
RANDOM_LIMIT = 8

#: Samples read from a source at a time.
CHUNK = 64

#: The name under which a source holds targets; they are no input.
LABELS = "labels"

Batch = dict[str, np.ndarray]


def random_inputs(graph: Graph, *, seed: int = 0, batch: int = 2, stretch: int = 1) -> Batch:
    """Random inputs: normal numbers, small whole numbers, or booleans by the input's type.

    Symbols that stand first count samples: there are `batch` of them. Other symbolic axes get `stretch` times the
    size of the analysis. A symbol is one size wherever it stands.

    Raises:
        DataError: an input is neither a number nor a boolean.
    """
    rng = np.random.default_rng(seed)
    shapes = other_shapes(graph, facts(graph).sizes, batch, stretch)
    return {
        entry.name: _random(rng, entry.type.tensor_type.elem_type, list(shapes[entry.name]), entry.name)
        for entry in graph.model.graph.input
        if entry.name in graph.inputs
    }


def _random(rng: np.random.Generator, kind: int, shape: list[int], name: str) -> np.ndarray:
    if kind == onnx.TensorProto.BOOL:
        return rng.integers(0, 2, shape).astype(bool)
    try:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind)
    except KeyError:
        raise DataError(f"input {name!r} has no tensor type that random numbers can fill; give --data") from None
    if dtype.kind in "iu":
        return rng.integers(0, RANDOM_LIMIT, shape).astype(dtype)
    if dtype.kind in "OSU":
        raise DataError(f"input {name!r} holds text; random inputs cannot be made, give --data")
    return rng.standard_normal(shape).astype(dtype)


class Data:
    """Inputs by name, samples along axis 0, and perhaps `labels`; read in a stream, any number of times.

    Args:
        read: gives the samples in chunks, from the first one, each time it is called.
        source: what to call the data in messages.
    """

    def __init__(self, read: Callable[[], Iterable[Mapping[str, np.ndarray]]], source: str = "data"):
        self.source = source
        self._read = read

    @classmethod
    def of(cls, given: Data | Sequence[Mapping[str, np.ndarray]] | Mapping[str, np.ndarray]) -> Data:
        """Data from arrays by input name, or from a sequence of such batches."""
        if isinstance(given, Data):
            return given
        batches = [given] if isinstance(given, Mapping) else list(given)
        return cls(lambda: batches)

    def __bool__(self) -> bool:
        return next(iter(self.chunks()), None) is not None

    def chunks(self) -> Iterator[Batch]:
        """The samples as the source gives them. Raises DataError for arrays of different lengths."""
        for chunk in self._read():
            lengths = {len(array) if np.ndim(array) else 0 for array in chunk.values()}
            if len(lengths) != 1 or chunk.keys() <= {LABELS} or 0 in lengths:
                raise DataError(
                    f"{self.source}: needs arrays of one length along axis 0, found lengths {sorted(lengths)}"
                )
            yield dict(chunk)

    @cached_property
    def samples(self) -> int:
        """Number of samples."""
        return sum(len(next(iter(chunk.values()))) for chunk in self.chunks())

    @cached_property
    def labels(self) -> np.ndarray | None:
        """Targets of all samples, or None where the source has none."""
        parts = [chunk[LABELS] for chunk in self.chunks() if LABELS in chunk]
        return np.concatenate(parts) if parts else None

    @cached_property
    def digest(self) -> str:
        """sha256 of names, types and values."""
        digest = hashlib.sha256()
        for chunk in self.chunks():
            for name in sorted(chunk):
                array = np.ascontiguousarray(chunk[name])
                digest.update(f"{name} {array.dtype} {array.shape[1:]}".encode())
                digest.update(array.tobytes())
        return digest.hexdigest()

    def fit(self, graph: Graph) -> Data:
        """This data, checked against a model's inputs. Raises DataError."""
        first = next(iter(self.chunks()), None)
        if first is None:
            raise DataError(f"{self.source}: has no samples")
        missing = [name for name in graph.inputs if name not in first]
        if missing:
            have = ", ".join(sorted(first.keys() - {LABELS}))
            raise DataError(f"{self.source}: no array for model input {missing[0]!r}; it has {have}")
        for entry in graph.model.graph.input:
            if entry.name in graph.inputs:
                self._check(entry, first[entry.name])
        return self

    def _check(self, entry: onnx.ValueInfoProto, array: np.ndarray) -> None:
        tensor = entry.type.tensor_type
        wanted = [d.dim_value for d in tensor.shape.dim]
        pairs = zip(wanted[1:], array.shape[1:], strict=False)
        if array.ndim != len(wanted) or any(w > 0 and w != s for w, s in pairs):
            raise DataError(f"{self.source}: input {entry.name!r} wants shape {wanted}, found {list(array.shape)}")
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        if array.dtype != dtype:
            raise DataError(f"{self.source}: input {entry.name!r} wants {dtype}, found {array.dtype}")

    def batches(self, graph: Graph, size: int = CHUNK, *, labels: bool = False) -> Iterator[Batch]:
        """A model's inputs in batches; a model with a fixed batch size gets that, the rest is left out.

        With `labels`, batches hold those too, where the source has them.
        """
        fixed = fixed_batch(graph)
        for batch in _rebatched(self.chunks(), fixed or size):
            if not fixed or len(next(iter(batch.values()))) == fixed:
                extra = (LABELS,) if labels and LABELS in batch else ()
                yield {name: batch[name] for name in (*graph.inputs, *extra)}

    def head(self, samples: int) -> Data:
        """The first samples alone."""
        return Data(lambda: _first(self.chunks(), samples), self.source)


def fixed_batch(graph: Graph) -> int:
    """The batch size a model's inputs are declared with, or 0 where it is free."""
    sizes = (
        entry.type.tensor_type.shape.dim[0].dim_value
        for entry in graph.model.graph.input
        if entry.name in graph.inputs and entry.type.tensor_type.shape.dim
    )
    return max(sizes, default=0)


def _first(chunks: Iterable[Batch], samples: int) -> Iterator[Batch]:
    for chunk in chunks:
        part = {name: array[:samples] for name, array in chunk.items()}
        samples -= len(next(iter(part.values())))
        yield part
        if samples <= 0:
            return


def _rebatched(chunks: Iterable[Batch], size: int) -> Iterator[Batch]:
    """The same samples in batches of `size`, the last one maybe smaller."""
    left: Batch = {}
    for chunk in chunks:
        joined = {name: np.concatenate([left[name], array]) if left else array for name, array in chunk.items()}
        count = len(next(iter(joined.values())))
        for start in range(0, count - size + 1, size):
            yield {name: array[start : start + size] for name, array in joined.items()}
        done = count - count % size
        left = {name: array[done:] for name, array in joined.items()} if done < count else {}
    if left:
        yield left


def read_data(text: str) -> Data:
    """Data from an `.npz` file, a folder of `.npy` files, or `file.py:function` that yields dicts of arrays.

    Files are named after the model's inputs. All are read as streams, never as a whole.

    Raises:
        DataError: the source cannot be read.
    """
    if ".py:" in text:
        return Data(_function(text), text)
    path = Path(text)
    if path.is_dir():
        return Data(_folder(path), text)
    if not path.is_file():
        raise DataError(f"{text}: no such data file")
    if not zipfile.is_zipfile(path):
        raise DataError(f"{text}: not an .npz file of arrays")
    return Data(lambda: _npz(path), text)


def _npz(path: Path) -> Iterator[Batch]:
    """Rows of the arrays of an `.npz` file, read side by side without unpacking the whole."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(".npy")]
            yield from _side_by_side({name.removesuffix(".npy"): _rows(archive.open(name)) for name in names}, path)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: not an .npz file of arrays ({error})") from error


def _side_by_side(readers: dict[str, Iterator[np.ndarray]], path: Path) -> Iterator[Batch]:
    while True:
        parts = {name: next(rows, None) for name, rows in readers.items()}
        found = {name: rows for name, rows in parts.items() if rows is not None}
        if len(found) != len(parts) and found:
            names = ", ".join(sorted(parts.keys() - found.keys()))
            raise DataError(f"{path}: arrays of different lengths along axis 0 ({names} too short)")
        if not found:
            return
        yield found


def _rows(file: IO[bytes]) -> Iterator[np.ndarray]:
    """Rows of one `.npy` stream, `CHUNK` at a time."""
    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError(f"version {version} of the .npy format")
    shape, fortran, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("Object arrays cannot be loaded: allow_pickle is off")
    if fortran or not shape:
        whole = np.frombuffer(file.read(), dtype).reshape(shape, order="F" if fortran else "C")
        yield from (whole[start : start + CHUNK] for start in range(0, len(np.atleast_1d(whole)), CHUNK))
        return
    row = dtype.itemsize * int(np.prod(shape[1:], dtype=np.int64))
    for start in range(0, shape[0], CHUNK):
        count = min(CHUNK, shape[0] - start)
        yield np.frombuffer(file.read(row * count), dtype).reshape(count, *shape[1:])


def _folder(path: Path) -> Callable[[], Iterator[Batch]]:
    files = {file.stem: file for file in sorted(path.glob("*.npy"))}
    if not files:
        raise DataError(f"{path}: holds no .npy file; name them after the model's inputs")

    def read() -> Iterator[Batch]:
        try:
            arrays = {name: np.load(file, mmap_mode="r", allow_pickle=False) for name, file in files.items()}
        except (ValueError, OSError) as error:
            raise DataError(f"{path}: not a folder of .npy arrays ({error})") from error
        lengths = {name: len(array) if array.ndim else 0 for name, array in arrays.items()}
        if len(set(lengths.values())) > 1:
            raise DataError(f"{path}: arrays of different lengths along axis 0: {lengths}")
        for start in range(0, next(iter(lengths.values())), CHUNK):
            yield {name: np.asarray(array[start : start + CHUNK]) for name, array in arrays.items()}

    return read


def _function(text: str) -> Callable[[], Iterator[Batch]]:
    path, _, name = text.rpartition(":")
    spec = importlib.util.spec_from_file_location("prunegraph_data", path)
    if spec is None or spec.loader is None or not Path(path).is_file():
        raise DataError(f"{path}: no such Python file")
    module: Any = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        function = getattr(module, name)
    except Exception as error:
        raise DataError(f"{text}: {type(error).__name__}: {error}") from error

    def read() -> Iterator[Batch]:
        try:
            yield from function()
        except Exception as error:
            raise DataError(f"{text}: {type(error).__name__}: {error}") from error

    return read

"""Input data: random inputs for proofs, and the user's own, read as a stream.

All sampling is here: batches, the first samples, some that are drawn or chosen, all of them in memory.
"""

from __future__ import annotations

import hashlib
import math
import weakref
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from prunegraph import plugins
from prunegraph.errors import DataError, PluginError
from prunegraph.graph.indices import Range, ranges
from prunegraph.graph.model import Graph
from prunegraph.graph.shapes import shape_info
from prunegraph.graph.sizes import other_shapes
from prunegraph.runtime import layout as layouts
from prunegraph.runtime import sources
from prunegraph.runtime.layout import LABELS, Batch, Layout, fixed_batch
from prunegraph.runtime.sources import CHUNK, IndexedSource, Part, Source

__all__ = [
    "CHUNK",
    "LABELS",
    "RANDOM_LIMIT",
    "Batch",
    "Data",
    "IndexedTable",
    "SampleTable",
    "Samples",
    "fixed_batch",
    "random_inputs",
    "read_data",
]

#: Whole numbers of random inputs stay below this: small enough to be an index into most tables.
RANDOM_LIMIT = 8

#: Inputs with more elements than this are not made up: a file may declare any size.
RANDOM_SIZE = 2**28


# -- random inputs --------------------------------------------------------------------------


def random_inputs(
    graph: Graph, *, seed: int = 0, batch: int = 2, stretch: float = 1
) -> Batch:
    """Random inputs: normal numbers, small whole numbers, booleans, or such numbers as text, by the input's type.

    Symbols that stand first count samples: there are `batch` of them. Other symbolic axes get `stretch` times the
    size of the analysis. A symbol is one size wherever it stands. Inputs that are indices stay within what they
    point into.

    Raises:
        DataError: an input has a type for which there are no numbers.
    """
    rng = np.random.default_rng(seed)
    sizes = other_shapes(graph, shape_info(graph).sizes, batch, stretch)
    large = next(
        (name for name, shape in sizes.items() if math.prod(shape) > RANDOM_SIZE), None
    )
    if large is not None:
        raise DataError(
            f"input {large!r} of shape {list(sizes[large])} is too large for random numbers; give --data"
        )
    allowed = ranges(graph, sizes)
    inputs = {}
    for entry in graph.model.graph.input:
        if entry.name in graph.inputs:
            limits = allowed.get(entry.name, Range(0, RANDOM_LIMIT)) & Range(
                0, RANDOM_LIMIT
            )
            kind = entry.type.tensor_type.elem_type
            inputs[entry.name] = _random(
                rng, kind, list(sizes[entry.name]), entry.name, limits
            )
    return inputs


def _random(
    rng: np.random.Generator, kind: int, shape: list[int], name: str, limits: Range
) -> np.ndarray:
    if kind == onnx.TensorProto.BOOL:
        return rng.integers(0, 2, shape).astype(bool)
    try:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind)
    except KeyError:
        raise DataError(
            f"input {name!r} has no tensor type that random numbers can fill; give --data"
        ) from None
    if dtype.kind in "iu":
        return rng.integers(
            limits.lowest, max(limits.end, limits.lowest + 1), shape
        ).astype(dtype)
    if dtype.kind in "OSU":
        # Numbers as text: a graph that makes numbers of it runs, too.
        return rng.integers(0, RANDOM_LIMIT, shape).astype(str).astype(object)
    return rng.standard_normal(shape).astype(dtype)


# -- the user's data ------------------------------------------------------------------------


@dataclass(frozen=True)
class SampleTable:
    """Samples in memory: all of some data, in their order; or whole feeds, of which each counts as one.

    `parts` holds one batch of all samples, or the feeds one by one.
    """

    parts: tuple[Batch, ...]
    layout: Layout

    @property
    def count(self) -> int:
        """Number of samples."""
        if self.layout.whole:
            return len(self.parts)
        return self.layout.count(self.parts[0]) if self.parts else 0

    @property
    def names(self) -> list[str]:
        """Names of the arrays, labels among them where there are any."""
        return list(self.parts[0]) if self.parts else []

    def take(self, chosen: np.ndarray) -> Batch:
        """A batch of the samples of these numbers. A whole feed stands alone: of several numbers the first counts."""
        if self.layout.whole:
            return self.parts[int(chosen[0])]
        return self.layout.take(self.parts[0], chosen)


@dataclass(frozen=True)
class IndexedTable:
    """Samples that are read when they are taken, in any order."""

    data: Data
    source: IndexedSource
    layout: Layout

    @property
    def count(self) -> int:
        """Number of samples."""
        return self.source.count()

    @property
    def parts(self) -> tuple[Data, ...]:
        """The data, by which samples are told from others."""
        return (self.data,)

    def take(self, chosen: np.ndarray) -> Batch:
        """A batch of the samples of these numbers."""
        return self.source.take(chosen)


class Data:
    """Inputs by name and perhaps `labels`, with samples along an axis of each; read in a stream, any number of times.

    Along which axis samples lie follows from the model (`fit`); before that, it is taken to be axis 0.

    Args:
        read: gives the samples in batches, from the first one, each time it is called; or a source.
        source: what to call the data in messages.
        whole: whether each batch is a whole feed, which is never cut or joined.
        mask_input: the model's input that says which positions count (see `runtime.row_mask`).
    """

    def __init__(
        self,
        read: Callable[[], Iterable[Mapping[str, np.ndarray]]] | Source,
        source: str = "data",
        *,
        whole: bool = False,
        layout: Layout | None = None,
        mask_input: str | None = None,
    ):
        self.source, self.mask_input = source, mask_input
        self._from: Source = sources.FunctionSource(read, whole) if callable(read) else read
        self._fitted = layout
        # The model that was checked last: a source may be slow to give its first batch.
        self._checked: Callable[[], Graph | None] = lambda: None

    @classmethod
    def of(cls, given: Samples) -> Data:
        """Data from arrays by input name, or from a sequence of such batches."""
        if isinstance(given, Data):
            return given
        batches = [given] if isinstance(given, Mapping) else list(given)
        return cls(lambda: batches)

    @classmethod
    def feeds(cls, given: Sequence[Mapping[str, np.ndarray]], source: str = "data") -> Data:
        """Data from whole feeds, each of which is run as it is."""
        batches = list(given)
        return cls(lambda: batches, source, whole=True)

    def __bool__(self) -> bool:
        return self._from.shapes() is not None

    @property
    def is_whole(self) -> bool:
        """Tell whether the data are whole feeds."""
        return self._layout.whole

    @property
    def reader(self) -> Source:
        """Where samples are read from."""
        return self._from

    @cached_property
    def _layout(self) -> Layout:
        if self._fitted is not None:
            return self._fitted
        shapes = self._from.shapes()
        if shapes is None or self._from.whole:
            return Layout({}, whole=True)
        return layouts.guess(shapes, self.source)

    def chunks(self) -> Iterator[Batch]:
        """The samples as the source gives them. Raises DataError for arrays of different lengths."""
        layout = self._layout
        for chunk in self._from.read(layout):
            if not layout.whole and not chunk.keys() <= layout.axes.keys():
                chunk = {
                    name: array for name, array in chunk.items() if name in layout.axes
                }
            layout.check(chunk, self.source)
            yield {name: _text(array) for name, array in chunk.items()}

    @cached_property
    def samples(self) -> int:
        """Number of samples; of whole feeds, how many there are."""
        if isinstance(self._from, IndexedSource):
            return self._from.count()
        return sum(self._layout.count(chunk) for chunk in self.chunks())

    @cached_property
    def labels(self) -> np.ndarray | None:
        """Targets of all samples, or None where the source has none."""
        if isinstance(self._from, IndexedSource):
            return self._from.labels()
        parts = [chunk[LABELS] for chunk in self.chunks() if LABELS in chunk]
        return np.concatenate(parts) if parts else None

    @property
    def classes(self) -> Sequence[str]:
        """Names of classes by number: folders of images, names in a table; empty where the source has none."""
        return self._from.classes if isinstance(self._from, IndexedSource) else ()

    @cached_property
    def digest(self) -> str:
        """sha256 of names, types and values; the same however the source divides samples into batches."""
        parts: dict[str, Any] = {}
        shared: dict[str, bytes] = {}
        start = 0
        for chunk in self.chunks():
            for name, array in chunk.items():
                axis = None if self._layout.whole else self._layout.axes[name]
                rows = array if axis is None else np.moveaxis(array, axis, 0)
                content = _bytes(rows)
                about = f"{rows.dtype} {rows.shape if axis is None else rows.shape[1:]}".encode()
                if axis is None:
                    content = b"%s %s" % (about, content)
                    if not self._layout.whole and shared.get(name) == content:
                        continue
                    shared[name], about = content, b"%d" % start
                if name not in parts:
                    parts[name] = hashlib.sha256(about)
                elif axis is None:
                    parts[name].update(about)
                parts[name].update(content)
            start += self._layout.count(chunk)
        whole = "".join(
            f"{name} {part.hexdigest()}\n" for name, part in sorted(parts.items())
        )
        return hashlib.sha256(whole.encode()).hexdigest()

    def fit(self, graph: Graph) -> Data:
        """This data as a model's inputs: checked, and with the axes along which that model has samples.

        Raises:
            DataError: the data do not fit the model.
        """
        if self._fitted is not None and self._checked() is graph:
            return self
        shapes = self._from.shapes()
        if shapes is None:
            raise DataError(f"{self.source}: has no samples")
        missing = [name for name in graph.inputs if name not in shapes]
        if missing:
            have = ", ".join(sorted(shapes.keys() - {LABELS}))
            raise DataError(
                f"{self.source}: no array for model input {missing[0]!r}; it has {have}"
            )
        read = {name: shapes[name] for name in layouts.names_read(graph, shapes)}
        fitted = Data(
            self._from,
            self.source,
            layout=layouts.layout_of(graph, read, self.source, self._from.whole),
            mask_input=self.mask_input,
        )
        first = next(iter(fitted.chunks()), None)
        if first is None:
            raise DataError(f"{self.source}: has no samples")
        for entry in graph.model.graph.input:
            if entry.name in graph.inputs:
                self._check_type(entry, first[entry.name])
        chosen = self if self._fitted == fitted._fitted else fitted
        chosen._checked = weakref.ref(graph)
        return chosen

    def _check_type(self, entry: onnx.ValueInfoProto, array: np.ndarray) -> None:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(entry.type.tensor_type.elem_type)
        if array.dtype != dtype:
            wanted = "text" if dtype.kind == "O" else dtype
            raise DataError(
                f"{self.source}: input {entry.name!r} wants {wanted}, found {array.dtype}"
            )
        if dtype.kind == "O" and not all(
            isinstance(each, str | bytes) for each in array.flat
        ):
            raise DataError(
                f"{self.source}: input {entry.name!r} wants text, found other objects"
            )

    def fixed(self, graph: Graph) -> int:
        """The batch size that a model's inputs are declared with, or 0 where it is free or feeds are whole."""
        return fixed_batch(graph, self._on(graph)._layout)

    def _on(self, graph: Graph) -> Data:
        """This data with a layout that has a model's inputs."""
        known = self._fitted is not None and (
            self._fitted.whole or set(graph.inputs) <= self._fitted.axes.keys()
        )
        return self if known else self.fit(graph)

    def batches(
        self, graph: Graph, size: int = CHUNK, *, labels: bool = False
    ) -> Iterator[Batch]:
        """A model's inputs in batches; a model with a fixed batch size gets that, the rest is left out.

        Whole feeds come as they are. With `labels`, batches hold those too, where the source has them. For a graph
        that takes other inputs than the one it was made from, they are translated.
        """
        data = self._on(graph)
        layout, fixed = data._layout, data.fixed(graph)
        for batch in _rebatched(data.chunks(), layout, fixed or size):
            if not fixed or layout.count(batch) == fixed:
                extra = (LABELS,) if labels and LABELS in batch else ()
                yield graph.intake.read(
                    {name: batch[name] for name in (*graph.inputs, *extra)}
                )

    # -- some of the samples --------------------------------------------------------------

    def head(self, samples: int) -> Data:
        """The first samples alone."""
        if isinstance(self._from, IndexedSource):
            return self._part(np.arange(min(samples, self.samples)))
        return self._with(lambda: self._first(samples))

    def _first(self, samples: int) -> Iterator[Batch]:
        layout = self._layout
        for chunk in self.chunks():
            count = layout.count(chunk)
            yield chunk if count <= samples else layout.take(chunk, slice(0, samples))
            samples -= count
            if samples <= 0:
                return

    def where(self, wanted: Callable[[np.ndarray], np.ndarray]) -> Data:
        """The samples of some numbers: `wanted` gets numbers, and says True for those to keep."""
        if isinstance(self._from, IndexedSource):
            numbers = np.arange(self.samples)
            return self._part(numbers[wanted(numbers)])
        return self._with(lambda: self._chosen(wanted))

    def _chosen(self, wanted: Callable[[np.ndarray], np.ndarray]) -> Iterator[Batch]:
        start = 0
        for chunk in self.chunks():
            count = self._layout.count(chunk)
            mine = wanted(np.arange(start, start + count))
            start += count
            if mine.all():
                yield chunk
            elif mine.any():
                yield self._layout.take(chunk, mine)

    def spread(self, count: int) -> Data:
        """So many samples at most, from the first to the last at even distances: data may be sorted."""
        if self.samples <= count:
            return self
        chosen = np.linspace(0, self.samples - 1, count).round().astype(int)
        return self.where(lambda numbers: np.isin(numbers, chosen))

    def draw(self, count: int, seed: int) -> Data:
        """So many samples at most, drawn without replacement, in their order.

        They are held in memory, unless the source can read them in any order.
        """
        if self.samples <= count:
            return self
        numbers = drawn(self.samples, count, seed)
        if isinstance(self._from, IndexedSource):
            return self._part(numbers)
        mask = np.zeros(self.samples, bool)
        mask[numbers] = True
        parts = list(self._chosen(lambda asked: mask[asked]))
        return self._with(lambda: parts)

    def in_memory(self) -> SampleTable:
        """All samples at once. Raises DataError where batches differ in what samples share."""
        parts = tuple(self.chunks())
        return SampleTable(
            parts if self._layout.whole or not parts else (self._layout.join(parts),),
            self._layout,
        )

    def by_number(self) -> SampleTable | IndexedTable:
        """All samples, to be taken in any order: read where they lie, if they can be, else held in memory."""
        if not isinstance(self._from, IndexedSource):
            return self.in_memory()
        self._from.prepare()
        return IndexedTable(self, self._from, self._layout)

    def masked(self, mask_input: str | None) -> Data:
        """The same samples, with the input that says which positions count; None leaves that as it is."""
        if mask_input is None or mask_input == self.mask_input:
            return self
        result = Data(self._from, self.source, layout=self._fitted, mask_input=mask_input)
        result._checked = self._checked
        return result

    def without_labels(self) -> Data:
        """The inputs alone."""
        if isinstance(self._from, IndexedSource):
            return self._part(np.arange(self.samples), labels=False)
        return self._with(
            lambda: (
                {name: array for name, array in chunk.items() if name != LABELS}
                for chunk in self.chunks()
            )
        )

    def _part(self, numbers: np.ndarray, *, labels: bool = True) -> Data:
        assert isinstance(self._from, IndexedSource)
        return self._with(Part(self._from, numbers, labels))

    def _with(self, read: Callable[[], Iterable[Batch]] | Source) -> Data:
        part = Data(
            read,
            self.source,
            whole=self._layout.whole,
            layout=self._fitted,
            mask_input=self.mask_input,
        )
        part._checked = self._checked
        return part


#: Inputs of a model: arrays by input name (samples along axis 0), a sequence of such batches, or a `Data`.
Samples = Data | Mapping[str, np.ndarray] | Sequence[Mapping[str, np.ndarray]]


def drawn(samples: int, count: int, seed: int) -> np.ndarray:
    """Numbers of at most `count` of so many samples, drawn without replacement, ascending."""
    return np.sort(np.random.default_rng(seed).permutation(samples)[:count])


def _text(array: np.ndarray) -> np.ndarray:
    """Text as ONNX Runtime hands it over: Python strings."""
    return array.astype(object) if array.dtype.kind == "U" else array


def _bytes(array: np.ndarray) -> bytes:
    if array.dtype.kind != "O":
        return np.ascontiguousarray(array).tobytes()
    texts = [each if isinstance(each, bytes) else str(each).encode() for each in array.flat]
    return b"".join(b"%d:%s" % (len(text), text) for text in texts)


def _rebatched(chunks: Iterable[Batch], layout: Layout, size: int) -> Iterator[Batch]:
    """The same samples in batches of `size`, the last one maybe smaller; whole feeds as they are.

    Samples with different shared inputs, or of other shapes, do not come into one batch.
    """
    rest: Batch | None = None
    for chunk in chunks:
        if layout.whole:
            yield chunk
            continue
        if rest is not None and not layout.alike((rest, chunk)):
            yield rest
            rest = None
        joined = chunk if rest is None else layout.join((rest, chunk))
        count = layout.count(joined)
        for start in range(0, count - size + 1, size):
            yield layout.take(joined, slice(start, start + size))
        done = count - count % size
        rest = layout.take(joined, slice(done, None)) if done < count else None
    if rest is not None:
        yield rest


def read_data(text: str) -> Data:
    """Data from an `.npz` file, a folder of `.npy` files, a folder of `.npz` files, or `file.py:function`.

    Arrays are named after the model's inputs. In a folder, each `.npy` file is one array of all samples, and each
    `.npz` file a whole feed. A function yields dicts of arrays. All are read as streams, never as a whole.

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
    return Data(sources.Archive(path), text)


def _folder(path: Path) -> Source:
    arrays = {file.stem: file for file in sorted(path.glob("*.npy"))}
    feeds = sorted(path.glob("*.npz"))
    if arrays and feeds:
        raise DataError(
            f"{path}: holds .npy files (an array each) and .npz files (a whole feed each); put one kind there"
        )
    if not arrays and not feeds:
        raise DataError(
            f"{path}: holds no .npy file; name them after the model's inputs (or .npz files, a feed each)"
        )
    return sources.FeedFolder(feeds) if feeds else sources.Folder(path, arrays)


def _function(text: str) -> Callable[[], Iterator[Batch]]:
    try:
        function: Any = plugins.function(text)
    except PluginError as error:
        raise DataError(f"{text}: {error}") from error

    def read() -> Iterator[Batch]:
        try:
            yield from function()
        except Exception as error:
            raise DataError(f"{text}: {type(error).__name__}: {error}") from error

    return read

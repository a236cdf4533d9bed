"""Along which axis of each input samples lie, and which inputs all samples share.

It is read off the model: the first input whose axis 0 is free gives the name of that axis, and other inputs have
samples where they use the name, or where their size is the number of samples. An input without such an axis is shared
by all samples, if its size does not depend on anything else. Where it does, or where an input holds indices into what
the samples are (edges of a graph network), arrays belong together: they are one whole feed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from prunegraph.errors import DataError
from prunegraph.graph.indices import ranges
from prunegraph.graph.model import Graph
from prunegraph.graph.shapes import shape_info
from prunegraph.operators import info

#: The name under which a source holds targets; they are no input.
LABELS = "labels"

Batch = dict[str, np.ndarray]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """How arrays hold samples.

    `axes` gives each array's axis of samples, None where all samples share it. Arrays of `whole` feeds are
    run as they are: never cut, never joined.
    """

    axes: Mapping[str, int | None]
    whole: bool = False

    def count(self, batch: Mapping[str, np.ndarray]) -> int:
        """Number of samples in a batch; a whole feed is one."""
        if self.whole:
            return 1
        return next(
            batch[name].shape[axis]
            for name, axis in self.axes.items()
            if axis is not None and name in batch
        )

    def take(self, batch: Mapping[str, np.ndarray], chosen: slice | np.ndarray) -> Batch:
        """Some of the samples, by number. Only for what is not a whole feed."""
        return {
            name: self._along(array, self.axes[name], chosen)
            for name, array in batch.items()
        }

    def _along(
        self, array: np.ndarray, axis: int | None, chosen: slice | np.ndarray
    ) -> np.ndarray:
        if axis is None:
            return array
        where: tuple[Any, ...] = (slice(None),) * axis
        return array[(*where, chosen)]

    def join(self, parts: Sequence[Mapping[str, np.ndarray]]) -> Batch:
        """Samples of several batches in one. Raises DataError for batches that differ in what samples share."""
        if len(parts) == 1:
            return dict(parts[0])
        if not self.alike(parts):
            raise DataError(
                "batches that differ in what all samples share cannot be joined"
            )
        return {
            name: parts[0][name]
            if axis is None
            else np.concatenate([part[name] for part in parts], axis)
            for name, axis in self.axes.items()
            if name in parts[0]
        }

    def alike(self, parts: Sequence[Mapping[str, np.ndarray]]) -> bool:
        """Tell whether batches can be joined: all has the same shape and what samples share is the same."""
        first = parts[0]
        return all(
            self._fits(name, first[name], part[name])
            for part in parts[1:]
            for name in first
        )

    def _fits(self, name: str, one: np.ndarray, other: np.ndarray) -> bool:
        axis = self.axes[name]
        if axis is None:
            return bool(np.array_equal(one, other))
        return (
            one.shape[:axis] + one.shape[axis + 1 :]
            == other.shape[:axis] + other.shape[axis + 1 :]
        )

    def check(self, batch: Mapping[str, np.ndarray], source: str) -> None:
        """Raise DataError where arrays of a batch do not hold the same number of samples, at least one."""
        if self.whole:
            return
        lengths = {
            name: array.shape[axis] if axis < array.ndim else 0
            for name, array in batch.items()
            if (axis := self.axes[name]) is not None
        }
        if len(set(lengths.values())) != 1 or 0 in lengths.values():
            raise DataError(
                _lengths(source, lengths, {name: self.axes[name] or 0 for name in lengths})
            )


def _lengths(source: str, lengths: Mapping[str, int], axes: Mapping[str, int]) -> str:
    listed = ", ".join(
        f"{name!r} {size}" + (f" (axis {axes[name]})" if axes[name] else "")
        for name, size in sorted(lengths.items())
    )
    return (
        f"{source}: needs arrays of one length along axis 0, or along the axis of samples, "
        f"found lengths {sorted(set(lengths.values()))}: {listed}"
    )


@dataclass(frozen=True)
class DeclaredShape:
    """Sizes of an input as the model declares them: 0 where free. `names` are those of free axes, "" without one."""

    sizes: Shape
    names: tuple[str, ...] = field(default=())

    @property
    def rank(self) -> int:
        return len(self.sizes)


def declared(graph: Graph) -> dict[str, DeclaredShape | None]:
    """Say what a model says of its inputs' shapes, in its order; None for one of which it says nothing.

    A graph that reads inputs made for another one says of them what that one does.
    """
    entries = {entry.name: entry.type.tensor_type for entry in graph.model.graph.input}
    result: dict[str, DeclaredShape | None] = {}
    for name in graph.inputs:
        tensor = entries[name]
        dims = list(tensor.shape.dim)
        sizes = graph.intake.declared(name, tuple(max(d.dim_value, 0) for d in dims))
        free = tuple(d.dim_param if d.dim_value <= 0 else "" for d in dims)
        result[name] = DeclaredShape(sizes, free) if tensor.HasField("shape") else None
    return result


def lead(graph: Graph) -> tuple[str, int] | None:
    """The input that says where samples lie, and its axis; None for a model all of whose inputs are scalars."""
    known = {
        name: each
        for name, each in declared(graph).items()
        if each is not None and each.rank
    }
    sequences = {
        node.inputs[0]
        for node in graph.nodes
        if info(node).is_recurrent and not node.attributes.get("layout", 0)
    }
    axes = {
        name: 1 if name in sequences and each.rank == 3 else 0
        for name, each in known.items()
    }
    free = (name for name, axis in axes.items() if not known[name].sizes[axis])
    first = next(free, None) or next(iter(known), None)
    return (
        None
        if first is None
        else (first, axes[first] if not known[first].sizes[axes[first]] else 0)
    )


def fixed_batch(graph: Graph, layout: Layout | None = None) -> int:
    """The number of samples a model's inputs are declared with, or 0 where it is free.

    With the layout of some data every input that has samples there counts, else the one that leads.
    """
    known = declared(graph)
    if layout is None:
        first = lead(graph)
        axes = {} if first is None else {first[0]: first[1]}
    else:
        axes = (
            {}
            if layout.whole
            else {n: a for n, a in layout.axes.items() if a is not None and n in known}
        )
    sizes = (
        each.sizes[axis]
        for name, axis in axes.items()
        if (each := known[name]) is not None and axis < each.rank
    )
    return max(sizes, default=0)


def layout_of(
    graph: Graph, shapes: Mapping[str, Shape], source: str, whole: bool = False
) -> Layout:
    """How arrays of these shapes hold samples of a model.

    Args:
        graph: the model.
        shapes: of the arrays, by name; every input of the model is among them.
        source: what to call the data in messages.
        whole: whether the arrays are a whole feed anyway.

    Raises:
        DataError: an array has another shape than its input.
    """
    known = declared(graph)
    first = _lead_in(known, lead(graph), shapes)
    if whole or first is None or first[1] >= len(shapes[first[0]]):
        layout = Layout({}, whole=True)
    else:
        layout = _sliced(graph, known, shapes, first)
    for name, each in known.items():
        axis = None if layout.whole else layout.axes[name]
        if each is not None and not _has_shape(shapes[name], each, axis):
            wanted = [n or s or "?" for n, s in zip(each.names, each.sizes, strict=True)]
            raise DataError(
                f"{source}: input {name!r} wants shape [{', '.join(map(str, wanted))}], found {list(shapes[name])}"
            )
    if LABELS in shapes and LABELS not in known:
        layout = Layout({**layout.axes, LABELS: None if layout.whole else 0}, layout.whole)
    return layout


def _lead_in(
    known: Mapping[str, DeclaredShape | None],
    first: tuple[str, int] | None,
    shapes: Mapping[str, Shape],
) -> tuple[str, int] | None:
    """The lead; where its size is fixed, the first axis of which there are more than one batch, if there is one."""
    each = known[first[0]] if first is not None else None
    if first is None or each is None or not each.sizes[first[1]]:
        return first
    longer = (
        (axis, name)
        for name, other in known.items()
        if other is not None
        for axis, (size, want) in enumerate(zip(shapes[name], other.sizes, strict=False))
        if want and size != want
    )
    axis, name = min(longer, key=lambda place: place[0], default=(first[1], first[0]))
    return name, axis


def _has_shape(shape: Shape, wanted: DeclaredShape, samples: int | None) -> bool:
    if len(shape) != wanted.rank:
        return False
    pairs = enumerate(zip(shape, wanted.sizes, strict=True))
    return all(axis == samples or not want or size == want for axis, (size, want) in pairs)


def _sliced(
    graph: Graph,
    known: Mapping[str, DeclaredShape | None],
    shapes: Mapping[str, Shape],
    first: tuple[str, int],
) -> Layout:
    name, axis = first
    count = shapes[name][axis]
    main = known[name]
    assert main is not None
    symbol, fixed = main.names[axis], main.sizes[axis]
    # Sizes that other axes of inputs with samples have: no samples lie along an axis that is called so.
    others = {n for i, n in enumerate(main.names) if i != axis and n} - {symbol}
    axes: dict[str, int | None] = {name: axis}
    for other, each in known.items():
        if other not in axes:
            axes[other] = _samples_axis(shapes[other], each, symbol, fixed, count, others)
    taken = {
        n
        for other, a in axes.items()
        if a is not None and (each := known[other])
        for n in each.names
        if n
    }
    for other, each in known.items():
        if (
            axes[other] is None
            and each is not None
            and not _is_shared(shapes[other], each, taken)
        ):
            return Layout({}, whole=True)
    return Layout({}, whole=True) if _points_at_samples(graph, axes) else Layout(axes)


def _samples_axis(
    shape: Shape,
    each: DeclaredShape | None,
    symbol: str,
    fixed: int,
    count: int,
    others: set[str],
) -> int | None:
    """Where an input has samples: an axis with their name, else one of which there are as many as samples."""
    if each is None:
        return 0 if shape and shape[0] == count else None
    if symbol and symbol in each.names:
        return each.names.index(symbol)
    for axis, size in enumerate(shape[: each.rank]):
        name, want = each.names[axis], each.sizes[axis]
        if size != count or (name and name in others):
            continue
        if not want or (want == fixed and size >= want) or (axis == 0 and size != want):
            return axis
    return None


def _is_shared(shape: Shape, each: DeclaredShape, taken: set[str]) -> bool:
    """Tell whether an input without samples is one for all: nothing about its size is free but what others have too."""
    return all(
        want or size == 1 or (name and name in taken)
        for size, want, name in zip(shape, each.sizes, each.names, strict=False)
    )


def _points_at_samples(graph: Graph, axes: Mapping[str, int | None]) -> bool:
    """Tell whether some input holds indices into an axis that is longer with more samples."""
    sizes = dict(shape_info(graph).sizes)
    known = declared(graph)
    more = {}
    for name, shape in sizes.items():
        axis, each = axes.get(name), known.get(name)
        free = (
            axis is not None
            and each is not None
            and axis < each.rank
            and not each.sizes[axis]
        )
        more[name] = tuple(
            size + 2 if free and at == axis else size for at, size in enumerate(shape)
        )
    if more == sizes:
        return False
    return ranges(graph, sizes) != ranges(graph, more)


def guess(shapes: Mapping[str, Shape], source: str) -> Layout:
    """How arrays hold samples where no model says it: along axis 0, except for scalars and single numbers.

    Raises:
        DataError: arrays have different lengths.
    """
    lengths = {name: shape[0] for name, shape in shapes.items() if shape}
    many = {
        name: size for name, size in lengths.items() if size != 1 or len(shapes[name]) > 1
    } or lengths
    if not shapes.keys() - {LABELS} or len(set(many.values())) > 1 or 0 in many.values():
        raise DataError(_lengths(source, many, dict.fromkeys(many, 0)))
    count = next(iter(many.values()), 0)
    axes = {
        name: 0 if shape and shape[0] == count else None for name, shape in shapes.items()
    }
    return Layout(axes, whole=not many)


def shapes_of(batch: Mapping[str, np.ndarray]) -> dict[str, Shape]:
    """Shapes of arrays by name."""
    return {name: tuple(np.shape(array)) for name, array in batch.items()}


def names_read(graph: Graph, given: Iterable[str]) -> list[str]:
    """Tell which arrays are read for a model: its inputs, and labels where there are any."""
    return [
        *graph.inputs,
        *(name for name in given if name == LABELS and name not in graph.inputs),
    ]

"""Looking at data before they are used: how many, which labels, and what some look like to the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from prunegraph.data.image_input import ImageInput, need_image_input
from prunegraph.data.images import ImageSource
from prunegraph.data.sheet import pixels_of, sheet, stretched
from prunegraph.data.targets import NO_BOX
from prunegraph.data.text import TextSource
from prunegraph.graph.model import Graph
from prunegraph.runtime.data import Data, drawn
from prunegraph.runtime.layout import LABELS, Shape, shapes_of

#: Classes that are listed by name, at most.
LISTED = 20

FORMAT = "prunegraph/data@1"


@dataclass(frozen=True)
class Look:
    """Data that are looked at.

    Args:
        data: fitted to a model.
        graph: the model.
        shapes: of a batch of all samples.
    """

    data: Data
    graph: Graph
    shapes: Mapping[str, Shape]

    @cached_property
    def _images(self) -> ImageSource | None:
        reader = self.data.reader
        return reader if isinstance(reader, ImageSource) else None

    @property
    def _classes(self) -> dict[int, str]:
        names = self._images.listing.classes if self._images is not None else ()
        return dict(enumerate(names))

    def lines(self) -> Iterator[str]:
        """What there is, a line each. All samples are read once."""
        yield f"{self.data.samples:,} {'feeds' if self.data.is_whole else 'samples'}"
        first = next(iter(self.data.chunks()))
        for name in self.graph.inputs:
            values = first[name]
            shape = ", ".join(map(str, self.shapes[name]))
            limits = ""
            if values.dtype.kind in "fui" and values.size:
                limits = f", first values from {values.min():.4g} to {values.max():.4g}"
            yield f"input {name}: [{shape}] of {values.dtype}{limits}"
        if self._images is not None:
            yield f"preprocessing: {self._images.chain}"
        if isinstance(self.data.reader, TextSource):
            yield f"preprocessing: {self.data.reader.options}"
        yield from self._label_lines()

    def to_json(self) -> dict[str, Any]:
        """The same in the form `prunegraph/data@1`."""
        reader = self.data.reader
        first = next(iter(self.data.chunks()))
        chain: object = reader.chain if isinstance(reader, ImageSource) else None
        if isinstance(reader, TextSource):
            chain = reader.options
        labels = self.data.labels
        return {
            "format": FORMAT,
            "samples": self.data.samples,
            "inputs": [
                {
                    "name": name,
                    "shape": [
                        None if size is None else int(size) for size in self.shapes[name]
                    ],
                    "dtype": str(first[name].dtype),
                }
                for name in self.graph.inputs
            ],
            "labels": None
            if labels is None
            else {"shape": list(labels.shape), "dtype": str(labels.dtype)},
            "preprocessing": None if chain is None else str(chain),
        }

    def _label_lines(self) -> Iterator[str]:
        labels = self.data.labels
        if labels is None:
            yield "no labels"
        elif labels.ndim == 3 and self._images is not None:
            yield from self._box_lines(labels)
        elif labels.ndim == 1 and labels.dtype.kind in "iu":
            yield f"labels: {self._counted(labels)}"
        else:
            yield f"labels: [{', '.join(map(str, labels.shape))}] of {labels.dtype}"

    def _box_lines(self, labels: np.ndarray) -> Iterator[str]:
        kinds = labels[:, :, 0]
        counts = (kinds != NO_BOX).sum(1)
        yield (
            f"boxes: {counts.sum():,}, at most {counts.max()} in an image, "
            f"{int((counts == 0).sum()):,} images without"
        )
        yield f"classes: {self._counted(kinds[kinds != NO_BOX].astype(np.int64))}"

    def _counted(self, numbers: np.ndarray) -> str:
        """How many there are of each class, the first ones by name."""
        kinds, counts = np.unique(numbers, return_counts=True)
        names = self._classes
        listed = [
            f"{kind} {names[kind]} ({count:,})"
            if names.get(kind, str(kind)) != str(kind)
            else f"{kind} ({count:,})"
            for kind, count in zip(kinds.tolist(), counts.tolist(), strict=True)
        ]
        more = f", ... {len(listed)} in all" if len(listed) > LISTED else ""
        return ", ".join(listed[:LISTED]) + more

    def picture(self, samples: int, seed: int) -> bytes:
        """A PNG of some samples, drawn with a seed. Raises DataError where the model takes no images."""
        target = need_image_input(self.graph, self.data.source)
        drawn = self.data.draw(samples, seed)
        table = drawn.in_memory()
        batch = table.take(np.arange(table.count))
        values = batch[target.name]
        return sheet(
            self._pixels(values, target),
            batch.get(LABELS),
            self._classes,
            self._names(samples, seed),
        )

    def _pixels(self, values: np.ndarray, target: ImageInput) -> np.ndarray:
        if self._images is not None:
            return pixels_of(values, self._images.chain)
        return stretched(values, target)

    def _names(self, samples: int, seed: int) -> list[str]:
        numbers = drawn(self.data.samples, samples, seed)
        if self._images is None:
            return [str(number) for number in numbers]
        return [Path(self._images.listing.images[number].name).name for number in numbers]


def look(data: Data, graph: Graph) -> Look:
    """Look at data of a model."""
    shapes = data.reader.shapes() or shapes_of(next(iter(data.chunks())))
    return Look(data, graph, shapes)

"""A few of the user's images, with what both models make of them: classes, boxes, or maps of classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from prunegraph.measuring import detection
from prunegraph.measuring.seen import Seen, has_classes
from prunegraph.options import base_name
from prunegraph.report.class_names import class_names, read_text
from prunegraph.report.png import png
from prunegraph.report.views import (
    SIDE,
    View,
    are_maps,
    box_view,
    map_view,
    marked,
    sure,
)
from prunegraph.runtime.data import LABELS
from prunegraph.runtime.session import run, session

if TYPE_CHECKING:
    from prunegraph.graph.model import Graph
    from prunegraph.pipeline import PruneResult
    from prunegraph.runtime.data import Batch, Data

Array = np.ndarray

#: Images that are shown, classes of each, and the longer side of a picture that nothing is drawn on in pixels.
IMAGES, CLASSES, THUMB = 6, 3, 160

#: What the answers of two models are.
Outputs = tuple[Mapping[str, Array], Mapping[str, Array]]


@dataclass(frozen=True)
class Example:
    """An image and two answers. Pictures are addresses that hold a PNG.

    Args:
        image: the picture of the input.
        size: height and width of the input.
        before: most probable classes of the original with their shares, or none.
        after: the same of the new model.
        views: what each model says, drawn on the picture; None where the answers are classes.
        agreement: share of places of one class, of boxes that both have, of the union of two masks; 1 or 0 for a class.
        is_mask: whether a map says of every place only whether it is in.
        texts: what both models read, of those that read text.
        names: of classes, by number, where the model has them.
    """

    image: str
    size: tuple[int, int]
    before: tuple[tuple[int, float], ...] = ()
    after: tuple[tuple[int, float], ...] = ()
    views: tuple[View, View] | None = None
    agreement: float = 1.0
    is_mask: bool = False
    texts: tuple[str, str] | None = None
    names: Mapping[int, str] = field(default_factory=dict)

    def named(self, index: int) -> str:
        """What a class is called: its name, or its number."""
        return self.names.get(index, str(index))


def examples(
    result: PruneResult, data: Data | None, metric: str | None = None
) -> list[Example]:
    """The first images of the data with the answers of both models.

    None where there are no data, the model does not read one batch of images, nothing tells that its outputs are
    classes, boxes or a map of classes, or its inputs or outputs changed.

    Args:
        result: what was done.
        data: the user's.
        metric: the one that was asked for; of detectors it says how boxes are read (`map50:anchors=...`).
    """
    if result.plan.interface:
        return []
    return side_by_side(result.original, result.model, data, metric)


def side_by_side(
    original: Graph, model: Graph, data: Data | None, metric: str | None = None
) -> list[Example]:
    """The same of two models with the same inputs and outputs."""
    if data is None or len(original.inputs) != 1:
        return []
    few = data.head(IMAGES).fit(original)
    batch = next(few.batches(original, IMAGES, labels=True), None)
    images = _images(batch[original.inputs[0]]) if batch is not None else None
    if batch is None or images is None:
        return []
    outputs = _answers(original, batch), _answers(model, batch)
    if not all(outputs):
        return []
    images, labels = images[:IMAGES], batch.get(LABELS)
    boxes = _boxes(images, batch, outputs, labels, metric)
    if boxes is not None:
        names = class_names(original, classes=data.classes)
        return [replace(each, names=names) for each in boxes]
    before, after = (next(iter(each.values())).astype(np.float64) for each in outputs)
    if before.shape != after.shape or len(before) < len(images):
        return []
    first, second = (read_text(original, each) for each in (before, after))
    if first is not None and second is not None:
        return [
            Example(png(i, SIDE), i.shape[:2], texts=(b, a), agreement=float(b == a))
            for i, b, a in zip(images, first, second, strict=False)
        ]
    if before.ndim == 2 and has_classes(before):
        names = class_names(original, before.shape[1], classes=data.classes)
        return [
            Example(
                png(i, THUMB),
                i.shape[:2],
                _best(b),
                _best(a),
                agreement=float(b.argmax() == a.argmax()),
                names=names,
            )
            for i, b, a in zip(images, before, after, strict=False)
        ]
    if not detection.are_boxes(labels) and are_maps(
        list(outputs[0].values()), images[0].shape[:2]
    ):
        return list(_maps(images, before, after))
    return []


def _answers(graph: Graph, batch: Batch) -> dict[str, Array]:
    """Outputs of a model that are tensors of numbers, by name, in order; none where the first is something else."""
    values = run(session(graph, threads=1), {name: batch[name] for name in graph.inputs})
    numbers = [isinstance(v, np.ndarray) and v.dtype.kind in "fiub" for v in values]
    if not numbers[0]:
        return {}
    named = zip(graph.outputs, values, numbers, strict=True)
    return {name: value for name, value, is_number in named if is_number}


def _boxes(
    images: Sequence[Array],
    batch: Batch,
    outputs: Outputs,
    labels: Array | None,
    metric: str | None,
) -> list[Example] | None:
    """Examples of a detector; None where nothing says that outputs are boxes, or how they are read."""
    size = images[0].shape[:2]
    if metric is not None and base_name(metric) in detection.PRECISIONS:
        read = detection.reader(metric)
    elif (
        detection.are_boxes(labels) and detection.can_decode(outputs[0])
    ) or detection.are_evident(outputs[0], size):
        read = detection.reader("map50")
    else:
        return None
    first, second = (read(Seen(batch, outputs[0], each)) for each in outputs)
    return [
        _box_example(image, sure(before), sure(after))
        for image, before, after in zip(images, first, second, strict=False)
    ]


def _box_example(
    image: Array, before: detection.ImageBoxes, after: detection.ImageBoxes
) -> Example:
    count = max(len(before[0]), len(after[0]))
    return Example(
        png(image, SIDE),
        image.shape[:2],
        views=(box_view(before), box_view(after)),
        agreement=detection.matches(before, after) / count if count else 1.0,
    )


def _maps(images: Sequence[Array], before: Array, after: Array) -> Iterator[Example]:
    is_mask = before.shape[1] == 1
    for image, one, other in zip(images, before, after, strict=False):
        first, second = marked(one), marked(other)
        yield Example(
            png(image, SIDE),
            image.shape[:2],
            views=(map_view(first, is_mask), map_view(second, is_mask)),
            agreement=_overlap(first, second)
            if is_mask
            else float((first == second).mean()),
            is_mask=is_mask,
        )


def _overlap(first: Array, second: Array) -> float:
    """Intersection over union of what is in; 1 where nothing is."""
    both, either = (first & second).sum(), (first | second).sum()
    return float(both / either) if either else 1.0


def _best(scores: Array) -> tuple[tuple[int, float], ...]:
    """The most probable classes with their shares, by a softmax unless scores are shares already."""
    shares = scores
    if scores.min() < 0 or abs(scores.sum() - 1) > 1e-3:
        powers = np.exp(scores - scores.max())
        shares = powers / powers.sum()
    order = np.argsort(-shares, kind="stable")[:CLASSES]
    return tuple((int(index), float(shares[index])) for index in order)


def _images(values: Array) -> list[Array] | None:
    """Images [h, w, 1 or 3] of 8 bits, stretched from their least to their largest value; None for no images."""
    if values.ndim != 4 or values.shape[0] == 0:
        return None
    if values.shape[1] in (1, 3):
        values = values.transpose(0, 2, 3, 1)
    if values.shape[3] not in (1, 3) or min(values.shape[1:3]) < 8:
        return None
    return [_stretched(np.asarray(each, np.float64)) for each in values]


def _stretched(image: Array) -> Array:
    low, high = image.min(), image.max()
    scaled = (image - low) / (high - low) if high > low else np.zeros_like(image)
    return (255 * scaled).round().astype(np.uint8)

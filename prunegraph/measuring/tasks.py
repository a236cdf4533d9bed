"""Metrics of tasks: classes that are rare, segmentation, text, embeddings."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from prunegraph.errors import DataError
from prunegraph.measuring.seen import (
    Array,
    Seen,
    are_probabilities,
    log_probabilities,
    scores,
)
from prunegraph.runtime.data import LABELS

#: Cells with such a label count for nothing: PyTorch's, and that of segmentation data.
IGNORED = (-100, 255)

#: The class that separates letters in connectionist temporal classification.
BLANK = 0


def labels_of(seen: Seen, metric: str) -> Array:
    """Labels of a batch. Raises DataError where there are none."""
    if seen.labels is None:
        raise DataError(
            f"metric {metric!r} needs labels: the data have no array {LABELS!r}"
        )
    return seen.labels


def cosine(batches: Iterable[Seen]) -> float:
    """Mean cosine of each sample's outputs with the original's; the mean over outputs that are floating point."""
    total: dict[str, float] = {}
    count: dict[str, int] = {}
    for seen in batches:
        for name, expected in seen.expected.items():
            if expected.dtype.kind != "f" or not expected.size:
                continue
            actual = seen.actual[name]
            if actual.shape != expected.shape:
                raise DataError(
                    f"metric 'cosine': output {name!r} has shape {list(actual.shape)}, the original's "
                    f"{list(expected.shape)}"
                )
            a, b = (
                v.reshape(len(v) if v.ndim else 1, -1).astype(np.float64)
                for v in (expected, actual)
            )
            size = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
            same = np.where(size > 0, (a * b).sum(1) / np.where(size > 0, size, 1), 0.0)
            total[name] = total.get(name, 0.0) + float(same.sum())
            count[name] = count.get(name, 0) + len(same)
    if not total:
        raise DataError("metric 'cosine' needs an output in floating point")
    return float(np.mean([total[name] / count[name] for name in total]))


def f1(batches: Iterable[Seen]) -> float:
    """F1 of each class in percent, the mean over classes that are in labels or predictions.

    Labels are class numbers, or 0 and 1 of the output's shape where several classes may hold (a logit above 0, or a
    probability above one half, says yes).
    """
    right: Array | None = None
    said = wanted = right
    for seen in batches:
        output, labels = scores(seen.actual, "f1"), labels_of(seen, "f1")
        mine, theirs = _marks(output, labels)
        counts = (mine & theirs).sum(0), mine.sum(0), theirs.sum(0)
        if right is None or said is None or wanted is None:
            right, said, wanted = counts
        else:
            right, said, wanted = right + counts[0], said + counts[1], wanted + counts[2]
    if right is None or said is None or wanted is None or not (said + wanted).any():
        raise DataError("metric 'f1' needs samples with a class")
    there = said + wanted > 0
    return 100.0 * float((2 * right[there] / (said + wanted)[there]).mean())


def _marks(output: Array, labels: Array) -> tuple[Array, Array]:
    """Which classes are said, and which hold [cells, classes]. Raises DataError."""
    classes = output.shape[-1]
    if labels.shape == output.shape:
        known = bool(((output >= 0) & (output <= 1)).all())
        said = output > (0.5 if known else 0)
        return said.reshape(-1, classes), (labels > 0.5).reshape(-1, classes)
    if labels.shape != output.shape[:-1]:
        raise DataError(
            f"metric 'f1' needs class numbers, or 0 and 1 for each class: labels have shape {list(labels.shape)}, the "
            f"output {list(output.shape)}"
        )
    named = labels.reshape(-1)
    counted = ~np.isin(named, IGNORED[:1])
    numbers = np.arange(classes)
    said = output.argmax(-1).reshape(-1)[counted, None] == numbers
    return said, named[counted, None] == numbers


def mean_overlap(batches: Iterable[Seen]) -> float:
    """Intersection over union of each class's pixels in percent, the mean over classes that are there (mIoU)."""
    table: Array | None = None
    for seen in batches:
        output, labels = next(iter(seen.actual.values())), labels_of(seen, "miou")
        if output.ndim < 3 or output.dtype.kind != "f":
            raise DataError(
                f"metric 'miou' needs scores [samples, classes, height, width], the first output has shape "
                f"{list(output.shape)}"
            )
        axis = next(
            (
                each
                for each in (1, output.ndim - 1)
                if labels.shape == output.shape[:each] + output.shape[each + 1 :]
            ),
            None,
        )
        if axis is None:
            raise DataError(
                f"metric 'miou' needs class numbers of the output's shape {list(output.shape)} without the axis of the "
                f"classes; labels have shape {list(labels.shape)}"
            )
        classes = output.shape[axis]
        said, named = output.argmax(axis).reshape(-1), labels.reshape(-1).astype(np.int64)
        # 255 is a class where there are so many.
        counted = (named >= 0) & ~((named == IGNORED[1]) & (classes <= IGNORED[1]))
        if (named[counted] >= classes).any():
            raise DataError(
                f"labels run to {named[counted].max()}, the output has {classes} classes, 0 to {classes - 1}"
            )
        cells = np.bincount(
            named[counted] * classes + said[counted], minlength=classes**2
        ).reshape(classes, classes)
        table = cells if table is None else table + cells
    if table is None or not table.any():
        raise DataError("metric 'miou' needs pixels with a class")
    both = np.diag(table)
    either = table.sum(0) + table.sum(1) - both
    return 100.0 * float((both[either > 0] / either[either > 0]).mean())


def perplexity(batches: Iterable[Seen]) -> float:
    """Exponential of the mean negative logarithm of what comes: the labels, else the next of the input's tokens."""
    total, count = 0.0, 0
    for seen in batches:
        output = scores(seen.actual, "perplexity").astype(np.float64)
        labels = seen.labels
        if labels is None:
            labels, output = _next(seen, output), output[:, :-1]
        if labels.shape != output.shape[:-1]:
            raise DataError(
                f"metric 'perplexity' needs one label for each row of scores: labels have shape "
                f"{list(labels.shape)}, the output {list(output.shape)}"
            )
        rows = log_probabilities(output, are_probabilities(output)).reshape(
            -1, output.shape[-1]
        )
        named = labels.reshape(-1).astype(np.int64)
        counted = named != IGNORED[0]
        if ((named[counted] < 0) | (named[counted] >= rows.shape[1])).any():
            raise DataError(
                f"labels run to {named.max()}, the output has {rows.shape[1]} classes"
            )
        total -= float(rows[counted, named[counted]].sum())
        count += int(counted.sum())
    if not count:
        raise DataError("metric 'perplexity' needs samples with labels")
    return float(np.exp(min(total / count, 700.0)))


def _next(seen: Seen, output: Array) -> Array:
    """Tokens that come behind each position but the last. Raises DataError."""
    able = [
        value
        for value in seen.inputs.values()
        if value.dtype.kind in "iu" and value.shape == output.shape[:-1] and value.ndim == 2
    ]
    tokens = [value for value in able if value.max(initial=0) > 1] or able
    if len(tokens) != 1:
        raise DataError(
            "metric 'perplexity' needs labels, or one input of tokens [samples, positions]"
        )
    return tokens[0][:, 1:]


def word_accuracy(batches: Iterable[Seen]) -> float:
    """Percent of words that are read without a mistake, letters after connectionist temporal classification.

    The most likely class of every position, repetitions joined, class 0 left out. A word of the labels
    [samples, length] is filled up with numbers below 1; without labels words are those of the original.
    """
    same = count = 0
    for seen in batches:
        mine = _words(scores(seen.actual, "word_accuracy"))
        if seen.labels is not None:
            if seen.labels.ndim != 2 or seen.labels.dtype.kind not in "iu":
                raise DataError(
                    f"metric 'word_accuracy' needs labels [samples, length] of class numbers, they have shape "
                    f"{list(seen.labels.shape)}"
                )
            theirs = [list(map(int, row[row > BLANK])) for row in seen.labels]
        else:
            theirs = _words(scores(seen.expected, "word_accuracy"))
        same += sum(a == b for a, b in zip(mine, theirs, strict=True))
        count += len(mine)
    return 100.0 * same / count


def _words(output: Array) -> list[list[int]]:
    if output.ndim != 3:
        raise DataError(
            f"metric 'word_accuracy' needs scores [samples, positions, classes], the output has shape "
            f"{list(output.shape)}"
        )
    result: list[list[int]] = []
    for row in output.argmax(-1):
        kept = row[np.r_[True, row[1:] != row[:-1]]]
        result.append(list(map(int, kept[kept != BLANK])))
    return result

"""Mean average precision of detectors, counted by pycocotools from the boxes in a network's outputs.

Labels are float32 [samples, most, 5]: class, left, top, right, bottom in pixels of the input, rows of class -1 padding.
Outputs are one of

* [n, 4 + classes, places]: centre, width and height in pixels, a probability for each class (YOLO v8 and later);
* [n, places, 5 + classes]: the same with a probability of an object behind the box (YOLO v5, v7);
* [n, boxes, 6]: left, top, right, bottom, score, class, without overlaps already;
* [n, boxes, 4] and [n, boxes, classes]: corners and scores;
* with `anchors` or `priors` given, the heads of `prunegraph.measuring.heads`.

Source: the rules of COCO (Lin et al. 2014), and greedy suppression of overlaps within a class.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from prunegraph.errors import DataError, MissingExtraError, OptionError
from prunegraph.measuring import heads
from prunegraph.measuring.seen import Array, Seen
from prunegraph.options import base_name, bound
from prunegraph.registry import Registry
from prunegraph.runtime.data import LABELS

#: Boxes with a lower score are left out, and those that overlap a better one of their class by more than this.
SCORE, OVERLAP = 1e-3, 0.7

#: Boxes of an image: before overlaps are suppressed, and those that count.
BEFORE, MOST = 3000, 100

#: Boxes with a score of less are not shown to anybody.
SHOWN = 0.25

#: How far scores may be beyond 0 and 1, and the share of boxes that must have sides and lie in the image.
SLACK, MOSTLY = 1e-3, 0.95

#: Overlap of two boxes that are the same.
SAME = 0.5

#: Numbers of a box of labels.
COLUMNS = 5

#: Numbers of a box without overlaps.
FINISHED = 6


def are_boxes(labels: Array | None) -> bool:
    """Tell whether labels are boxes."""
    return labels is not None and labels.ndim == 3 and labels.shape[2] == COLUMNS


def can_decode(outputs: Mapping[str, Array]) -> bool:
    """Tell whether outputs are boxes in a form that is known."""
    return _form(list(outputs.values())) != ""


#: Metrics that have options: `map50:anchors=WxH+WxH/WxH`, `map:priors=FILE.npy`.
PRECISIONS: Registry[Callable[..., float]] = Registry("metric", parameters=("batches",))


@PRECISIONS.register("map")
def mean_precision(
    batches: Iterable[Seen], *, anchors: str = "", priors: str = ""
) -> float:
    """Average precision in percent, the mean over classes and overlaps of 0.5 to 0.95."""
    return _evaluated(batches, "map", _head("map", anchors, priors))[0]


@PRECISIONS.register("map50")
def precision_at_half(
    batches: Iterable[Seen], *, anchors: str = "", priors: str = ""
) -> float:
    """Average precision in percent at an overlap of 0.5, the mean over classes."""
    return _evaluated(batches, "map50", _head("map50", anchors, priors))[1]


#: Corners [n, places, 4] and scores [n, places, classes] from what a head gives.
Head = Callable[[Seen], tuple[Array, Array]]


def _head(metric: str, anchors: str, priors: str) -> Head | None:
    """How boxes are read from outputs that are none; None for outputs that are. Raises OptionError, DataError."""
    if anchors and priors:
        raise OptionError(f"metric {metric!r}: a head has anchors or priors, not both")
    if anchors:
        sizes = heads.anchor_sizes(anchors, f"metric {metric!r}")
        return lambda seen: heads.from_anchors(
            list(seen.actual.values()), sizes, _image_size(seen, metric)
        )
    if priors:
        boxes = heads.read_priors(priors)
        return lambda seen: heads.from_priors(list(seen.actual.values()), boxes)
    return None


def _image_size(seen: Seen, metric: str) -> tuple[int, int]:
    """Height and width of a batch's images, with channels in front. Raises DataError."""
    images = [v for name, v in seen.inputs.items() if name != LABELS and v.ndim == 4]
    if len(images) != 1:
        raise DataError(
            f"metric {metric!r} needs one input of images [samples, channels, height, width] for its anchors"
        )
    return int(images[0].shape[2]), int(images[0].shape[3])


def _form(outputs: list[Array]) -> str:
    first = outputs[0]
    if first.ndim != 3 or first.dtype.kind != "f":
        return ""
    if len(outputs) >= 2:
        other = outputs[1]
        able = other.ndim == 3 and other.shape[:2] == first.shape[:2]
        if first.shape[2] == 4 and able:
            return "corners and scores"
        return "scores and corners" if able and other.shape[2] == 4 else ""
    if first.shape[2] == FINISHED and first.shape[1] <= BEFORE:
        return "finished"
    if first.shape[1] < first.shape[2]:
        return "places last" if first.shape[1] > 4 else ""
    return "places first" if first.shape[2] > COLUMNS else ""


#: Corners [boxes, 4], scores and classes of one image, the best first.
ImageBoxes = tuple[Array, Array, Array]


def decoded(outputs: Mapping[str, Array], metric: str = "map") -> list[ImageBoxes]:
    """Corners [boxes, 4], scores and classes of every sample, the best first. Raises DataError."""
    values = list(outputs.values())
    form = _form(values)
    if not form:
        raise DataError(
            f"metric {metric!r} does not know boxes in outputs of the shapes {[list(v.shape) for v in values]}: say "
            f"{metric}:anchors=WxH+WxH/WxH+WxH (YOLO v3) or {metric}:priors=FILE.npy (SSD), or give a function of "
            "yours, --metric file.py:function"
        )
    if form == "finished":
        first = values[0].astype(np.float64)
        return [_best(row[:, :4], row[:, 4], row[:, 5].astype(int)) for row in first]
    return [
        _suppressed(b, s) for b, s in zip(*_boxes_and_scores(values, form), strict=True)
    ]


def _boxes_and_scores(values: Sequence[Array], form: str) -> tuple[Array, Array]:
    """Corners [n, places, 4] and scores [n, places, classes], whose form is not "finished"."""
    first = values[0].astype(np.float64)
    if form == "corners and scores":
        return first, values[1]
    if form == "scores and corners":
        return values[1].astype(np.float64), values[0]
    if form == "places last":
        return _corners(first[:, :4].swapaxes(1, 2)), first[:, 4:].swapaxes(1, 2)
    return _corners(first[..., :4]), first[..., 4:5] * first[..., 5:]


def are_evident(outputs: Mapping[str, Array], image: tuple[int, int]) -> bool:
    """Tell whether outputs cannot well be anything but boxes: their form, their scores, where the boxes are.

    Args:
        outputs: of a model that is as good as it was, by name.
        image: height and width of its images.

    Scores are shares. Boxes that count have a height and a width in pixels, and their centres lie in the image. Where
    no box has a score of `SHOWN`, nothing is evident.
    """
    values = list(outputs.values())
    form = _form(values)
    if not form or not all(np.isfinite(v).all() for v in values[:2]):
        return False
    if form == "finished":
        rows = values[0].astype(np.float64)
        boxes, scores = rows[..., :4], rows[..., 4:5]
        if (rows[..., 5] % 1).any():
            return False
    else:
        boxes, scores = _boxes_and_scores(values, form)
    if not scores.size or scores.min() < -SLACK or scores.max() > 1 + SLACK:
        return False
    counted = boxes[scores.max(-1) >= SHOWN]
    sides = counted[:, 2:] - counted[:, :2]
    centres = (counted[:, 2:] + counted[:, :2]) / 2
    bounds = np.array([image[1], image[0]])
    return bool(
        len(counted)
        and (sides >= 1).mean() > MOSTLY
        and ((centres >= 0) & (centres <= bounds)).all(1).mean() > MOSTLY
    )


def reader(metric: str) -> Callable[[Seen], list[ImageBoxes]]:
    """What reads the boxes of a batch's outputs, as a metric spelt so does: `map50:anchors=10x13+16x30`.

    Raises:
        UnknownNameError: that is no metric of boxes, or it has no such option.
        OptionError, DataError: its options are none, or their file.
    """
    given = getattr(bound(PRECISIONS, metric), "keywords", {})
    name = base_name(metric)
    return _reader(name, _head(name, given.get("anchors", ""), given.get("priors", "")))


def _reader(metric: str, head: Head | None) -> Callable[[Seen], list[ImageBoxes]]:
    if head is None:
        return lambda seen: decoded(seen.actual, metric)
    return lambda seen: [_suppressed(b, s) for b, s in zip(*head(seen), strict=True)]


def matches(first: ImageBoxes, second: ImageBoxes) -> int:
    """The number of boxes of one image that another model has too: one of that class that overlaps by half."""
    boxes, _, classes = second
    free = np.ones(len(boxes), bool)
    count = 0
    for box, named in zip(first[0], first[2], strict=True):
        overlaps = np.where(free & (classes == named), _overlap(box, boxes), 0.0)
        if len(overlaps) and overlaps.max() >= SAME:
            free[overlaps.argmax()] = False
            count += 1
    return count


def _corners(boxes: Array) -> Array:
    half = boxes[..., 2:] / 2
    return np.concatenate([boxes[..., :2] - half, boxes[..., :2] + half], -1)


def _best(boxes: Array, scores: Array, classes: Array) -> ImageBoxes:
    order = np.argsort(-scores, kind="stable")
    order = order[scores[order] > SCORE][:MOST]
    return boxes[order], scores[order], classes[order]


def _suppressed(boxes: Array, scores: Array) -> ImageBoxes:
    """The best boxes of each class that overlap no better one of it."""
    place, named = np.nonzero(scores > SCORE)
    values = scores[place, named]
    order = np.argsort(-values, kind="stable")[:BEFORE]
    place, named, values = place[order], named[order], values[order]
    corners = boxes[place]
    kept = np.ones(len(place), bool)
    count = 0
    for i in range(len(place)):
        if not kept[i]:
            continue
        count += 1
        if count == MOST:
            kept[i + 1 :] = False
            break
        rest = np.flatnonzero(kept[i + 1 :] & (named[i + 1 :] == named[i])) + i + 1
        kept[rest[_overlap(corners[i], corners[rest]) > OVERLAP]] = False
    return corners[kept], values[kept], named[kept]


def _overlap(box: Array, others: Array) -> Array:
    least, most = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    common = np.clip(most - least, 0, None).prod(1)
    sizes = (box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(1)
    return common / np.maximum(sizes - common, 1e-12)


def _evaluated(
    batches: Iterable[Seen], metric: str, head: Head | None
) -> tuple[float, float]:
    """Average precision over all overlaps and at one half, in percent. Raises DataError, MissingExtraError."""
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise MissingExtraError(f"metric {metric!r}", "pycocotools", "detection") from error
    wanted, results, images = _collected(batches, metric, head)
    if not wanted:
        raise DataError(f"metric {metric!r} needs samples with boxes: the labels have none")
    if not results:
        return 0.0, 0.0
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": [{"id": i} for i in range(1, images + 1)],
            "categories": [{"id": c} for c in sorted({w["category_id"] for w in wanted})],
            "annotations": wanted,
        }
        truth.createIndex()
        judge = COCOeval(truth, truth.loadRes(results), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return 100.0 * float(judge.stats[0]), 100.0 * float(judge.stats[1])


def _collected(
    batches: Iterable[Seen], metric: str, head: Head | None
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], int]:
    """Boxes of labels and of outputs as COCO has them, and the number of images."""
    wanted: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    image = 0
    read = _reader(metric, head)
    for seen in batches:
        labels = seen.labels
        if labels is None or not are_boxes(labels):
            shape = "none" if labels is None else list(labels.shape)
            raise DataError(
                f"metric {metric!r} needs {LABELS!r} [samples, boxes, 5] (class, left, top, right, bottom), "
                f"the data have {shape}"
            )
        for row, (boxes, scores, classes) in zip(labels, read(seen), strict=True):
            image += 1
            for named, *box in row[row[:, 0] >= 0].astype(np.float64).tolist():
                size = (box[2] - box[0], box[3] - box[1])
                wanted.append(
                    {
                        "id": len(wanted) + 1,
                        "image_id": image,
                        "category_id": int(named),
                        "bbox": [box[0], box[1], *size],
                        "area": size[0] * size[1],
                        "iscrowd": 0,
                    }
                )
            for box, score, named in zip(
                boxes.tolist(), scores.tolist(), classes.tolist(), strict=True
            ):
                results.append(
                    {
                        "image_id": image,
                        "category_id": int(named),
                        "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
                        "score": score,
                    }
                )
    return wanted, results, image

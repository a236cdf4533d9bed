"""What a model says of an image, drawn on it: boxes, or a map of classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from prunegraph.measuring.detection import SHOWN, ImageBoxes
from prunegraph.report.png import png

Array = np.ndarray

#: The longer side of a picture that something is drawn on, in pixels.
SIDE = 240

#: Boxes that are drawn, the best first.
BOXES = 20

#: Opacity of what lies on a picture, of 255; from this value on a place of a map with one channel is in.
OPACITY, INSIDE = 150, 0.5

#: Colours of classes in a map, in turn.
PALETTE = np.frombuffer(
    bytes.fromhex(
        "282c34 0b62b0 a8410a 0f766e 8b2f8f 7a5c00 444fbd b3261e 3f7d20 74839a e69f00 009e73"
    ),
    np.uint8,
).reshape(-1, 3)

#: Colours of boxes in the style sheet, from k1 on.
COLORS = 8


@dataclass(frozen=True)
class DrawnBox:
    """A box on a picture, in pixels of the input. `color` is a number of the style sheet."""

    x: float
    y: float
    width: float
    height: float
    named: int
    score: float

    @property
    def color(self) -> int:
        return 1 + self.named % COLORS


@dataclass(frozen=True)
class View:
    """What one model says of an image: boxes, or the address of a picture to lay over it."""

    boxes: tuple[DrawnBox, ...] = ()
    map: str | None = None

    def said(self, names: Mapping[int, str]) -> str:
        """The boxes in words, with the names that classes have; "" for a map."""
        if self.map is not None:
            return ""
        each = (
            f"{names.get(box.named, f'class {box.named}')} ({box.score:.0%})"
            for box in self.boxes
        )
        return ", ".join(each) or "no box"


def sure(boxes: ImageBoxes) -> ImageBoxes:
    """The boxes of an image that are shown: the best ones with a score of `SHOWN` and more."""
    corners, scores, classes = boxes
    kept = np.flatnonzero(scores >= SHOWN)[:BOXES]
    return corners[kept], scores[kept], classes[kept]


def box_view(boxes: ImageBoxes) -> View:
    """Boxes of an image, drawn."""
    corners, scores, classes = boxes
    return View(
        tuple(
            DrawnBox(x, y, right - x, bottom - y, int(named), float(score))
            for (x, y, right, bottom), score, named in zip(
                corners.tolist(), scores, classes, strict=True
            )
        )
    )


def marked(values: Array) -> Array:
    """Classes [h, w] of scores [classes, h, w]; of one channel: 1 where it says yes, else 0."""
    return (values[0] >= INSIDE).astype(np.int64) if len(values) == 1 else values.argmax(0)


def map_view(classes: Array, is_mask: bool) -> View:
    """Classes of every place [h, w], drawn; of a mask, what is outside is not covered."""
    opacity = np.full((*classes.shape, 1), OPACITY, np.uint8)
    if is_mask:
        opacity[classes == 0] = 0
    colors = PALETTE[classes % len(PALETTE)]
    return View(map=png(np.concatenate([colors, opacity], 2), SIDE))


def are_maps(outputs: list[Array], image: tuple[int, int]) -> bool:
    """Tell whether the first output [n, classes or 1, h, w] is a map of classes of images of that height and width.

    It has at least an eighth of the image's sides and at most all of them, other outputs that are maps have its size
    (those of detectors have not), and one channel alone holds shares.
    """
    first = outputs[0]
    others = [each.shape[2:] for each in outputs if each.ndim == 4]
    if first.ndim != 4 or first.dtype.kind != "f" or set(others) != {first.shape[2:]}:
        return False
    if first.shape[1] == 1 and not (first.min() >= 0 and first.max() <= 1):
        return False
    sides = list(zip(first.shape[2:], image, strict=True))
    return all(8 * mine >= whole and mine <= whole and mine >= 8 for mine, whole in sides)

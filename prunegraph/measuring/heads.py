"""Boxes and scores from heads whose outputs are not boxes yet: maps with anchors (YOLO v3), offsets from priors (SSD).

Anchors are spelt `WxH+WxH/WxH+WxH`: width and height in pixels of the input, a group for each map, the finest
first. An anchor's values are x and y (logits of the place in the cell), width and height (logarithms, relative to
the anchor), a logit of there being an object, and logits of the classes.

Priors are [priors, 4]: centre, width and height in pixels. Offsets of centres are in units of the prior's size,
over 0.1, and logarithms of sizes, over 0.2; scores are logits, background first.

Sources: Redmon, Farhadi 2018; Liu et al. 2016 (SSD).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from prunegraph.errors import DataError, OptionError

Array = np.ndarray

#: Width and height of the anchors of each map.
Sizes = tuple[tuple[tuple[float, float], ...], ...]

#: Logarithms of sizes are kept below this.
LARGEST = 8.0

#: What SSD's offsets of centres and of sizes are divided by.
SPREAD = (0.1, 0.1, 0.2, 0.2)

#: Numbers of an anchor before its classes.
BEFORE_CLASSES = 5


def anchor_sizes(text: str, who: str) -> Sizes:
    """Anchors as they are spelt; `who` asks for them. Raises OptionError."""
    try:
        sizes = tuple(
            tuple(
                (float(each.split("x")[0]), float(each.split("x")[1]))
                for each in part.split("+")
            )
            for part in text.split("/")
        )
    except (ValueError, IndexError):
        sizes = ()
    if not sizes or any(min(pair) <= 0 for part in sizes for pair in part):
        raise OptionError(
            f"{who}: anchors are spelt WxH+WxH/WxH+WxH, in pixels, a group for each map; got {text!r}"
        )
    return sizes


def read_priors(path: str) -> Array:
    """Prior boxes of a .npy file, float32 [priors, 4]. Raises DataError."""
    try:
        values = np.load(Path(path), allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a file of prior boxes ({error})") from error
    if values.ndim != 2 or values.shape[1] != 4 or not (values[:, 2:] > 0).all():
        raise DataError(
            f"{path}: prior boxes are [priors, 4], centre, width and height; it holds {list(values.shape)}"
        )
    return np.asarray(values, np.float32)


def from_anchors(
    maps: Sequence[Array], sizes: Sizes, image: tuple[int, int]
) -> tuple[Array, Array]:
    """Corners [n, places, 4] and probabilities [n, places, classes] of all maps.

    Args:
        maps: outputs [n, anchors * (5 + classes), height, width], in any order.
        sizes: of the anchors, the finest map first.
        image: height and width of the input.

    Raises DataError where maps and anchors do not fit.
    """
    finest = sorted(
        (y for y in maps if y.ndim == 4), key=lambda y: -y.shape[2] * y.shape[3]
    )
    widths = {
        y.shape[1] / len(part) - BEFORE_CLASSES
        for y, part in zip(finest, sizes, strict=False)
    }
    fits = len(finest) == len(sizes) and len(widths) == 1
    if not fits or not min(widths) >= 1 or min(widths) % 1:
        raise DataError(
            f"{len(sizes)} groups of anchors need as many maps [samples, anchors * (5 + classes), height, width]; the "
            f"outputs have shapes {[list(y.shape) for y in maps]}"
        )
    parts = [_map(y, part, image) for y, part in zip(finest, sizes, strict=True)]
    return (
        np.concatenate([boxes for boxes, _ in parts], 1),
        np.concatenate([chances for _, chances in parts], 1),
    )


def _map(
    values: Array, anchors: Sequence[tuple[float, float]], image: tuple[int, int]
) -> tuple[Array, Array]:
    """Corners and probabilities of one map."""
    count, _, height, width = values.shape
    rows = values.reshape(count, len(anchors), -1, height, width).transpose(0, 1, 3, 4, 2)
    rows = rows.astype(np.float64)
    y, x = np.mgrid[:height, :width]
    stride = np.array([image[1] / width, image[0] / height])
    centre = (_sigmoid(rows[..., :2]) + np.stack([x, y], -1)) * stride
    size = np.exp(np.minimum(rows[..., 2:4], LARGEST)) * np.array(anchors)[:, None, None]
    chances = _sigmoid(rows[..., 4:5]) * _sigmoid(rows[..., 5:])
    boxes = np.concatenate([centre - size / 2, centre + size / 2], -1)
    return boxes.reshape(count, -1, 4), chances.reshape(count, -1, chances.shape[-1])


def from_priors(outputs: Sequence[Array], priors: Array) -> tuple[Array, Array]:
    """Corners [n, priors, 4] and probabilities [n, priors, classes], without the background.

    Args:
        outputs: offsets [n, priors, 4] and scores [n, priors, 1 + classes], in any order; offsets come first if both
            have four columns.
        priors: [priors, 4], centre, width and height.

    Raises DataError where they do not fit.
    """
    able = [y for y in outputs if y.ndim == 3 and y.shape[1] == len(priors)]
    offsets = next((y for y in able if y.shape[2] == 4), None)
    scores = next((y for y in able if y is not offsets and y.shape[2] > 1), None)
    if offsets is None or scores is None:
        raise DataError(
            f"{len(priors)} priors need offsets [samples, {len(priors)}, 4] and scores [samples, {len(priors)}, "
            f"1 + classes]; the outputs have shapes {[list(y.shape) for y in outputs]}"
        )
    moved = offsets.astype(np.float64) * SPREAD
    centre = priors[:, :2] + moved[..., :2] * priors[:, 2:]
    size = priors[:, 2:] * np.exp(np.minimum(moved[..., 2:], LARGEST))
    shifted = scores.astype(np.float64)
    shifted = np.exp(shifted - shifted.max(-1, keepdims=True))
    chances = (shifted / shifted.sum(-1, keepdims=True))[..., 1:]
    return np.concatenate([centre - size / 2, centre + size / 2], -1), chances


def _sigmoid(values: Array) -> Array:
    return np.asarray(0.5 * (1 + np.tanh(values / 2)))

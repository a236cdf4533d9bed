"""Boxes [..., 4] as left, top, right, bottom: overlap, other forms, and labels of a batch."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from prunegraph.errors import DataError
from prunegraph.runtime.data import LABELS
from prunegraph.training.operators.table import Tensor

#: Keeps divisions finite.
TINY = 1e-7

#: What a row of labels holds: class, left, top, right, bottom.
COLUMNS = 5


def labels_of(batch: Mapping[str, Tensor], name: str, classes: int) -> list[Tensor]:
    """Rows of every sample that are no padding, [boxes, 5] each. Raises DataError."""
    if LABELS not in batch:
        raise DataError(f"loss {name!r} needs `labels` in the data")
    labels = batch[LABELS]
    if labels.dim() != 3 or labels.shape[2] != COLUMNS:
        raise DataError(
            f"loss {name!r} needs `labels` [samples, boxes, 5] (class, left, top, right, bottom), they have shape "
            f"{list(labels.shape)}"
        )
    rows = [sample[sample[:, 0] >= 0].float() for sample in labels]
    every = torch.cat(rows)
    if every.numel():
        highest = int(every[:, 0].max())
        if highest >= classes:
            raise DataError(
                f"`labels` hold class {highest}, the model has {classes} classes, 0 to {classes - 1}"
            )
        if not bool((every[:, 3:] >= every[:, 1:3]).all()):
            raise DataError(
                "a box of `labels` ends before it starts: rows are class, left, top, right, bottom"
            )
    # What a crop has left no width or height of is not there to be learnt.
    return [row[(row[:, 3:] > row[:, 1:3]).all(1)] for row in rows]


def image_size(batch: Mapping[str, Tensor], name: str) -> tuple[int, int]:
    """Height and width of the images of a batch, with channels in front. Raises DataError."""
    images = [v for key, v in batch.items() if key != LABELS and v.dim() == 4]
    if len(images) != 1 or images[0].shape[1] not in (1, 3):
        raise DataError(
            f"loss {name!r} needs one input of images [samples, channels, height, width]"
        )
    return int(images[0].shape[2]), int(images[0].shape[3])


def corners(boxes: Tensor) -> Tensor:
    """Boxes given as centre, width and height."""
    centre, size = boxes[..., :2], boxes[..., 2:]
    return torch.cat([centre - size / 2, centre + size / 2], -1)


def centred(boxes: Tensor) -> Tensor:
    """Centre, width and height."""
    return torch.cat(
        [(boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]], -1
    )


def iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of boxes, which are broadcast against each other."""
    common = _common(first, second)
    return common / (_area(first) + _area(second) - common + TINY)


def complete_iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union, less what centres and aspect ratios are apart (CIoU).

    Source: Zheng et al. 2020, equations 10 to 12; the weight of the aspect ratio has no gradient.
    """
    overlap = iou(first, second)
    least = torch.minimum(first[..., :2], second[..., :2])
    most = torch.maximum(first[..., 2:], second[..., 2:])
    diagonal = (most - least).square().sum(-1) + TINY
    apart = (centred(first) - centred(second))[..., :2].square().sum(-1)
    angles = [
        torch.atan(size[..., 0] / (size[..., 1] + TINY))
        for size in (centred(first)[..., 2:], centred(second)[..., 2:])
    ]
    ratio = (2 / math.pi * (angles[0] - angles[1])).square()
    with torch.no_grad():
        weight = ratio / (1 - overlap + ratio + TINY)
    return overlap - apart / diagonal - weight * ratio


def _common(first: Tensor, second: Tensor) -> Tensor:
    least = torch.maximum(first[..., :2], second[..., :2])
    most = torch.minimum(first[..., 2:], second[..., 2:])
    return (most - least).clamp(min=0).prod(-1)


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1)

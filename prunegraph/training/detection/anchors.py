"""The loss `yolo_anchors`: heads with anchors (YOLO v3), whose outputs are maps.

An output is [n, anchors * (5 + classes), height, width]; an anchor's values are x and y (logits of the place in the
cell), width and height (logarithms, relative to the anchor), a logit of there being an object, and logits of the
classes. The anchor whose size overlaps a box most, of all maps, answers for it in the cell of the box's centre.
Others that already overlap a box by more than half are asked for nothing. Lost are `1 - CIoU` and the classes'
binary cross entropy where an anchor answers, over the number of boxes, and the binary cross entropy of objects, the
sum over anchors that answer and the rest, each over its number of boxes.

Source: Redmon, Farhadi 2018; CIoU by Zheng et al. 2020.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as nnf

from prunegraph.errors import DataError, OptionError
from prunegraph.training.detection.boxes import (
    complete_iou,
    corners,
    image_size,
    iou,
    labels_of,
)
from prunegraph.training.losses import Batch, Loss
from prunegraph.training.operators.table import Tensor
from prunegraph.training.tasks import LOSSES, LossContext

#: Anchors of YOLO v3 in pixels of an input of 416 x 416, by map, small ones first.
COCO = "10x13+16x30+33x23/30x61+62x45+59x119/116x90+156x198+373x326"

#: Anchors that overlap a box by more than this are no background.
IGNORE = 0.5

#: Logarithms of sizes are kept below this.
LARGEST = 8.0

#: Width and height of the anchors of each map.
Sizes = tuple[tuple[tuple[float, float], ...], ...]


@LOSSES.register("yolo_anchors")
def yolo_anchors(
    context: LossContext,
    *,
    anchors: str = COCO,
    box: float = 2.0,
    objects: float = 1.0,
    classes: float = 1.0,
) -> Loss:
    """A head with anchors: `WxH+WxH/WxH+WxH` in pixels, a group for each map, small ones first."""
    return partial(_loss, sizes=_sizes(anchors), gains=(box, objects, classes))


def _sizes(text: str) -> Sizes:
    """Anchors as they are spelt. Raises OptionError."""
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
            f"loss 'yolo_anchors': anchors are spelt WxH+WxH/WxH+WxH, in pixels, a group for each map; got {text!r}"
        )
    return sizes


def _loss(
    outputs: Sequence[Tensor],
    batch: Batch,
    *,
    sizes: Sizes,
    gains: tuple[float, float, float],
) -> Tensor:
    image = image_size(batch, "yolo_anchors")
    maps = _maps(outputs, sizes)
    rows = labels_of(batch, "yolo_anchors", maps[0].shape[-1] - 5)
    flat = torch.tensor([pair for part in sizes for pair in part]).to(maps[0])
    count = max(sum(len(row) for row in rows), 1)
    total = maps[0].new_zeros(())
    first = 0
    for values, part in zip(maps, sizes, strict=True):
        of_map = range(first, first + len(part))
        total = total + _of_map(values, flat, of_map, rows, image, gains) / count
        first += len(part)
    return total


def _maps(outputs: Sequence[Tensor], sizes: Sizes) -> list[Tensor]:
    """Outputs as [n, anchors, height, width, 5 + classes], the finest first. Raises DataError."""
    maps = sorted(
        (y for y in outputs if y.dim() == 4), key=lambda y: -y.shape[2] * y.shape[3]
    )
    widths = {y.shape[1] // len(part) for y, part in zip(maps, sizes, strict=False)}
    fits = len(maps) == len(sizes) and len(widths) == 1 and min(widths) > 5
    if not fits or any(y.shape[1] % len(p) for y, p in zip(maps, sizes, strict=True)):
        raise DataError(
            f"loss 'yolo_anchors' needs {len(sizes)} maps [samples, anchors * (5 + classes), height, width]; the "
            f"outputs have shapes {[list(y.shape) for y in outputs]}: anchors= says which anchors each map has"
        )
    return [
        y.reshape(len(y), len(part), -1, *y.shape[2:]).permute(0, 1, 3, 4, 2)
        for y, part in zip(maps, sizes, strict=True)
    ]


def _of_map(
    values: Tensor,
    anchors: Tensor,
    of_map: range,
    rows: Sequence[Tensor],
    image: tuple[int, int],
    gains: tuple[float, float, float],
) -> Tensor:
    """What one map loses, summed over the samples."""
    height, width = values.shape[2:4]
    stride = torch.tensor([image[1] / width, image[0] / height]).to(values)
    boxes = _decoded(values, anchors[of_map.start : of_map.stop], stride)
    objects = torch.zeros_like(values[..., 4])
    counted = torch.ones_like(objects)
    apart, wrong = values.new_zeros(()), values.new_zeros(())
    for index, row in enumerate(rows):
        if not len(row):
            continue
        with torch.no_grad():
            overlap = iou(boxes[index][..., None, :], row[:, 1:]).amax(-1)
            counted[index][overlap > IGNORE] = 0
        best = _best(row, anchors)
        mine = torch.tensor([int(b) in of_map for b in best], device=row.device)
        row, best = row[mine], best[mine] - of_map.start
        cells = ((row[:, 1:3] + row[:, 3:]) / 2 / stride).long()
        at = (
            index,
            best,
            cells[:, 1].clamp(0, height - 1),
            cells[:, 0].clamp(0, width - 1),
        )
        objects[at], counted[at] = 1.0, 1.0
        apart = apart + (1 - complete_iou(boxes[at], row[:, 1:])).sum()
        named = nnf.one_hot(row[:, 0].long(), values.shape[-1] - 5).to(values)
        wrong = wrong + nnf.binary_cross_entropy_with_logits(
            values[at][:, 5:], named, reduction="sum"
        )
    missed = nnf.binary_cross_entropy_with_logits(
        values[..., 4], objects, weight=counted, reduction="sum"
    )
    return gains[0] * apart + gains[1] * missed + gains[2] * wrong


def _decoded(values: Tensor, anchors: Tensor, stride: Tensor) -> Tensor:
    """Boxes in pixels [n, anchors, height, width, 4]."""
    height, width = values.shape[2:4]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    cells = torch.stack([x, y], -1).to(values)
    centre = (values[..., :2].sigmoid() + cells) * stride
    size = values[..., 2:4].clamp(max=LARGEST).exp() * anchors[:, None, None]
    return corners(torch.cat([centre, size], -1))


def _best(row: Tensor, anchors: Tensor) -> Tensor:
    """The anchor of all maps whose size overlaps each box most [boxes]."""
    size = row[:, None, 3:] - row[:, None, 1:3]
    common = torch.minimum(size, anchors).prod(-1)
    return (common / (size.prod(-1) + anchors.prod(-1) - common)).argmax(1)

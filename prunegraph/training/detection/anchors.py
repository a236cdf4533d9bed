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

from prunegraph.errors import DataError
from prunegraph.measuring.heads import LARGEST, Sizes, anchor_sizes
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
    return partial(
        _loss,
        sizes=anchor_sizes(anchors, "loss 'yolo_anchors'"),
        gains=(box, objects, classes),
    )


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
    every = torch.cat(rows)
    owners = torch.arange(len(rows)).repeat_interleave(torch.tensor([len(r) for r in rows]))
    best = _best(every, flat)
    total = maps[0].new_zeros(())
    first = 0
    for values, part in zip(maps, sizes, strict=True):
        anchors = flat[first : first + len(part)]
        stride = torch.tensor([image[1] / values.shape[3], image[0] / values.shape[2]]).to(
            values
        )
        mine = (best >= first) & (best < first + len(part))
        answers = _answers(
            every[mine], owners.to(best.device)[mine], best[mine] - first, values, stride
        )
        counted = _counted(values.detach(), anchors, stride, rows)
        total = total + _of_map(
            values, anchors, stride, every[mine], answers, counted, gains
        )
        first += len(part)
    return total / max(len(every), 1)


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


def _answers(
    boxes: Tensor, owners: Tensor, anchors: Tensor, values: Tensor, stride: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Where a map answers for boxes of labels: sample, anchor, row and column of each [boxes]."""
    height, width = values.shape[2:4]
    cells = ((boxes[:, 1:3] + boxes[:, 3:]) / 2 / stride).long()
    return (
        owners,
        anchors,
        cells[:, 1].clamp(0, height - 1),
        cells[:, 0].clamp(0, width - 1),
    )


def _counted(
    values: Tensor, anchors: Tensor, stride: Tensor, rows: Sequence[Tensor]
) -> Tensor:
    """1 where an anchor without an object is asked for that, 0 where it overlaps a box [n, anchors, height, width]."""
    counted = torch.ones_like(values[..., 4])
    height, width = values.shape[2:4]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    cells = torch.stack([x, y], -1).to(values)
    boxes = _decoded(values, cells, anchors[:, None, None], stride)
    # Sample by sample: all pairs of a batch at once would take much memory.
    for mine, of_sample, row in zip(counted, boxes, rows, strict=True):
        if len(row):
            mine[iou(of_sample[..., None, :], row[:, 1:]).amax(-1) > IGNORE] = 0
    return counted


def _of_map(
    values: Tensor,
    anchors: Tensor,
    stride: Tensor,
    boxes: Tensor,
    answers: tuple[Tensor, Tensor, Tensor, Tensor],
    counted: Tensor,
    gains: tuple[float, float, float],
) -> Tensor:
    """What one map loses, summed over the samples; `boxes` are the labels [boxes, 5] that it answers for."""
    objects = torch.zeros_like(counted)
    objects[answers], counted[answers] = 1.0, 1.0
    missed = nnf.binary_cross_entropy_with_logits(
        values[..., 4], objects, weight=counted, reduction="sum"
    )
    given = values[answers]
    cells = torch.stack([answers[3], answers[2]], -1).to(values)
    decoded = _decoded(given, cells, anchors[answers[1]], stride)
    apart = (1 - complete_iou(decoded, boxes[:, 1:])).sum()
    named = nnf.one_hot(boxes[:, 0].long(), values.shape[-1] - 5).to(values)
    wrong = nnf.binary_cross_entropy_with_logits(given[:, 5:], named, reduction="sum")
    return gains[0] * apart + gains[1] * missed + gains[2] * wrong


def _decoded(values: Tensor, cells: Tensor, anchors: Tensor, stride: Tensor) -> Tensor:
    """Boxes in pixels [..., 4] of values [..., 5 + classes] in cells (x, y) [..., 2] with anchors [..., 2]."""
    centre = (values[..., :2].sigmoid() + cells) * stride
    size = values[..., 2:4].clamp(max=LARGEST).exp() * anchors
    return corners(torch.cat([centre, size], -1))


def _best(boxes: Tensor, anchors: Tensor) -> Tensor:
    """The anchor of all maps whose size overlaps each box most [boxes]."""
    size = boxes[:, None, 3:] - boxes[:, None, 1:3]
    common = torch.minimum(size, anchors).prod(-1)
    return (common / (size.prod(-1) + anchors.prod(-1) - common)).argmax(1)

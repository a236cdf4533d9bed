"""The loss `yolo`: heads without anchors (YOLO v8 and later), with task-aligned assignment.

The output is [n, 4 + classes, places], as ultralytics exports it: centre, width and height in pixels of the input,
then a probability for each class. A place answers for a box if its centre lies in it and it is among the `most`
places with the largest `score^alpha * CIoU^beta`; of several boxes it takes the one that it overlaps most. What the
class has to be is that number, scaled so that the best place of a box is asked for as much as it overlaps the box.
Lost are the binary cross entropy of all classes at all places and `1 - CIoU` at places that answer, both over the
sum of what is asked for.

Source: Feng et al. 2021 (task-aligned one-stage object detection), with the constants of YOLO v8.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as nnf

from prunegraph.errors import DataError, OptionError
from prunegraph.training.detection.boxes import complete_iou, corners, image_size, labels_of
from prunegraph.training.losses import Batch, Loss
from prunegraph.training.operators.table import Tensor
from prunegraph.training.tasks import LOSSES, LossContext

#: Exponents of score and overlap in the alignment.
ALPHA, BETA = 0.5, 6.0

#: Probabilities are kept away from 0 and 1 by this.
MARGIN = 1e-6


@LOSSES.register("yolo")
def yolo(
    context: LossContext,
    *,
    box: float = 7.5,
    classes: float = 0.5,
    most: int = 10,
    strides: str = "8+16+32",
    output: str = "",
) -> Loss:
    """A head without anchors; `box` and `classes` weigh the two parts, `most` places answer for a box at most."""
    try:
        steps = tuple(int(step) for step in strides.split("+"))
    except ValueError:
        steps = ()
    if not steps or min(steps) < 1 or most < 1:
        raise OptionError(
            f"loss 'yolo': strides are whole numbers as in 8+16+32, and most is at least 1, got {strides!r} and {most}"
        )
    return partial(
        _loss, place=context.place(output), gains=(box, classes), most=most, strides=steps
    )


def _loss(
    outputs: Sequence[Tensor],
    batch: Batch,
    *,
    place: int,
    gains: tuple[float, float],
    most: int,
    strides: Sequence[int],
) -> Tensor:
    values = outputs[place]
    size = image_size(batch, "yolo")
    centres = grid(size, strides).to(values.device)
    if values.dim() != 3 or values.shape[1] < 5 or values.shape[2] != len(centres):
        raise DataError(
            f"loss 'yolo' needs an output [samples, 4 + classes, {len(centres)} places] for inputs of "
            f"{size[0]} x {size[1]}, it has shape {list(values.shape)}: strides= says which maps there are"
        )
    rows = labels_of(batch, "yolo", values.shape[1] - 4)
    boxes = corners(values[:, :4].transpose(1, 2))
    chances = values[:, 4:].transpose(1, 2).clamp(MARGIN, 1 - MARGIN)
    asked = torch.zeros_like(chances)
    apart = values.new_zeros(())
    for index, row in enumerate(rows):
        answers, which, score = assigned(
            boxes[index].detach(), chances[index].detach(), row, centres, most
        )
        asked[index, answers, row[which, 0].long()] = score
        overlap = complete_iou(boxes[index, answers], row[which, 1:])
        apart = apart + ((1 - overlap) * score).sum()
    total = asked.sum().clamp(min=1)
    wrong = nnf.binary_cross_entropy(chances, asked, reduction="sum")
    return (gains[0] * apart + gains[1] * wrong) / total


def grid(size: tuple[int, int], strides: Sequence[int]) -> Tensor:
    """Centres (x, y) in pixels of all places [places, 2], map by map, row by row."""
    maps = []
    for stride in strides:
        height, width = math.ceil(size[0] / stride), math.ceil(size[1] / stride)
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        maps.append((torch.stack([x, y], -1).reshape(-1, 2) + 0.5) * stride)
    return torch.cat(maps)


def assigned(
    boxes: Tensor, chances: Tensor, row: Tensor, centres: Tensor, most: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Places that answer, the box of each, and the score that is asked for there.

    Args:
        boxes: that a sample's places give now [places, 4].
        chances: of the classes [places, classes].
        row: labels of the sample [boxes, 5].
        centres: of the places [places, 2].
        most: places for a box.
    """
    if not len(row):
        nothing = torch.zeros(0, dtype=torch.long, device=boxes.device)
        return nothing, nothing, boxes.new_zeros(0)
    wanted = row[:, 1:]
    inside = torch.minimum(
        centres - wanted[:, None, :2], wanted[:, None, 2:] - centres
    ).amin(-1)
    # A box that lies between all centres is answered for by the nearest.
    middle = (wanted[:, :2] + wanted[:, 2:]) / 2
    nearest = (centres - middle[:, None]).square().sum(-1).argmin(1)
    able = inside > 0
    missed = ~able.any(1)
    able[missed, nearest[missed]] = True
    overlap = complete_iou(boxes, wanted[:, None]).clamp(min=0) * able
    align = chances[:, row[:, 0].long()].T.pow(ALPHA) * overlap.pow(BETA)
    # Among places that overlap nothing yet, those nearer to the middle come first.
    near = 1 / (1 + (centres - middle[:, None]).square().sum(-1))
    order = (align + 1e-12 * near).masked_fill(~able, -1.0)
    best = order.topk(min(most, order.shape[1]), dim=1)
    taken = torch.zeros_like(able).scatter_(1, best.indices, best.values >= 0)
    preferred = torch.where(taken, overlap + 1e-9 * near, -1.0).argmax(0)
    answers = taken.any(0).nonzero()[:, 0]
    which = preferred[answers]
    kept = torch.zeros_like(taken)
    kept[which, answers] = True
    strongest = (align * kept).amax(1)
    furthest = (overlap * kept).amax(1)
    mine = align[which, answers]
    score = mine * furthest[which] / (strongest[which] + 1e-9)
    return answers, which, score

"""The loss `ssd`: heads with prior boxes, whose outputs are offsets and scores for each.

Offsets are [n, priors, 4]: of centres in units of the prior's size, over 0.1, and logarithms of sizes, over 0.2.
Scores are logits [n, priors, 1 + classes], background first. A prior answers for the box that it overlaps most, if
that is by half at least, and the best prior of each box does in any case. Lost are the smooth distance of offsets
of priors that answer, and the cross entropy of those and of the three times as many of the rest that are most
wrong, both over the number of priors that answer.

Source: Liu et al. 2016 (SSD), sections 2.2 and 2.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as nnf

from prunegraph.errors import DataError, OptionError
from prunegraph.measuring.heads import SPREAD, read_priors
from prunegraph.training.detection.boxes import centred, corners, iou, labels_of
from prunegraph.training.losses import Batch, Loss
from prunegraph.training.operators.table import Tensor
from prunegraph.training.tasks import LOSSES, LossContext

#: Least overlap with which a prior answers for a box.
OVERLAP = 0.5

#: Wrong priors without a box that count, for each prior with one.
NEGATIVES = 3


@LOSSES.register("ssd")
def ssd(
    context: LossContext, *, priors: str = "", offsets: str = "", scores: str = ""
) -> Loss:
    """A head with priors: `priors` is a .npy of [priors, 4], centre, width and height in pixels.

    `offsets` and `scores` name the outputs; by default those of fitting shapes, offsets first.
    """
    if not priors:
        raise OptionError(
            "loss 'ssd' needs its prior boxes: ssd:priors=FILE.npy, [priors, 4] as centre, width and height in pixels"
        )
    values = torch.from_numpy(read_priors(priors))
    places = (context.place(offsets), context.place(scores)) if offsets and scores else None
    return partial(_loss, priors=values, places=places)


def _loss(
    outputs: Sequence[Tensor],
    batch: Batch,
    *,
    priors: Tensor,
    places: tuple[int, int] | None,
) -> Tensor:
    offsets, scores = _heads(outputs, len(priors), places)
    priors = priors.to(offsets.device)
    rows = labels_of(batch, "ssd", scores.shape[2] - 1)
    matched = [_matched(row, priors) for row in rows]
    classes = torch.stack([named for named, _ in matched])
    wanted = torch.stack([boxes for _, boxes in matched])
    answers = classes > 0
    count = answers.sum().clamp(min=1)
    spread = torch.tensor(SPREAD).to(offsets)
    far = nnf.smooth_l1_loss(
        offsets[answers],
        (_encoded(wanted, priors) / spread)[answers],
        reduction="sum",
    )
    wrong = nnf.cross_entropy(scores.flatten(0, 1), classes.flatten(), reduction="none")
    wrong = wrong.reshape(classes.shape)
    rest = wrong.detach().masked_fill(answers, -1.0)
    order = rest.argsort(1, descending=True).argsort(1)
    hard = (order < NEGATIVES * answers.sum(1, keepdim=True)) & ~answers
    return (far + wrong[answers | hard].sum()) / count


def _heads(
    outputs: Sequence[Tensor], count: int, places: tuple[int, int] | None
) -> tuple[Tensor, Tensor]:
    """Offsets and scores. Raises DataError."""
    if places is not None:
        offsets, scores = outputs[places[0]], outputs[places[1]]
    else:
        able = [y for y in outputs if y.dim() == 3 and y.shape[1] == count]
        offsets = next((y for y in able if y.shape[2] == 4), torch.zeros(0))
        scores = next((y for y in able if y is not offsets), torch.zeros(0))
    fits = offsets.dim() == 3 and tuple(offsets.shape[1:]) == (count, 4)
    if not fits or scores.dim() != 3 or scores.shape[1] != count or scores.shape[2] < 2:
        raise DataError(
            f"loss 'ssd' needs offsets [samples, {count}, 4] and scores [samples, {count}, 1 + classes]; the "
            f"outputs have shapes {[list(y.shape) for y in outputs]}: offsets= and scores= name them"
        )
    return offsets, scores


def _matched(row: Tensor, priors: Tensor) -> tuple[Tensor, Tensor]:
    """Class of each prior, 0 for background [priors], and the box that it answers for [priors, 4]."""
    if not len(row):
        return priors.new_zeros(len(priors), dtype=torch.long), corners(priors)
    overlap = iou(corners(priors)[:, None], row[:, 1:])
    most, which = overlap.max(1)
    best = overlap.argmax(0)
    most[best], which[best] = 1.0, torch.arange(len(row), device=row.device)
    classes = torch.where(most >= OVERLAP, row[which, 0].long() + 1, 0)
    return classes, row[which, 1:]


def _encoded(boxes: Tensor, priors: Tensor) -> Tensor:
    """Boxes as offsets from their priors [n, priors, 4]."""
    mine = centred(boxes)
    return torch.cat(
        [
            (mine[..., :2] - priors[:, :2]) / priors[:, 2:],
            (mine[..., 2:] / priors[:, 2:]).log(),
        ],
        -1,
    )

"""Labels that are learnt with cross entropy: class numbers, checked before they are used."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from prunegraph.errors import DataError
from prunegraph.runtime.data import LABELS, Data
from prunegraph.training.operators.table import Tensor, to_torch

#: Cells with this label count for nothing, as in PyTorch.
IGNORED = -100

_WHAT_TO_DO = "leave `labels` out and learn from an original (--original), or train in Python with a loss of your own"


def as_labels(labels: object) -> Tensor:
    """Labels as a tensor of numbers. Raises DataError."""
    if isinstance(labels, torch.Tensor):
        return labels
    if not isinstance(labels, np.ndarray):
        raise DataError(
            f"`labels` have to be an array of class numbers, not {type(labels).__name__}: {_WHAT_TO_DO}"
        )
    if labels.dtype.kind not in "iufb":
        what = _named(labels)
        raise DataError(
            f"`labels` have to be class numbers, they are {what}: {_WHAT_TO_DO}"
        )
    return to_torch(labels)


def _named(labels: np.ndarray) -> str:
    """Say what stands where class numbers should."""
    if labels.dtype.kind != "O":
        return f"of type {labels.dtype}"
    is_text = all(isinstance(each, (str, bytes)) for each in labels.flat)
    return "text" if is_text else "lists of different lengths (boxes?)"


def class_numbers(labels: Tensor, classes: int) -> Tensor:
    """Labels as whole numbers. Raises DataError where they are not, or not below the number of classes."""
    whole = labels.long()
    if labels.is_floating_point() and not bool((whole == labels).all()):
        raise DataError(
            f"`labels` have to be class numbers, they are fractions: {_WHAT_TO_DO}"
        )
    counted = whole[whole != IGNORED]
    lowest, highest = (
        (int(counted.min()), int(counted.max())) if counted.numel() else (0, 0)
    )
    if lowest < 0 or highest >= classes:
        raise DataError(
            f"`labels` run from {lowest} to {highest}, the model's output has {classes} classes, 0 to {classes - 1}"
        )
    return whole


def misfit(labels: Sequence[int], output: Sequence[int]) -> str:
    """Say what is wrong where labels of one shape meet scores of another."""
    return (
        f"`labels` have shape {list(labels)}, the model's first output {list(output)}: they have to be class numbers, "
        f"of the output's shape without the axis of the classes. For others {_WHAT_TO_DO}"
    )


def check(data: Data) -> bool:
    """Whether data have labels. Raises DataError where they are nothing that can be learnt, or only some have them."""
    seen: set[bool] = set()
    for chunk in data.chunks():
        seen.add(LABELS in chunk)
        if LABELS in chunk:
            as_labels(chunk[LABELS])
    if len(seen) > 1:
        raise DataError(f"{data.source}: only a part of the samples has `labels`")
    return True in seen

"""Batches for training: shuffled anew every epoch, the same for the same seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch

from prunegraph.errors import DataError
from prunegraph.runtime.data import LABELS, Data
from prunegraph.training.operators.table import Tensor, to_torch

Array = np.ndarray
Arrays = dict[str, Array]

#: Changes the arrays of a batch with random numbers of a generator (flips, crops).
Augment = Callable[[Arrays, np.random.Generator], Arrays]


class Batches:
    """Samples in memory, as an iterable of batches. Anything else that can be iterated again does as well for `fit`.

    Args:
        data: inputs by name, samples along an axis of each (see `Data`), and `labels`.
        size: samples in a batch; what is left over at an epoch's end waits for another epoch.
        shuffle: a new order every epoch.
        seed: of orders and augmentation.
        augment: applied to every batch.

    Raises:
        DataError: there are fewer samples than a batch has.
    """

    def __init__(
        self,
        data: Data | Sequence[Mapping[str, Array]] | Mapping[str, Array],
        size: int = 64,
        *,
        shuffle: bool = True,
        seed: int = 0,
        augment: Augment | None = None,
    ):
        self.samples = Data.of(data).by_number()
        self.count = self.samples.count
        size = 1 if self.samples.layout.whole else size  # of whole feeds each is a batch
        if self.count < size:
            raise DataError(
                f"{self.count} samples do not fill a batch of {size}: give more, or a smaller size"
            )
        self.size, self.shuffle, self.seed, self.augment = size, shuffle, seed, augment
        self.epoch = 0

    def identity(self) -> object:
        """Say what tells these batches from others: the arrays, and how they are drawn."""
        return (self.samples.parts, self.size, self.shuffle, self.seed, self.augment)

    def __len__(self) -> int:
        return self.count // self.size

    def set_epoch(self, epoch: int) -> None:
        """Tell which epoch's order comes next; `fit` says so."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        rng = np.random.default_rng([self.seed, self.epoch])
        order = rng.permutation(self.count) if self.shuffle else np.arange(self.count)
        for start in range(0, len(self) * self.size, self.size):
            chosen = order[start : start + self.size]
            arrays = self.samples.take(chosen)
            arrays = self.augment(arrays, rng) if self.augment is not None else arrays
            yield {name: to_torch(array) for name, array in arrays.items()}


def mixed(
    batch: Mapping[str, Tensor], alpha: float, rng: np.random.Generator
) -> tuple[dict[str, Tensor], Tensor, float]:
    """A batch whose floating-point inputs are blended with those of other samples (mixup).

    Returns:
        The batch, with labels as they were; the other samples' places; the share of the first ones.

    Source: Zhang, Cisse, Dauphin, Lopez-Paz 2018.
    """
    share = float(rng.beta(alpha, alpha))
    others = torch.from_numpy(rng.permutation(_count(batch)))
    return _blend(batch, others, torch.full((len(others),), share)), others, share


def blended(
    batch: Mapping[str, Tensor], alpha: float, rng: np.random.Generator
) -> dict[str, Tensor]:
    """A batch without labels, blended like `mixed`, but with a share of its own for every sample.

    Losses take means over a batch, so that labels need one share. Without them a batch, and its statistics, need not be
    of halves alone or of nearly whole samples alone.
    """
    others = torch.from_numpy(rng.permutation(_count(batch)))
    shares = rng.beta(alpha, alpha, len(others)).astype(np.float32)
    return _blend(batch, others, torch.from_numpy(shares))


def _count(batch: Mapping[str, Tensor]) -> int:
    return len(batch[LABELS] if LABELS in batch else next(iter(batch.values())))


def _blend(
    batch: Mapping[str, Tensor], others: Tensor, shares: Tensor
) -> dict[str, Tensor]:
    """Inputs times the shares [samples] plus those of the others times what is left; labels stay."""

    def blend(value: Tensor) -> Tensor:
        share = shares.to(value).reshape(-1, *[1] * (value.dim() - 1))
        return share * value + (1 - share) * value[others.to(value.device)]

    return {
        name: blend(value)
        if value.is_floating_point()
        and name != LABELS
        and value.dim()
        and len(value) == len(others)
        else value
        for name, value in batch.items()
    }

"""Sparse training: an L1 penalty on the scales of BatchNormalization, as a proximal step (source 000, stage 1).

After each step of the optimizer `gamma <- sign(gamma) * max(|gamma| - lr * strength, 0)`: scales become exactly 0,
with any optimizer. Scales that belong to one channel, because Add or a depthwise convolution couples their
layers, shrink together: `gamma <- gamma * max(0, 1 - lr * strength * sqrt(m) / |gamma|)` for the m scales of a channel.

Without a strength the penalty is relative to the group and to the length of the run: the smallest `SHARE` of a group's
channels, by the norm of their scales at every step, shrink to 0 over the first part of the run (`FADED`); others stay.
Which ones are the smallest is up to the loss until then, and the rest of the run makes up for them. So a short run, in
which losses hardly resist, does not shrink the whole network, and a long one does not resist for ever.
The epoch in which they are gone says so in its record (`faded`, the share of all channels): what comes behind it is
judged by what the network was then, as behind a cut.
Sources: Liu et al. 2017 (network slimming); Yuan, Lin 2006 (group lasso); Wang et al. 2021 (growing regularization).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from prunegraph.coupling.analysis import analyze
from prunegraph.coupling.coupling import Coupling
from prunegraph.coupling.groups import Group
from prunegraph.errors import DataError, OptionError
from prunegraph.operators import is_batch_normalization
from prunegraph.training.fit import Callback, Run
from prunegraph.training.module import GraphModule
from prunegraph.training.operators.table import Tensor

#: Part of every group's channels that the relative penalty takes away.
SHARE = 1 / 3

#: Part of the run after which they are gone.
FADED = 0.5

#: A scale is as good as gone below this share of its layer's median.
GONE = 1e-2


@dataclass(frozen=True)
class _Scales:
    """Scales of a group: names of weights, and for each the places of every channel [channels, places]."""

    group: str
    members: tuple[tuple[str, Tensor], ...]

    @property
    def count(self) -> int:
        """Scales of one channel."""
        return sum(places.shape[1] for _, places in self.members)


def penalty(strength: str | float, method: str) -> float | None:
    """The strength in a method's option: a number of at least 0, or None for "auto", the relative penalty.

    Raises OptionError for anything else.
    """
    if strength == "auto":
        return None
    try:
        number = float(strength)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number >= 0):
        raise OptionError(
            f"option 'strength' of training method {method!r} must be auto or a number of at least 0, got {strength!r}"
        )
    return number


class Sparsify(Callback):
    """Shrinks scales of channels that can be removed while `fit` trains.

    Args:
        module: the module that is trained.
        strength: of the penalty, as published: 1e-4 for plain networks, 1e-5 for residual ones. None is the relative
            penalty, for which batches have to have a length.
        coupling: of `module.graph`; analysed if not given.
        enough: ends the run when this share of the channels is as good as gone; None trains on.

    Raises:
        DataError: no channel that can be removed has a BatchNormalization with trained scales.
    """

    def __init__(
        self,
        module: GraphModule,
        strength: float | None = None,
        *,
        coupling: Coupling | None = None,
        enough: float | None = None,
    ):
        self.module, self.strength, self.enough = module, strength, enough
        groups = (coupling or analyze(module.graph)).groups
        self.scales = [
            scales for group in groups if (scales := _scales(module, group)) is not None
        ]
        if not self.scales:
            raise DataError(
                f"{module.graph.source}: no removable channel has a BatchNormalization whose scales are trained"
            )

    def identity(self) -> object:
        return (self.strength, self.enough)

    def after_step(self, run: Run) -> None:
        # What the loss does not know would only shrink.
        waiting = run.waiting()
        rates = {
            id(p): float(group["lr"])
            for group in run.optimizer.param_groups
            for p in group["params"]
            if id(p) not in waiting
        }
        kept = _kept(run) if self.strength is None else 1.0
        with torch.no_grad():
            for scales in self.scales:
                self._shrink(scales, rates, kept)

    def on_epoch(self, run: Run) -> None:
        if self.strength is None and self._ends_fading(run):
            run.history[-1]["faded"] = self.gone()
        run.stop = run.stop or (self.enough is not None and self.gone() >= self.enough)

    @staticmethod
    def _ends_fading(run: Run) -> bool:
        """Tell whether the epoch that has ended is the one by whose end the scales had shrunk to 0."""
        return run.done() >= FADED > run.done() - 1 / run.recipe.epochs

    def gone(self) -> float:
        """Share of channels whose scales are all below a hundredth of their layer's median."""
        lost = total = 0
        for scales in self.scales:
            pruned = [
                self.module.weight(name).detach().abs()[places]
                <= GONE * self.module.weight(name).detach().abs().median()
                for name, places in scales.members
            ]
            channels = torch.cat(pruned, 1).all(1)
            lost, total = lost + int(channels.sum()), total + len(channels)
        return lost / total

    def _shrink(self, scales: _Scales, rates: dict[int, float], kept: float) -> None:
        """The proximal step for one group. Scales that the optimizer does not train stay as they are."""
        parts = [(self.module.weight(name), places) for name, places in scales.members]
        parts = [(weight, places) for weight, places in parts if id(weight) in rates]
        if not parts:
            return
        together = torch.cat([weight[places] for weight, places in parts], 1)
        norm = torch.linalg.vector_norm(together, dim=1, keepdim=True)
        if self.strength is None:
            count = math.ceil(SHARE * len(norm))
            highest = norm.flatten().sort().values[count - 1]
            bound = torch.where(norm <= highest, (1 - kept) * norm, 0.0)
        else:
            rate = max(rates[id(weight)] for weight, _ in parts)
            bound = torch.full_like(
                norm, rate * self.strength * math.sqrt(together.shape[1])
            )
        # Written so that what falls below the bound is 0 and not nearly 0.
        factor = torch.where(
            norm > bound, 1 - bound / norm.clamp(min=torch.finfo(norm.dtype).tiny), 0.0
        )
        for weight, places in parts:
            weight[places] = weight[places] * factor


def _kept(run: Run) -> float:
    """Share of a fading scale that one step keeps; the product over the steps falls along a line to 0."""
    before = run.done()
    after = before + 1 / (run.recipe.epochs * run.length)
    return max(0.0, (FADED - after) / (FADED - before)) if before < FADED else 0.0


def _scales(module: GraphModule, group: Group) -> _Scales | None:
    """The trained scales of a group's channels, or None."""
    normals = {n.inputs[1] for n in module.graph.nodes if is_batch_normalization(n)}
    trained = {name for name, _ in _trained(module)}
    members = tuple(
        (member.weight, torch.from_numpy(member.positions.copy()))
        for member in group.members
        if member.weight in normals and member.weight in trained
    )
    return _Scales(group.id, members) if members else None


def _trained(module: GraphModule) -> Iterator[tuple[str, Tensor]]:
    return (
        (name, tensor)
        for name, tensor in module.weights().items()
        if isinstance(tensor, torch.nn.Parameter)
    )

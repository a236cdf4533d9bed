"""Mean and variance of weights, clustered: which channels are weak, and how many a layer has of them.

A channel's point is (mean, standard deviation) of all weights that make it, in the scale behind a
BatchNormalization. Its distance from the origin is the weights' root mean square, which is the score; what
clustering adds is a share of its own for every group (`--ratio auto`): the weak cluster. Channels of that
cluster come before all others.

* `mode=robust`: a mixture of two Gaussians on log(standard deviation), with the mean (in units of the
  mean deviation) as a second coordinate where it spreads by more than 1. The split counts only if the
  Bayesian information criterion prefers it by more than 6 and the weak centre is below half of the strong one;
  else no channel is weak.
* `mode=paper`: k-means with k = 2 on (mean, deviation); the cluster whose centre is nearer to the origin is
  weak. It always splits, also a layer that has no weak channel.

At most the share `cap` of a group goes, and 8 channels stay. Source: source 004 (filter statistics);
ALGORITHMS 5.2, 5.3.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from prunegraph.coupling.groups import Group
from prunegraph.errors import OptionError
from prunegraph.selection.criteria.base import Array, Context, criterion
from prunegraph.selection.criteria.clusters import two_gaussians, two_means
from prunegraph.selection.criteria.members import counted, folded
from prunegraph.selection.criteria.own_ratio import own_ratio

Mode = Literal["robust", "paper"]

#: How much the Bayesian information criterion has to gain from a second Gaussian.
GAIN = 6.0

#: How far apart (in logarithms of the deviation) the centres have to be.
GAP = np.log(2)

#: Channels that stay when a group loses its weak cluster.
LEAST = 8


@criterion("weight_stats")
def weight_stats(
    group: Group, context: Context, *, mode: Mode = "robust", cap: float = 0.5
) -> Array:
    """Root mean square of the weights that make a channel, a weak cluster first; has ratios of its own."""
    means, deviations = statistics(group, context)
    scores = np.hypot(means, deviations)
    weak = weak_channels(means, deviations, mode, context.rng(group))
    if weak.any() and not weak.all():
        scores[weak] *= min(1.0, scores[~weak].min() / (scores[weak].max() or 1.0)) * (
            1 - 1e-9
        )
    return scores


@own_ratio("weight_stats")
def weak_share(
    group: Group, context: Context, *, mode: Mode = "robust", cap: float = 0.5
) -> float:
    """Share of a group's channels in its weak cluster, within the caps."""
    if not 0 <= cap <= 1:
        raise OptionError(
            f"option 'cap' of algorithm 'weight_stats' must be between 0 and 1, got {cap:g}"
        )
    weak = int(weak_channels(*statistics(group, context), mode, context.rng(group)).sum())
    return (
        max(0, min(weak, int(cap * group.channels), group.channels - LEAST))
        / group.channels
    )


def statistics(group: Group, context: Context) -> tuple[Array, Array]:
    """Mean and standard deviation of all weights that make each channel [channels]."""
    values = np.hstack(
        [folded(member, context.graph) for member in counted(group, "producer")]
    )
    return values.mean(axis=1), values.std(axis=1)


def weak_channels(
    means: Array, deviations: Array, mode: Mode, rng: np.random.Generator
) -> Array:
    """Tell which channels belong to the weak cluster [channels]; none where there is no such cluster."""
    if len(means) < 4:
        return np.zeros(len(means), bool)
    if mode == "paper":
        return np.asarray(two_means(np.stack([means, deviations], axis=1), rng)[1] == 0)
    size = deviations.mean() or 1.0
    points = np.log(np.maximum(deviations, 1e-6 * size))[:, None]
    if (means / size).std() > 1:
        points = np.hstack([points, (means / size)[:, None]])
    result = two_gaussians(points, two_means(points, rng)[0])
    weak, strong = np.argsort(result.means[:, 0])
    if result.gain <= GAIN or result.means[strong, 0] - result.means[weak, 0] <= GAP:
        return np.zeros(len(means), bool)
    return np.asarray(result.share > 0.5 if weak else result.share < 0.5)

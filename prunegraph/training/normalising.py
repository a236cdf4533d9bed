"""Which statistics BatchNormalization uses while a network is trained: the batch's, or those that it has.

Statistics of batches follow a network while it learns. For one that is close to what it learns, on data unlike those
that it was made from (drawn pages instead of photos of texts, four at a time), they are a disturbance: what it had is
lost in the first steps, and the run is spent on getting some of it back. Which of both it is is measured, by the loss
of the network as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice

import torch

from prunegraph.operators import is_batch_normalization
from prunegraph.runtime.data import LABELS
from prunegraph.training.losses import Loss, inner_of, outputs_with
from prunegraph.training.module import GraphModule
from prunegraph.training.operators.table import Tensor

#: Statistics stay where those of batches make the loss more than so many times larger.
FACTOR = 5.0

#: A network whose loss is less than this share of that is what it learns already, which says nothing.
NOTHING = 1e-4

#: Batches that are looked at, at most.
BATCHES = 4


def keep_statistics(
    module: GraphModule, batches: Iterable[Mapping[str, Tensor]], loss: Loss
) -> str:
    """Let the statistics of a module stay where those of batches would undo what it has.

    Args:
        module: as training begins; its weights, statistics and mode are the same afterwards.
        batches: of the training data.
        loss: that is going to be made small.

    Returns:
        What a user should know, or "" where statistics follow the batches.
    """
    if not any(is_batch_normalization(node) for node in module.graph.nodes):
        return ""
    own, by_batch = (_mean(module, batches, loss, kept=kept) for kept in (True, False))
    module.keeps_statistics = by_batch > FACTOR * own and own > NOTHING * by_batch
    if not module.keeps_statistics:
        return ""
    return (
        f"statistics of BatchNormalization stay: with those of batches the loss would begin at {by_batch:.3g} "
        f"instead of {own:.3g}"
    )


def _mean(
    module: GraphModule, batches: Iterable[Mapping[str, Tensor]], loss: Loss, *, kept: bool
) -> float:
    """Mean loss of a module in train mode, with its own statistics or with those of batches."""
    before = {name: value.clone() for name, value in module.state_dict().items()}
    device, mode = next(module.parameters()).device, module.training
    module.keeps_statistics = kept
    module.train()
    values = []
    with torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        for batch in islice(batches, BATCHES):
            moved = {name: value.to(device) for name, value in batch.items()}
            inputs = {name: value for name, value in moved.items() if name != LABELS}
            values.append(float(loss(outputs_with(module, inputs, inner_of(loss)), moved)))
    module.load_state_dict(before)
    module.train(mode)
    return sum(values) / max(len(values), 1)

"""A graph as a PyTorch module, gradients for criteria, and a small training loop (extra `[torch]`)."""

from __future__ import annotations

from prunegraph.errors import MissingExtraError

try:
    import torch  # noqa: F401
except ImportError as error:
    raise MissingExtraError("prunegraph.training", "torch", "torch") from error

from prunegraph.training import detection, gfr, iterative, joint  # noqa: F401  (register themselves)
from prunegraph.training.batches import Batches
from prunegraph.training.evaluate import measure
from prunegraph.training.fit import Callback, Run, TrainingConfig, fit
from prunegraph.training.gradients import TaskGradients
from prunegraph.training.losses import cross_entropy, distillation, mean_squared, own_labels
from prunegraph.training.methods import METHODS, TrainingOptions, TrainResult, train
from prunegraph.training.module import GraphModule
from prunegraph.training.qat import Phases, QuantizedModule
from prunegraph.training.sparse import Sparsify

__all__ = [
    "METHODS",
    "Batches",
    "Callback",
    "GraphModule",
    "Phases",
    "QuantizedModule",
    "Run",
    "Sparsify",
    "TaskGradients",
    "TrainResult",
    "TrainingConfig",
    "TrainingOptions",
    "cross_entropy",
    "distillation",
    "fit",
    "mean_squared",
    "measure",
    "own_labels",
    "train",
]

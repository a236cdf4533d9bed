"""What `prunegraph train` takes by default where it learns nothing but the outputs of `--original`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from prunegraph.options import base_name

if TYPE_CHECKING:
    from prunegraph.graph.model import Graph

#: The highest learning rate where nothing else is said.
LR = 0.01

#: Losses that ask for nothing but an original.
LOSSES = ("distill", "features")


@dataclass(frozen=True)
class DistillationDefaults:
    """How outputs of an original are learnt without labels.

    They are not learnt by heart as labels are, and few samples make few steps. An original has an answer to any
    picture, so that images may be blended and moved.

    Args:
        steps: as many are taken at least.
        lr: the highest learning rate, of sgd.
        losses: as `--loss`.
        mixup: as `--mixup`.
        augment: as `--augment`.
    """

    steps: int = 960
    lr: float = LR
    losses: tuple[str, ...] = ("distill",)
    mixup: float = 0.0
    augment: str = "none"


OUTPUTS = DistillationDefaults()
IMAGES = replace(OUTPUTS, mixup=1.0, augment="flip,shift")
#: Measured on five draws: see docs/training.md.
CLASSIFIERS = replace(
    IMAGES,
    steps=1920,
    lr=0.02,
    losses=("distill", "0.5*features"),
    augment="flip,shift,affine",
)


def only_distils(losses: Sequence[str]) -> bool:
    """Whether losses, as `--loss` takes them, ask for nothing but an original; none do not ask for more."""
    return all(base_name(loss.rpartition("*")[2]) in LOSSES for loss in losses)


def defaults_of(graph: Graph, original: Graph, method: str) -> DistillationDefaults:
    """The defaults for a graph that learns the outputs of its original by a method, as `--method` names it.

    What was measured for classifiers of images is for `plain` training, and its rate for networks with
    BatchNormalization: LeNet-5, which has none, ends at infinity with it.
    """
    from prunegraph.data.image_input import image_input
    from prunegraph.operators import is_batch_normalization
    from prunegraph.training.kinds import outputs_of_graph
    from prunegraph.training.matching import stage_ends

    if image_input(graph) is None:
        return OUTPUTS
    outputs = outputs_of_graph(original)
    are_classes = all(each.kind == "scores" and each.rank == 2 for each in outputs)
    is_plain = base_name(method) == "plain"
    if not is_plain or not are_classes or not stage_ends(graph, original):
        return IMAGES
    is_normalised = any(map(is_batch_normalization, graph.nodes))
    return CLASSIFIERS if is_normalised else replace(CLASSIFIERS, lr=LR)

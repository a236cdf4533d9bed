"""What benchmarks of detectors share: rendered scenes in memory, their augmentation, anchors, precision, a recipe."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from benchmarks.training.joint import FOLDER
from fixtures.scenes import scenes
from prunegraph.graph.model import Graph
from prunegraph.measuring.metrics import Seen, resolve
from prunegraph.runtime.data import LABELS, Data
from prunegraph.runtime.session import run, session
from prunegraph.training import TrainingConfig, TrainingOptions
from prunegraph.training.batches import Arrays
from prunegraph.training.tasks import LossContext, loss_of

Array = np.ndarray

#: Side of the scenes in pixels.
SIZE = 64

#: Width and height of nine boxes relative to the scene, small ones first: clusters of the boxes of 1,000 scenes.
SHAPES = (
    *((0.156, 0.359), (0.344, 0.188), (0.234, 0.328)),
    *((0.312, 0.359), (0.234, 0.500), (0.469, 0.266)),
    *((0.344, 0.453), (0.531, 0.406), (0.422, 0.531)),
)

RECIPE = TrainingConfig(
    epochs=1, lr=2e-3, optimizer="adamw", weight_decay=0.02, warmup=0.05, clip=10.0
)


def arrays(part: str, count: int, seed: int) -> dict[str, Array]:
    """Scenes as networks take them, `image` float32 in [0, 1]; kept in FOLDER: to draw them takes half a minute."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"scenes-{part}-{count}-{SIZE}-{seed}.npz"
    if not path.exists():
        beside = path.with_suffix(".part.npz")
        np.savez(beside, **scenes(part, count, SIZE, seed))
        beside.rename(path)
    with np.load(path) as stored:
        image, labels = stored["image"], stored[LABELS]
    return {"image": image.astype(np.float32) / 255, LABELS: labels}


def augment(batch: Arrays, rng: np.random.Generator) -> Arrays:
    """Mirrored images with their boxes, and colours in another order, one draw a sample."""
    images, labels = batch["image"], batch[LABELS].copy()
    count, channels, _, width = images.shape
    mirrored = rng.random(count) < 0.5
    left, right = labels[mirrored, :, 1], labels[mirrored, :, 3]
    labels[mirrored, :, 1], labels[mirrored, :, 3] = width - right, width - left
    images = np.where(mirrored[:, None, None, None], images[..., ::-1], images)
    order = rng.permuted(np.tile(np.arange(channels), (count, 1)), axis=1)
    return {**batch, "image": images[np.arange(count)[:, None], order], LABELS: labels}


def precision(graph: Graph, data: dict[str, Array], metric: str, size: int = 50) -> float:
    """A metric of a detector, which runs in ONNX Runtime."""
    opened = session(graph)

    def seen() -> Iterator[Seen]:
        for start in range(0, len(data["image"]), size):
            batch = {name: values[start : start + size] for name, values in data.items()}
            values = run(opened, {"image": batch["image"]})
            yield Seen(batch, {}, dict(zip(graph.outputs, values, strict=True)))

    return resolve(metric).measure(seen())


def options(
    losses: Sequence[str], context: LossContext, count: int, seed: int, name: str
) -> TrainingOptions:
    """How a network is trained on so many scenes for an epoch; more are set by who trains."""
    return TrainingOptions(
        data=Data.of(arrays("train", count, seed)),
        batch=32,
        loss=loss_of(losses, context),
        recipe=replace(RECIPE, seed=seed),
        augment=augment,
        checkpoint=FOLDER / f"{name}.pt",
        progress=told(name),
        journal=told_epoch,
    )


def told(title: str) -> Callable[[str], None]:
    return lambda stage: print(f"{title}: {stage}", file=sys.stderr, flush=True)


def told_epoch(record: Mapping[str, object]) -> None:
    print(dict(record), file=sys.stderr, flush=True)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table for a page."""
    print(f"| {' | '.join(columns)} |")
    print("|" + "--:|" * len(columns))
    for row in rows:
        print(f"| {' | '.join(row)} |")

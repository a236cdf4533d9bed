"""A detector through all of `joint`, on synthetic boxes: that it works end to end, not that it detects.

    python -m benchmarks.training detector

The baseline network of source 000 (MobileNetV2 with a YOLOv3 head, random weights) on small images, a few steps of each
stage, with a loss of its own; what comes out runs in integers in ONNX Runtime.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

import numpy as np
import onnxruntime
import torch
from torch.nn import functional

import prunegraph as pg
from benchmarks.training.joint import FOLDER
from fixtures.mobilenetv2_yolov3 import PREDICTIONS, build
from prunegraph.graph.model import Graph
from prunegraph.ops.cost import cost
from prunegraph.runtime.data import LABELS, Data
from prunegraph.runtime.session import run, session
from prunegraph.selection.budget import Budget
from prunegraph.training import GraphModule, TrainingConfig, TrainingOptions, train
from prunegraph.training.losses import Batch

Array = np.ndarray
Tensor = torch.Tensor

#: Side of the images, boxes in each, images.
SIZE, BOXES, COUNT = 96, 2, 32
CLASSES = PREDICTIONS // 3 - 5

#: Width and height of three anchors for each output, relative to the image; large ones first, as the outputs are.
ANCHORS = (
    ((0.28, 0.22), (0.38, 0.48), (0.90, 0.78)),
    ((0.07, 0.15), (0.15, 0.11), (0.14, 0.29)),
    ((0.02, 0.03), (0.04, 0.07), (0.08, 0.06)),
)

METHOD = "joint:strength=1e-2,params=0.6,repair=bn"


def scenes(count: int, seed: int) -> dict[str, Array]:
    """Images [n, 3, SIZE, SIZE] of bright boxes on noise, and `labels` [n, BOXES, 5]: centre, size (0 to 1), class."""
    rng = np.random.default_rng(seed)
    images = rng.normal(0, 0.1, (count, 3, SIZE, SIZE)).astype(np.float32)
    labels = np.zeros((count, BOXES, 5), np.float32)
    for image, boxes in zip(images, labels, strict=True):
        for box in boxes:
            size = rng.uniform(0.1, 0.5, 2)
            centre = rng.uniform(size / 2, 1 - size / 2)
            kind = rng.integers(CLASSES)
            (remaining, top), (right, bottom) = (
                ((centre + sign * size / 2) * SIZE).astype(int) for sign in (-1, 1)
            )
            image[:, top:bottom, remaining:right] += np.cos(kind + np.arange(3))[
                :, None, None
            ]
            box[:] = (*centre, *size, kind)
    return {"image": images, LABELS: labels}


def yolo_loss(outputs: Sequence[Tensor], batch: Batch) -> Tensor:
    """Squared error of places and sizes, cross entropy of objects and classes. Source: Redmon, Farhadi 2018.

    The anchor that fits a box best (of all outputs) answers for it, in the cell of its centre.
    """
    boxes = batch[LABELS]
    anchors = torch.tensor(ANCHORS, dtype=boxes.dtype, device=boxes.device).reshape(-1, 2)
    smaller = torch.minimum(boxes[..., None, 2:4], anchors).prod(-1)
    overlap = smaller / (boxes[..., None, 2:4].prod(-1) + anchors.prod(-1) - smaller)
    best = overlap.argmax(-1)
    return torch.stack(
        [_of_output(y, k, boxes, best, anchors) for k, y in enumerate(outputs)]
    ).sum()


def _of_output(y: Tensor, k: int, boxes: Tensor, best: Tensor, anchors: Tensor) -> Tensor:
    n, _, rows, columns = y.shape
    y = y.reshape(n, 3, 5 + CLASSES, rows, columns).permute(0, 1, 3, 4, 2)
    objects = torch.zeros_like(y[..., 4])
    image, which = torch.nonzero(best // 3 == k, as_tuple=True)
    mine, anchor = boxes[image, which], best[image, which]
    places = mine[:, :2] * torch.tensor([columns, rows], dtype=y.dtype, device=y.device)
    cells = places.long()
    at = (image, anchor % 3, cells[:, 1], cells[:, 0])
    objects[at] = 1.0
    loss = functional.binary_cross_entropy_with_logits(y[..., 4], objects)
    if len(image):
        result = y[at]
        loss = loss + functional.mse_loss(result[:, :2].sigmoid(), places - cells)
        loss = loss + functional.mse_loss(
            result[:, 2:4], (mine[:, 2:4] / anchors[anchor]).log()
        )
        loss = loss + functional.cross_entropy(result[:, 5:], mine[:, 4].long())
    return loss


def main() -> None:
    torch.set_num_threads(1)
    FOLDER.mkdir(parents=True, exist_ok=True)
    graph, start = pg.load(build(SIZE)), time.time()
    chosen = TrainingOptions(
        data=Data.of(scenes(COUNT, 0)),
        batch=8,
        loss=yolo_loss,
        recipe=TrainingConfig(epochs=2, lr=1e-3, clip=10.0),
        budget=Budget(macs=0.6),
        progress=lambda stage: print(stage, flush=True),
    )
    done = train(graph, chosen, METHOD)
    paths = [FOLDER / name for name in ("detector.onnx", "detector-int8.onnx")]
    for each, path in zip((graph, done.model), paths, strict=True):
        pg.save(each, path)
    remaining, before = next(r for r in done.history if r["stage"] == "prune"), cost(graph)
    for record in done.history:
        print(
            {
                key: round(value, 4) if isinstance(value, float) else value
                for key, value in record.items()
            }
        )
    print(
        f"left: {remaining['params'] / before.params:.1%} of the parameters, "
        f"{remaining['macs'] / before.macs:.1%} of the MACs; "
        f"file {os.path.getsize(paths[0]) / os.path.getsize(paths[1]):.1f} times smaller; "
        f"{sum(node.op == 'QuantizeLinear' for node in done.model.nodes)} QuantizeLinear; "
        f"{(time.time() - start) / 60:.1f} minutes"
    )
    compare(pg.load(paths[1]), scenes(8, 1)["image"])


def compare(graph: Graph, images: Array) -> None:
    """Outputs of three ways to run the quantized graph, and how many are a code apart at most.

    With random weights, differences of a code in the first layers grow on their way through seventy others; how much
    shows between ONNX Runtime's integers and its own floats.
    """
    with torch.no_grad():
        fake = [
            y.numpy() for y in GraphModule(graph).eval()(image=torch.from_numpy(images))
        ]
    integers = run(session(graph), {"image": images})
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    floats = onnxruntime.InferenceSession(graph.model.SerializeToString(), options).run(
        None, {"image": images}
    )
    for name, others in (("fake quantization", fake), ("ONNX Runtime in float", floats)):
        near = [
            np.abs(a - b) <= (b.max() - b.min()) / 255
            for a, b in zip(integers, others, strict=True)
        ]
        share = np.mean(np.concatenate([each.ravel() for each in near]))
        print(f"outputs in integers within a code of {name}: {share:.2%}")

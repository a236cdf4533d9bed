"""A detector by `joint`: at least 70 % of the parameters and 50 % of the MACs go, then 8-bit integers (source 000).

    python -m benchmarks.training detector [--seed 0] [--train 4000] [--test 1000]

MobileNetV2 with a YOLO v3 head, half as wide, is trained on rendered scenes (`fixtures/scenes.py`; 64 x 64 pixels, ten
classes), then made sparse, pruned, tuned and trained with quantization. The loss of these stages is that of the labels
beside the distance from the trained network's outputs. Mean average precision at an overlap of a half, on test scenes,
which choose nothing: they are only measured after every stage. Weights and epochs are kept in PRUNEGRAPH_TRAINED (by
default a folder for temporary files), and a run that was killed goes on there. One thread.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import torch

import prunegraph as pg
from benchmarks.scenes import SHAPES, SIZE, arrays, options, precision, table
from benchmarks.training.joint import FOLDER, last
from fixtures.mobilenetv2_yolov3 import build
from fixtures.scenes import CLASSES
from prunegraph.ops.cost import cost
from prunegraph.selection.budget import Budget
from prunegraph.training import GraphModule, measure, train
from prunegraph.training.tasks import LossContext

#: The network's width relative to the published one.
WIDTH = 0.5

#: Anchors of a map.
EACH = 3

#: Shares that may be left.
MACS, PARAMS = 0.5, 0.3

#: Epochs of the float network, of sparse training, tuning and quantization-aware training.
EPOCHS = (20, 2, 8, 2)

COLUMNS = (
    *("seed", "float", "sparse", "pruned", "tuned", "QAT", "integers"),
    *("params left", "MACs left", "file: times smaller", "minutes"),
)


def anchors() -> str:
    """Anchors in pixels as losses and metrics take them: three for each map, the finest map first."""
    spelt = [f"{SIZE * width:.1f}x{SIZE * height:.1f}" for width, height in SHAPES]
    return "/".join("+".join(spelt[i : i + EACH]) for i in range(0, len(spelt), EACH))


def trained(given: argparse.Namespace) -> Path:
    """The float network's file, trained unless that was done before."""
    path = FOLDER / f"detector-{SIZE}-{WIDTH:g}-{given.train}-{EPOCHS[0]}-{given.seed}.onnx"
    if not path.exists():
        graph = pg.load(build(SIZE, given.seed, width=WIDTH, classes=len(CLASSES)))
        loss = f"yolo_anchors:anchors={anchors()}"
        how = options([loss], LossContext(graph), given.train, given.seed, path.stem)
        recipe = replace(how.recipe, epochs=EPOCHS[0])
        pg.save(train(graph, replace(how, recipe=recipe)).model, path)
    return path


def row(given: argparse.Namespace) -> list[str]:
    """The row of the table."""
    start, path = time.time(), trained(given)
    graph = pg.load(path)
    _, sparse, tune, qat = EPOCHS
    method = (
        f"joint:sparse_epochs={sparse},tune_epochs={tune},qat_epochs={qat},params={PARAMS},"
        f"allocation={given.allocation},round_to=4,min_channels=4"
    )
    metric = f"map50:anchors={anchors()}"
    losses = [f"yolo_anchors:anchors={anchors()}", "distill"]
    context = LossContext(graph, GraphModule(graph))
    tests = arrays("t10k", given.test, given.seed)
    how = replace(
        options(losses, context, given.train, given.seed, f"{path.stem}-joint"),
        evaluate=measure(tests, graph, metric, size=50),
        budget=Budget(macs=MACS),
    )
    done = train(graph, how, method)
    small = path.with_name(f"{path.stem}-int8.onnx")
    pg.save(done.model, small)
    left = next(record for record in done.history if record["stage"] == "prune")
    before = cost(graph)
    stages = [f"{last(done, stage):.2f}" for stage in ("sparse", "prune", "tune", "qat")]
    return [
        str(given.seed),
        f"{precision(graph, tests, metric):.2f}",
        *stages,
        f"{precision(done.model, tests, metric):.2f}",
        f"{left['params'] / before.params:.1%}",
        f"{left['macs'] / before.macs:.1%}",
        f"{path.stat().st_size / small.stat().st_size:.1f}",
        f"{(time.time() - start) / 60:.0f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("benchmark", nargs="?", help="detector, where chosen by its name")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train", type=int, default=4000, help="scenes to train on")
    parser.add_argument("--test", type=int, default=1000, help="scenes to measure on")
    parser.add_argument("--allocation", default="uniform", help="of what is pruned")
    given = parser.parse_args()
    torch.set_num_threads(1)
    table(COLUMNS, [row(given)])


if __name__ == "__main__":
    main()

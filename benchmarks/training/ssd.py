"""A detector by source 004: layers lose weak filters or become of low rank (Tucker-2), and what is left is tuned.

    python -m benchmarks.training ssd [--seed 0] [--train 4000] [--test 1000]

A small SSD (six convolutions, two maps, 624 prior boxes) is trained on rendered scenes (`fixtures/scenes.py`; 64 x 64
pixels, ten classes), compressed by `prunegraph compress --method source-004` and trained on, with labels and towards
its own outputs before. Mean average precision at an overlap of a half on test scenes, which choose nothing; the file's
bytes, and latency in ONNX Runtime (batch 1, one thread, CPU time, pairs of sessions that run in turn). Weights are kept
in PRUNEGRAPH_TRAINED (by default a folder for temporary files). One thread.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import torch

import prunegraph as pg
from benchmarks.scenes import SHAPES, SIZE, arrays, options, precision, table
from benchmarks.training.joint import FOLDER
from fixtures.scenes import CLASSES
from prunegraph.graph.model import Graph
from prunegraph.measuring.latency import Stopwatch
from prunegraph.training import GraphModule, train
from prunegraph.training.tasks import LossContext
from tests.builders import Builder

Array = np.ndarray

#: Widths of the convolutions; the last two make the maps.
WIDTHS = (16, 32, 64, 128, 256, 256)

#: Places of both maps, and which of `SHAPES` stand at each of them.
MAPS = ((8, slice(0, 9)), (4, slice(6, 9)))

#: Epochs of the network, and of tuning.
EPOCHS = (10, 15)

#: Share of the parameters that may be left.
PARAMS = 0.46

#: Pairs of sessions of a latency.
PAIRS = 8

COLUMNS = (
    *("seed", "float", "compressed", "tuned", "params left"),
    *("file left", "times as fast", "layers: low rank, pruned, kept", "minutes"),
)


def priors() -> Array:
    """Prior boxes in pixels, float32 [priors, 4]: centre, width, height; map by map, place by place."""
    boxes = []
    for places, chosen in MAPS:
        centres = (np.arange(places) + 0.5) * SIZE / places
        for y in centres:
            for x in centres:
                boxes += [(x, y, SIZE * w, SIZE * h) for w, h in SHAPES[chosen]]
    return np.array(boxes, np.float32)


class _Net(Builder):
    def layer(self, x: str, cin: int, cout: int, stride: int, name: str) -> str:
        y = self.conv(x, cin, cout, bias=False, strides=[stride] * 2, name=name)
        return self.relu(self.bn(y, cout))

    def pool(self, x: str) -> str:
        return self.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])

    def head(self, x: str, cin: int, each: int, columns: int, name: str) -> str:
        """What a map says of its priors [n, priors, columns]."""
        y = self.conv(x, cin, each * columns, name=name)
        last = self.op("Transpose", y, perm=[0, 2, 3, 1])
        return self.op("Reshape", last, self.const([0, -1, columns], np.int64))


def build(seed: int = 0) -> onnx.ModelProto:
    """The network with random weights; outputs are `offsets` [n, priors, 4] and `scores` [n, priors, 1 + classes]."""
    net = _Net(seed)
    x = net.layer(net.input("batch", 3, SIZE, SIZE, name="image"), 3, WIDTHS[0], 2, "conv1")
    x = net.pool(net.layer(x, WIDTHS[0], WIDTHS[1], 1, "conv2"))
    x = net.pool(net.layer(x, WIDTHS[1], WIDTHS[2], 1, "conv3"))
    x = net.layer(x, WIDTHS[2], WIDTHS[3], 1, "conv4")
    fine = net.layer(x, WIDTHS[3], WIDTHS[4], 1, "conv5")
    coarse = net.layer(fine, WIDTHS[4], WIDTHS[5], 2, "conv6")
    outputs = []
    for title, columns in (("offsets", 4), ("scores", 1 + len(CLASSES))):
        parts = []
        for index, (x, cin) in enumerate(((fine, WIDTHS[4]), (coarse, WIDTHS[5]))):
            each = len(SHAPES[MAPS[index][1]])
            parts.append(net.head(x, cin, each, columns, f"{title}{index + 1}"))
        outputs.append(net.op("Concat", *parts, axis=1, name=title))
    return net.model(*outputs)


def trained(given: argparse.Namespace, loss: str) -> Path:
    """The float network's file, trained unless that was done before."""
    path = FOLDER / f"ssd-{SIZE}-{given.train}-{EPOCHS[0]}-{given.seed}.onnx"
    if not path.exists():
        graph = pg.load(build(given.seed))
        how = options([loss], LossContext(graph), given.train, given.seed, path.stem)
        recipe = replace(how.recipe, epochs=EPOCHS[0])
        pg.save(train(graph, replace(how, recipe=recipe)).model, path)
    return path


def compressed(graph: Graph, given: argparse.Namespace) -> pg.CompressResult:
    return pg.compress(
        graph,
        method="source-004",
        cluster=given.cluster,
        params=PARAMS,
        data={"image": arrays("train", given.train, given.seed)["image"][:256]},
    )


def row(given: argparse.Namespace) -> list[str]:
    """The row of the table."""
    start = time.time()
    FOLDER.mkdir(parents=True, exist_ok=True)
    boxes = FOLDER / f"ssd-priors-{SIZE}.npy"
    np.save(boxes, priors())
    loss, metric = f"ssd:priors={boxes}", f"map50:priors={boxes}"
    path = trained(given, loss)
    graph, tests = pg.load(path), arrays("t10k", given.test, given.seed)
    result = compressed(graph, given)
    context = LossContext(graph, GraphModule(graph))
    name = f"{path.stem}-{given.cluster}-{PARAMS}-{EPOCHS[1]}"
    how = options([loss, "distill"], context, given.train, given.seed, name)
    recipe = replace(how.recipe, epochs=EPOCHS[1])
    tuned = train(result.model, replace(how, recipe=recipe)).model
    small = path.with_name(f"{path.stem}-small.onnx")
    pg.save(tuned, small)
    actions = [layer.action for layer in result.layers]
    counts = [sum("decompose" in a for a in actions), actions.count("prune")]
    return [
        str(given.seed),
        *(f"{precision(each, tests, metric):.2f}" for each in (graph, result.model, tuned)),
        f"{result.after.params / result.before.params:.1%}",
        f"{small.stat().st_size / path.stat().st_size:.1%}",
        f"{1 / Stopwatch(graph).against(tuned, PAIRS).kept:.2f}",
        f"{counts[0]}, {counts[1]}, {actions.count('keep')}",
        f"{(time.time() - start) / 60:.0f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("benchmark", nargs="?", help="ssd, where chosen by its name")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train", type=int, default=4000, help="scenes to train on")
    parser.add_argument("--test", type=int, default=1000, help="scenes to measure on")
    parser.add_argument("--cluster", choices=["robust", "paper"], default="paper")
    given = parser.parse_args()
    torch.set_num_threads(1)
    table(COLUMNS, [row(given)])


if __name__ == "__main__":
    main()
